//! What this client knows of its own attempts, and who of them is next: first come, first served within
//! one process, so that a process asks once for each lock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portunus_core::backend::{Attempt, AttemptId, SessionId};
use portunus_core::name::LockName;
use tokio::sync::Notify;

use crate::doubts::Doubts;

/// The attempts of all sessions of one client.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<AttemptId, Own>,
    /// Those who wait in this process, in the order in which they came.
    lines: HashMap<LockName, BTreeMap<u64, AttemptId>>,
    came: u64,
}

/// What is known of one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) session: SessionId,
    pub(crate) name: LockName,
    /// The last round; the rounds before it are over.
    pub(crate) round: u64,
    /// The round that was granted.
    pub(crate) granted: Option<(u64, u64)>,
    /// Its position in the store; 0 before it has one.
    pub(crate) position: u64,
    /// What was sent for it and is not answered.
    pub(crate) doubts: Arc<Doubts>,
    /// Whether the last round ended without a winner.
    pub(crate) is_split: bool,
    /// How many looks it owes since its session was opened again on a server, where its entry does not stand any
    /// more: one finds that out, and the next one stands there.
    pub(crate) strays: u8,
    /// Whether a server said that it is evicted.
    pub(crate) is_barred: bool,
    /// Whether it was told to leave: it stands in no line again.
    has_left: bool,
    /// Whether somebody said that its entry is gone.
    pub(crate) is_gone: bool,
    /// How many changes of publish were asked for.
    pub(crate) serial: u64,
    /// The round that a renewal found on no majority before it was granted.
    missed: u64,
    /// Whether the last renewal that a majority confirmed was repeated for it: it left open whether it stands.
    is_unsettled: bool,
    /// Whether a round is under way, which may have taken the lock without anybody knowing it yet.
    contends: bool,
    /// Its number in the line of this process.
    came: Option<u64>,
    /// Rings when it is next, when its entry is gone, and when its lock may be free.
    pub(crate) bell: Arc<Notify>,
}

impl Attempts {
    /// Begins a round of an attempt; over one server there is only one, for its token is its own.
    pub(crate) fn begin(&self, session: SessionId, attempt: &Attempt, nodes: usize) -> Own {
        let mut table = self.table();
        let own = table.by_id.entry(attempt.id).or_insert_with(|| Own {
            session,
            name: attempt.name.clone(),
            round: 0,
            granted: None,
            position: 0,
            doubts: Doubts::new(nodes),
            is_split: false,
            strays: 0,
            is_barred: false,
            has_left: false,
            is_gone: false,
            serial: 0,
            missed: 0,
            is_unsettled: false,
            contends: false,
            came: None,
            bell: Arc::default(),
        });
        own.round = if nodes == 1 { 1 } else { own.round + 1 };
        own.contends = true;
        own.clone()
    }

    pub(crate) fn get(&self, attempt: AttemptId) -> Option<Own> {
        self.table().by_id.get(&attempt).cloned()
    }

    pub(crate) fn change<T>(
        &self,
        attempt: AttemptId,
        change: impl FnOnce(&mut Own) -> T,
    ) -> Option<T> {
        self.table().by_id.get_mut(&attempt).map(change)
    }

    /// Ends a round with a grant, unless somebody said meanwhile that the entry is gone, or a renewal missed it,
    /// which moved the session's deadline beyond it.
    pub(crate) fn grant(&self, attempt: AttemptId, round: u64, token: u64, position: u64) -> bool {
        let mut table = self.table();
        let stands = |own: &&mut Own| own.missed != round && !own.is_gone;
        let Some(own) = table.by_id.get_mut(&attempt).filter(stands) else {
            return false;
        };
        (own.granted, own.position) = (Some((round, token)), position);
        table.step_out(attempt);
        true
    }

    /// Notes that a renewal did not extend a round; says whether it was granted meanwhile.
    pub(crate) fn miss(&self, attempt: AttemptId, round: u64) -> bool {
        let mut table = self.table();
        let Some(own) = table.by_id.get_mut(&attempt) else { return false };
        own.missed = round;
        own.granted.is_some_and(|(granted, _)| granted == round)
    }

    /// Takes the rounds of which a renewal left open whether they stand. Says whether it is to be repeated: one of
    /// them was granted, and it is not the repetition of another, which have to come to an end together.
    pub(crate) fn unsettle(&self, session: SessionId, open: &HashSet<(AttemptId, u64)>) -> bool {
        let mut table = self.table();
        let own = |(_, own): &(&AttemptId, &mut Own)| own.session == session;
        let was_open = table.by_id.iter_mut().filter(own).any(|(_, own)| own.is_unsettled);
        let mut repeats = false;
        for (id, own) in table.by_id.iter_mut().filter(own) {
            let is_open = own.granted.is_some_and(|(round, _)| open.contains(&(*id, round)));
            own.is_unsettled = is_open && !was_open;
            repeats |= own.is_unsettled;
        }
        repeats
    }

    /// Ends a round without one: puts the attempt at the end of its line, if it is in none.
    pub(crate) fn wait(&self, attempt: AttemptId, position: u64) {
        let mut table = self.table();
        let came = table.came;
        let Some(own) = table.by_id.get_mut(&attempt) else { return };
        (own.contends, own.position) = (false, position);
        if own.came.is_some() || own.has_left {
            return;
        }
        own.came = Some(came);
        let name = own.name.clone();
        table.came += 1;
        table.lines.entry(name).or_default().insert(came, attempt);
    }

    /// Whether nobody of its session waits before this attempt. Another session of this process may be
    /// over without anybody having said so.
    pub(crate) fn is_next(&self, session: SessionId, attempt: &Attempt) -> bool {
        let table = self.table();
        table.first(session, &attempt.name).is_none_or(|first| first == attempt.id)
    }

    /// Who of its session waits right before this attempt.
    pub(crate) fn before(&self, attempt: AttemptId, name: &LockName) -> Option<AttemptId> {
        let table = self.table();
        let own = table.by_id.get(&attempt)?;
        let mut before = table.lines.get(name)?.range(..own.came?).rev().map(|(_, before)| *before);
        before.find(|before| table.is_of(*before, own.session))
    }

    /// Lets the one behind an attempt go on: it does not wait any more, whatever becomes of its entry.
    pub(crate) fn step_out(&self, attempt: AttemptId) {
        let mut table = self.table();
        table.step_out(attempt);
        if let Some(own) = table.by_id.get_mut(&attempt) {
            own.has_left = true;
        }
    }

    /// Whether an attempt was not told to leave.
    pub(crate) fn stays(&self, attempt: AttemptId) -> bool {
        self.table().by_id.get(&attempt).is_some_and(|own| !own.has_left)
    }

    /// Forgets an attempt.
    pub(crate) fn forget(&self, attempt: AttemptId) {
        let mut table = self.table();
        table.step_out(attempt);
        table.by_id.remove(&attempt);
    }

    /// Forgets a session's attempts.
    pub(crate) fn forget_all(&self, session: SessionId) {
        let mut table = self.table();
        let all: Vec<_> = table
            .by_id
            .iter()
            .filter(|(_, own)| own.session == session)
            .map(|(id, _)| *id)
            .collect();
        for attempt in all {
            table.step_out(attempt);
            if let Some(own) = table.by_id.remove(&attempt) {
                own.bell.notify_waiters();
            }
        }
    }

    /// Marks an attempt whose entry somebody else removed, and wakes who waits for that.
    pub(crate) fn gone(&self, attempt: AttemptId) {
        let mut table = self.table();
        table.step_out(attempt);
        if let Some(own) = table.by_id.get_mut(&attempt) {
            own.is_gone = true;
            own.bell.notify_waiters();
        }
    }

    /// Wakes the first of each session in a lock's line: the lock may be free.
    pub(crate) fn wake_next(&self, name: &LockName) {
        let table = self.table();
        let mut woken = HashSet::new();
        for own in table.lines.get(name).into_iter().flat_map(BTreeMap::values) {
            let Some(own) = table.by_id.get(own) else { continue };
            if woken.insert(own.session) {
                own.bell.notify_waiters();
            }
        }
    }

    /// Has all who wait of a session look: it was opened again on a server, which knows none of them.
    pub(crate) fn stray(&self, session: SessionId) {
        let mut table = self.table();
        let waits = |own: &&mut Own| own.session == session && own.granted.is_none();
        for own in table.by_id.values_mut().filter(waits) {
            own.strays = 2;
            own.bell.notify_waiters();
        }
    }

    /// Wakes all: something may have been missed.
    pub(crate) fn wake_all(&self) {
        self.table().by_id.values().for_each(|own| own.bell.notify_waiters());
    }

    /// The attempts of a session that have or may get a grant that is not told to the engine yet. Not those
    /// that leave: what can't be withdrawn expires.
    pub(crate) fn under_way(
        &self,
        session: SessionId,
        but: &HashSet<AttemptId>,
    ) -> Vec<(AttemptId, Own)> {
        let table = self.table();
        let of = |(id, own): &(&AttemptId, &Own)| {
            let may_hold = own.contends && !own.is_gone && !own.has_left;
            own.session == session && may_hold && !but.contains(id)
        };
        table.by_id.iter().filter(of).map(|(id, own)| (*id, own.clone())).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Who of a session is first in a line.
    fn first(&self, session: SessionId, name: &LockName) -> Option<AttemptId> {
        let mut line = self.lines.get(name)?.values().copied();
        line.find(|attempt| self.is_of(*attempt, session))
    }

    fn is_of(&self, attempt: AttemptId, session: SessionId) -> bool {
        self.by_id.get(&attempt).is_some_and(|own| own.session == session)
    }

    /// Takes an attempt that waits no more out of its line, and wakes the one behind it.
    fn step_out(&mut self, attempt: AttemptId) {
        let Some(own) = self.by_id.get_mut(&attempt) else { return };
        let (Some(came), name, session) = (own.came.take(), own.name.clone(), own.session) else {
            return;
        };
        let was_first = self.first(session, &name) == Some(attempt);
        let Some(line) = self.lines.get_mut(&name) else { return };
        line.remove(&came);
        if line.is_empty() {
            self.lines.remove(&name);
        }
        let next = self.first(session, &name).filter(|_| was_first);
        if let Some(own) = next.and_then(|next| self.by_id.get(&next)) {
            own.bell.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_core::backend::Mode;

    fn begun(attempts: &Attempts, session: SessionId, nodes: usize) -> Attempt {
        let attempt = Attempt {
            id: AttemptId(rand::random()),
            name: LockName::new("a").unwrap(),
            mode: Mode::Exclusive,
            try_only: false,
            value: String::new(),
            holder: Arc::default(),
        };
        attempts.begin(session, &attempt, nodes);
        attempt
    }

    #[tokio::test]
    async fn who_leaves_lets_the_next_one_go_on_at_once() {
        let (attempts, session) = (Attempts::default(), SessionId(1));
        let [first, second] = [(); 2].map(|()| begun(&attempts, session, 1));
        attempts.wait(first.id, 1);
        attempts.wait(second.id, 2);
        assert!(!attempts.is_next(session, &second));
        let bell = attempts.get(second.id).unwrap().bell;
        let mut rung = std::pin::pin!(bell.notified());
        rung.as_mut().enable();
        // The store has not confirmed yet that it left.
        attempts.step_out(first.id);
        rung.await;
        assert!(attempts.is_next(session, &second));
        // A round of it that ends only now does not bring it back.
        attempts.wait(first.id, 1);
        assert!(attempts.is_next(session, &second));
    }

    #[test]
    fn what_is_gone_or_was_missed_is_not_granted() {
        let (attempts, session) = (Attempts::default(), SessionId(1));
        let evicted = begun(&attempts, session, 3);
        attempts.gone(evicted.id);
        assert!(!attempts.grant(evicted.id, 1, 7, 7));
        let missed = begun(&attempts, session, 3);
        attempts.miss(missed.id, 1);
        assert!(!attempts.grant(missed.id, 1, 7, 7));
        assert_eq!(attempts.begin(session, &missed, 3).round, 2);
        assert!(attempts.grant(missed.id, 2, 7, 7));
    }

    #[test]
    fn a_renewal_is_repeated_once_whatever_it_left_open() {
        let (attempts, session) = (Attempts::default(), SessionId(1));
        let [one, other] = [(); 2].map(|()| begun(&attempts, session, 3).id);
        let open = |attempts: &Attempts, id| attempts.unsettle(session, &HashSet::from([(id, 1)]));
        assert!(!open(&attempts, one), "it was not granted");
        assert!(attempts.grant(one, 1, 7, 7) && attempts.grant(other, 1, 8, 8));
        assert!(open(&attempts, one));
        assert!(!open(&attempts, other), "the session waits for the two in turn");
        assert!(open(&attempts, other));
    }

    #[test]
    fn who_leaves_is_renewed_no_more() {
        let (attempts, session, none) = (Attempts::default(), SessionId(1), HashSet::default());
        let granted = begun(&attempts, session, 3);
        assert!(attempts.grant(granted.id, 1, 7, 7));
        // The engine holds it from some later moment on.
        assert_eq!(attempts.under_way(session, &none).len(), 1);
        attempts.step_out(granted.id);
        assert!(attempts.under_way(session, &none).is_empty());
    }
}
