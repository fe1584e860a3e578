//! What this client knows of its own attempts, and who of them is next: first come, first served within
//! one process, so that a process asks once for each lock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portunus_core::backend::{Attempt, AttemptId, SessionId};
use portunus_core::name::LockName;
use tokio::sync::Notify;

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
    /// Whether a request of it may still be on its way.
    pub(crate) in_doubt: bool,
    /// Whether the last round ended without a winner.
    pub(crate) is_split: bool,
    /// Whether somebody said that its entry is gone.
    pub(crate) is_gone: bool,
    /// How many changes of publish were asked for.
    pub(crate) serial: u64,
    /// How many connections there had been when its first request was sent.
    pub(crate) connections: u64,
    /// The round that a renewal found on no majority before it was granted.
    missed: u64,
    /// Whether a round is under way, which may have taken the lock without anybody knowing it yet.
    contends: bool,
    /// Its number in the line of this process.
    came: Option<u64>,
    /// Rings when it is next, when its entry is gone, and when its lock may be free.
    pub(crate) bell: Arc<Notify>,
}

impl Attempts {
    /// Begins a round of an attempt; over one server there is only one, for its token is its own.
    pub(crate) fn begin(
        &self,
        session: SessionId,
        attempt: &Attempt,
        is_one: bool,
        connections: u64,
    ) -> Own {
        let mut table = self.table();
        let own = table.by_id.entry(attempt.id).or_insert_with(|| Own {
            session,
            name: attempt.name.clone(),
            round: 0,
            granted: None,
            position: 0,
            in_doubt: false,
            is_split: false,
            is_gone: false,
            serial: 0,
            connections,
            missed: 0,
            contends: false,
            came: None,
            bell: Arc::default(),
        });
        own.round = if is_one { 1 } else { own.round + 1 };
        own.contends = true;
        let begun = own.clone();
        // Until its end is known.
        own.in_doubt = true;
        begun
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

    /// Ends a round with a grant, unless a renewal missed it, which moved the session's deadline beyond it.
    pub(crate) fn grant(&self, attempt: AttemptId, round: u64, token: u64, position: u64) -> bool {
        let mut table = self.table();
        let Some(own) = table.by_id.get_mut(&attempt).filter(|own| own.missed != round) else {
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

    /// Ends a round without one: puts the attempt at the end of its line, if it is in none.
    pub(crate) fn wait(&self, attempt: AttemptId, position: u64) {
        let mut table = self.table();
        let came = table.came;
        let Some(own) = table.by_id.get_mut(&attempt) else { return };
        (own.contends, own.position) = (false, position);
        if own.came.is_some() {
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

    /// Wakes all: something may have been missed.
    pub(crate) fn wake_all(&self) {
        self.table().by_id.values().for_each(|own| own.bell.notify_waiters());
    }

    /// The attempts of a session that have or may get a grant that is not told to the engine yet.
    pub(crate) fn under_way(
        &self,
        session: SessionId,
        but: &HashSet<AttemptId>,
    ) -> Vec<(AttemptId, Own)> {
        let table = self.table();
        let of = |(id, own): &(&AttemptId, &Own)| {
            own.session == session && own.contends && !own.is_gone && !but.contains(id)
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
