//! A connection that answers nothing, though nobody waits long enough for one answer to find out.
//!
//! The engine gives a request up much earlier than the client gives the connection up. The next request
//! would take the same connection, until the kernel ends it after a quarter of an hour.

use std::sync::{Mutex, MutexGuard, PoisonError};

use portunus_core::clock::Moment;

/// Since when nothing was answered, if a request was given up since.
#[derive(Debug, Default)]
pub(crate) struct Silence(Mutex<Option<Moment>>);

/// A request that is waited for; dropped without an answer, it was given up.
#[derive(Debug)]
pub(crate) struct Awaited<'a> {
    silence: &'a Silence,
    sent: Moment,
    is_answered: bool,
}

impl Silence {
    pub(crate) fn await_from(&self, sent: Moment) -> Awaited<'_> {
        Awaited { silence: self, sent, is_answered: false }
    }

    /// When the first request was sent of those that were given up since the last answer.
    pub(crate) fn since(&self) -> Option<Moment> {
        *self.slot()
    }

    fn slot(&self) -> MutexGuard<'_, Option<Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Awaited<'_> {
    pub(crate) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut since = self.silence.slot();
        if self.is_answered {
            *since = None;
        } else {
            since.get_or_insert(self.sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_lasts_from_the_first_request_that_was_given_up_until_an_answer() {
        let (silence, at) = (Silence::default(), Moment::from_nanos);
        silence.await_from(at(1)).answered();
        assert_eq!(silence.since(), None);
        drop(silence.await_from(at(2)));
        drop(silence.await_from(at(3)));
        assert_eq!(silence.since(), Some(at(2)));
        silence.await_from(at(4)).answered();
        assert_eq!(silence.since(), None);
    }
}
