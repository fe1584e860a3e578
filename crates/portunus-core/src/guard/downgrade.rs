//! What a downgrade that failed gives back.

use std::fmt;

use super::Guard;
use crate::error::Error;

/// Why a [`downgrade`](Guard::downgrade) failed; with `?` it becomes the [`Error`], and a guard in
/// it is released.
pub struct DowngradeError<G = Guard> {
    /// What was wrong.
    pub error: Error,
    /// The guard, when the store was not asked: held as before.
    pub guard: Option<Box<G>>,
}

impl<G> fmt::Display for DowngradeError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<G> fmt::Debug for DowngradeError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

impl<G> std::error::Error for DowngradeError<G> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl<G> From<DowngradeError<G>> for Error {
    fn from(failed: DowngradeError<G>) -> Self {
        failed.error
    }
}
