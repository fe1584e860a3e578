//! The terminal deadline: one atomic cell that goes from a moment to EXPIRED once, for ever.
//!
//! Whoever first sees that the time is over, a reader included, writes EXPIRED; a renewal whose
//! answer comes later changes nothing. So no two looks disagree on whether the lock was lost.

use crate::sync::{AtomicU64, Ordering};

/// A deadline in nanoseconds of the engine's clock, or EXPIRED.
#[derive(Debug)]
pub(crate) struct DeadlineCell(AtomicU64);

impl DeadlineCell {
    /// A live cell. Zero is not a deadline: no clock of ours starts there.
    pub(crate) fn new(deadline: u64) -> Self {
        Self(AtomicU64::new(deadline.max(EXPIRED + 1)))
    }

    /// The deadline; `None` once it has expired.
    pub(crate) fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Acquire)).filter(|&deadline| deadline != EXPIRED)
    }

    /// Whether `now` lies before the deadline; if not, the cell is expired from here on.
    pub(crate) fn is_live(&self, now: u64) -> bool {
        self.update(now, None)
    }

    /// Moves the deadline to `to` unless it has passed; never moves it back. `false`: it is over.
    pub(crate) fn extend(&self, to: u64, now: u64) -> bool {
        self.update(now, Some(to))
    }

    /// Ends the cell now; `true` for the one call that ended it.
    pub(crate) fn expire(&self) -> bool {
        self.0.swap(EXPIRED, Ordering::AcqRel) != EXPIRED
    }

    /// The fault that [`Mutant::DeadlineRevived`](crate::mutant::Mutant) puts in.
    #[cfg(portunus_mutant)]
    pub(crate) fn revive(&self, to: u64) {
        self.0.store(to, Ordering::Release);
    }

    fn update(&self, now: u64, to: Option<u64>) -> bool {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let next = match to {
                _ if seen == EXPIRED => return false,
                _ if now >= seen => EXPIRED,
                Some(to) if to > seen => to,
                _ => return true,
            };
            match self.0.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return next != EXPIRED,
                Err(other) => seen = other,
            }
        }
    }
}

const EXPIRED: u64 = 0;
