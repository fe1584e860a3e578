//! Whether an attempt has something to clean up, and who does it.
//!
//! Armed before the first request leaves. Of all who would clean up (release, drop, the end of
//! `max_hold`) exactly one wins, and it learns whether a request may still be under way.

use crate::sync::{AtomicU8, Ordering};

/// The state of one attempt's clean-up.
#[derive(Debug)]
pub(crate) struct Armed(AtomicU8);

/// What [`Armed::disarm`] leaves to its caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Duty {
    /// Somebody else has it.
    Taken,
    /// Nothing was ever sent, or nothing of it was applied.
    Nothing,
    /// The attempt has to leave; `in_doubt` when a request of it may still be under way.
    Leave {
        /// Whether a request once went unanswered.
        in_doubt: bool,
    },
}

impl Armed {
    /// Nothing was sent yet.
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    /// A creating request is about to leave.
    pub(crate) fn sending(&self) {
        self.0.fetch_or(IN_FLIGHT, Ordering::AcqRel);
    }

    /// It was answered: the store may hold an entry, and nothing of this request is under way.
    pub(crate) fn answered(&self) {
        self.0.fetch_or(ENTERED, Ordering::AcqRel);
        self.0.fetch_and(!IN_FLIGHT, Ordering::AcqRel);
    }

    /// It was certainly not applied.
    pub(crate) fn not_applied(&self) {
        self.0.fetch_and(!IN_FLIGHT, Ordering::AcqRel);
    }

    /// It went unanswered and may arrive at any time.
    pub(crate) fn unanswered(&self) {
        self.0.fetch_or(DOUBT, Ordering::AcqRel);
        self.0.fetch_and(!IN_FLIGHT, Ordering::AcqRel);
    }

    /// Takes the duty to clean up, which exactly one caller gets.
    pub(crate) fn disarm(&self) -> Duty {
        let before = self.0.fetch_or(DISARMED, Ordering::AcqRel);
        if before & DISARMED != 0 {
            Duty::Taken
        } else if before & (IN_FLIGHT | ENTERED | DOUBT) == 0 {
            Duty::Nothing
        } else {
            Duty::Leave { in_doubt: before & (IN_FLIGHT | DOUBT) != 0 }
        }
    }
}

const IN_FLIGHT: u8 = 1;
const ENTERED: u8 = 2;
const DOUBT: u8 = 4;
const DISARMED: u8 = 8;
