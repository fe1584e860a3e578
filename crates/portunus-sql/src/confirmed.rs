//! The beats of this process's own sessions: nobody else raises them, so one that is lower than before
//! is of a database that was put back from a copy.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use portunus_core::backend::SessionId;

/// The last beat of each of our sessions that was confirmed.
#[derive(Debug, Default)]
pub(crate) struct Confirmed(Mutex<HashMap<SessionId, u64>>);

impl Confirmed {
    /// Whether a session of ours, whose beat was just raised to `beat`, had an earlier one before than
    /// the last that was confirmed.
    pub(crate) fn is_old(&self, session: SessionId, beat: u64) -> bool {
        self.beats().get(&session).is_some_and(|confirmed| beat <= *confirmed)
    }

    pub(crate) fn insert(&self, session: SessionId, beat: u64) {
        self.beats().insert(session, beat);
    }

    pub(crate) fn forget(&self, session: SessionId) {
        self.beats().remove(&session);
    }

    fn beats(&self) -> MutexGuard<'_, HashMap<SessionId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
