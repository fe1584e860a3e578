//! What a store can do and promises. The README's table is made from these values.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// What a store can do and promises.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Capabilities {
    /// The store's name in errors and tables.
    pub store: &'static str,
    /// Waiters are served in the order of arrival.
    pub fifo: bool,
    /// Shared holds (read locks).
    pub shared: bool,
    /// Permits (semaphores).
    pub permits: bool,
    /// A downgrade in place.
    pub convert: bool,
    /// Waiters are woken by the store; elsewhere they poll.
    pub push: bool,
    /// What the fencing token is worth.
    pub strength: TokenStrength,
    /// The lock of a crashed holder is freed by the store.
    pub crash_release: bool,
    /// The shortest time to live that can be asked for.
    pub min_ttl: Duration,
    /// The longest.
    pub max_ttl: Duration,
    /// How long the store needs to replace a failed node; a live holder keeps its lock through
    /// that if the validity of its session is at least twice as long.
    pub fail_over: Duration,
    /// The longest value of a leader that observers can be shown, in bytes of UTF-8.
    pub max_value: usize,
}

impl Capabilities {
    /// Refuses a time to live that can't be asked for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] with the range that is accepted; nothing was asked of the store.
    pub fn check_ttl(&self, ttl: Duration) -> Result<()> {
        let (min, max) = (self.min_ttl, self.max_ttl);
        if (min..=max).contains(&ttl) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Invalid, self.store, "open_session")
            .with_detail(format!("the time to live is {ttl:?}; accepted are {min:?} to {max:?}")))
    }
}

/// What a fencing token is worth.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum TokenStrength {
    /// May go back when the store fails over: no basis for an election or a fence, which refuse it
    /// unless they are told to [allow it](crate::token::FencingToken::allow_weak).
    Weak,
    /// Grows as long as the store keeps what it acknowledged.
    Durable,
    /// Grows whatever minority of the store fails.
    Strong,
}
