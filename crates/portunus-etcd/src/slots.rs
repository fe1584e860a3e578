//! Which key an attempt uses: few keys, used again and again.
//!
//! The server's index keeps every key that ever was until it is compacted, and a read of a lock's
//! queue walks over them all: with a key of its own for each attempt, a lock slows down with each
//! acquisition (measured: 12,000 dead keys made an acquisition four times as slow). A number is
//! used again only after an attempt that left without any doubt; otherwise a request that arrives
//! late could touch the next one's entry.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use portunus_core::backend::{Attempt, AttemptId, SessionId};
use portunus_core::name::LockName;

/// The numbers in use, of all sessions of this backend.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    attempts: HashMap<AttemptId, Slot>,
    /// The numbers taken, in order.
    locks: HashMap<(SessionId, LockName), Vec<u32>>,
}

#[derive(Debug)]
struct Slot {
    session: SessionId,
    number: u32,
    entered: bool,
    /// A request of the attempt was sent again, so the first may still be under way.
    repeated: bool,
}

impl Slots {
    /// Returns the attempt's number, and whether it is asked for the first time.
    pub(crate) fn enter(&self, session: SessionId, attempt: &Attempt) -> (u32, bool) {
        let state = &mut *self.state();
        let slot = state.attempts.entry(attempt.id).or_insert_with(|| {
            let taken = state.locks.entry((session, attempt.name.clone())).or_default();
            let number = (0..).zip(&*taken).find(|(n, used)| n != *used).map(|(n, _)| n);
            let number = number.unwrap_or_else(|| u32::try_from(taken.len()).unwrap_or(u32::MAX));
            if taken.is_empty() {
                taken.reserve_exact(1);
            }
            let at = taken.binary_search(&number).unwrap_or_else(|at| at);
            taken.insert(at, number);
            Slot { session, number, entered: false, repeated: false }
        });
        let first = !std::mem::replace(&mut slot.entered, true);
        slot.repeated |= !first;
        (slot.number, first)
    }

    /// Returns the attempt's number if it has one, and whether no request was sent twice.
    pub(crate) fn leave(&self, attempt: AttemptId) -> Option<(u32, bool)> {
        let mut state = self.state();
        let slot = state.attempts.get_mut(&attempt)?;
        let clean = !std::mem::replace(&mut slot.repeated, true);
        Some((slot.number, clean))
    }

    /// Forgets the attempt; its number is used again if it is `clean`.
    pub(crate) fn end(&self, session: SessionId, attempt: &Attempt, clean: bool) {
        let state = &mut *self.state();
        let Some(slot) = state.attempts.remove(&attempt.id) else { return };
        if !clean {
            return;
        }
        let lock = (session, attempt.name.clone());
        if let Some(taken) = state.locks.get_mut(&lock) {
            taken.retain(|number| *number != slot.number);
            if taken.is_empty() {
                state.locks.remove(&lock);
            }
        }
    }

    /// Forgets a session: nothing can be put under its lease any more.
    pub(crate) fn close(&self, session: SessionId) {
        let mut state = self.state();
        state.locks.retain(|(owner, _), _| *owner != session);
        state.attempts.retain(|_, slot| slot.session != session);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_core::backend::{Holder, Mode};
    use std::sync::Arc;

    const SESSION: SessionId = SessionId(1);

    fn attempt(id: u128) -> Attempt {
        Attempt {
            id: AttemptId(id),
            name: LockName::new("a").unwrap(),
            mode: Mode::Exclusive,
            try_only: false,
            value: String::new(),
            holder: Arc::new(Holder::default()),
        }
    }

    #[test]
    fn a_number_is_used_again_only_after_a_clean_end() {
        let slots = Slots::default();
        let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(attempt);
        assert_eq!(slots.enter(SESSION, &a), (0, true));
        assert_eq!(slots.enter(SESSION, &a), (0, false));
        assert_eq!(slots.enter(SESSION, &b), (1, true));
        assert_eq!(slots.leave(a.id), Some((0, false)), "it entered twice");
        assert_eq!(slots.leave(b.id), Some((1, true)));
        assert_eq!(slots.leave(b.id), Some((1, false)), "it left twice");
        slots.end(SESSION, &a, true);
        assert_eq!(slots.leave(a.id), None);
        assert_eq!(slots.enter(SESSION, &c), (0, true));
        slots.end(SESSION, &c, false);
        assert_eq!(slots.enter(SESSION, &d), (2, true));
        slots.end(SESSION, &b, true);
        assert_eq!(slots.enter(SESSION, &e), (1, true));
        slots.close(SESSION);
        assert!(slots.state().locks.is_empty());
    }

    #[test]
    fn nothing_is_kept_of_attempts_that_ended() {
        let slots = Slots::default();
        for id in 0..100 {
            assert_eq!(slots.enter(SESSION, &attempt(id)), (0, true));
            slots.end(SESSION, &attempt(id), true);
        }
        assert!(slots.state().locks.is_empty() && slots.state().attempts.is_empty());
    }
}
