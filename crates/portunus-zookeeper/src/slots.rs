//! What the attempts of this process have in the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portunus_core::backend::{Attempt, AttemptId, EntryId, SessionId};

/// The attempts that entered and have not left.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<HashMap<AttemptId, Slot>>);

#[derive(Debug)]
struct Slot {
    session: SessionId,
    state: Entering,
}

/// An attempt's node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Own {
    pub(crate) entry: EntryId,
    /// The zxid in which it was created: the token.
    pub(crate) token: u64,
}

/// What is known of an attempt that enters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Entering {
    /// No request was sent before.
    First,
    /// A request was sent, and it is not known what became of it.
    InDoubt,
    /// It has its node.
    Done(Own),
    /// It left in doubt, and has no node for ever.
    Withdrawn,
}

impl Slots {
    /// Begins to enter: from here on the attempt is in doubt.
    pub(crate) fn begin(&self, session: SessionId, attempt: &Attempt) -> Entering {
        let mut slots = self.slots();
        match slots.get(&attempt.id) {
            Some(slot) => slot.state.clone(),
            None => {
                slots.insert(attempt.id, Slot { session, state: Entering::InDoubt });
                Entering::First
            }
        }
    }

    /// Ends the doubt: the attempt has a node.
    pub(crate) fn done(&self, session: SessionId, attempt: &Attempt, own: Own) {
        self.slots().insert(attempt.id, Slot { session, state: Entering::Done(own) });
    }

    /// The attempt's node, if it is known.
    pub(crate) fn own(&self, attempt: AttemptId) -> Option<Own> {
        match &self.slots().get(&attempt)?.state {
            Entering::Done(own) => Some(own.clone()),
            _ => None,
        }
    }

    /// Ends the doubt: the attempt that left is never to enter again. Remembered until the session
    /// closes, which the engine sees to when there are many.
    pub(crate) fn withdraw(&self, session: SessionId, attempt: &Attempt) {
        self.slots().insert(attempt.id, Slot { session, state: Entering::Withdrawn });
    }

    /// Ends the doubt: there is no node, and no request that could still create one.
    pub(crate) fn end(&self, attempt: AttemptId) {
        self.slots().remove(&attempt);
    }

    /// Forgets a session, whose nodes are gone.
    pub(crate) fn close(&self, session: SessionId) {
        self.slots().retain(|_, slot| slot.session != session);
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<AttemptId, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Own {
    pub(crate) fn new(path: impl Into<Arc<str>>, position: u64, token: u64) -> Self {
        Self { entry: EntryId { key: path.into(), position }, token }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_core::backend::{Holder, Mode};
    use portunus_core::name::LockName;

    #[test]
    fn an_attempt_is_in_doubt_until_its_node_is_known_or_certainly_absent() {
        let slots = Slots::default();
        let attempt = Attempt {
            id: AttemptId(1),
            name: LockName::new("a").unwrap(),
            mode: Mode::Exclusive,
            try_only: false,
            value: String::new(),
            holder: Arc::new(Holder::default()),
        };
        let (session, own) = (SessionId(1), Own::new("/p/a/lock-0000000001", 1, 9));
        assert_eq!(slots.begin(session, &attempt), Entering::First);
        assert_eq!(slots.begin(session, &attempt), Entering::InDoubt);
        slots.end(attempt.id);
        assert_eq!(slots.begin(session, &attempt), Entering::First);
        slots.done(session, &attempt, own.clone());
        assert_eq!(slots.begin(session, &attempt), Entering::Done(own.clone()));
        slots.withdraw(session, &attempt);
        assert_eq!(slots.begin(session, &attempt), Entering::Withdrawn);
        slots.done(session, &attempt, own);
        slots.close(SessionId(2));
        assert!(slots.own(attempt.id).is_some());
        slots.close(session);
        assert_eq!(slots.own(attempt.id), None);
    }
}
