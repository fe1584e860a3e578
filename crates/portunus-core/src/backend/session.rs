//! One manager's liveness in the store.

use std::fmt;
use std::time::Duration;

use super::attempt::AttemptId;
use crate::token::Incarnation;

/// One manager's liveness in the store, as the backend states it and the engine executes it.
#[derive(Clone, Debug)]
pub struct Session {
    /// What the store calls it.
    pub id: SessionId,
    /// The life of the store that it was opened in; the origin of its tokens.
    pub incarnation: Incarnation,
    /// The time to live that the store granted, which may be more than was asked for.
    pub granted: Duration,
    /// How long a renewal is worth, counted from *before* it was sent; below `granted` by the
    /// margin for clock rates and rounding.
    pub validity: Duration,
    /// How long after a confirmed renewal to send the next.
    pub renew_every: Duration,
    /// How long one request may take before it counts as unanswered.
    pub request_timeout: Duration,
}

impl Session {
    /// A session whose store lets it live for `granted` after each renewal by its own clock.
    ///
    /// Valid for that span less 1 %, for clocks that run at different rates, and less the larger of
    /// 2 % and 20 ms, for rounding and scheduling; renewed each third of it, with time for a second
    /// and a third try.
    #[must_use]
    pub fn leased(id: SessionId, incarnation: Incarnation, granted: Duration) -> Self {
        let margin = (granted / 50).max(Duration::from_millis(20));
        Self {
            id,
            incarnation,
            granted,
            validity: (granted - granted / 100).saturating_sub(margin),
            renew_every: granted / 3,
            request_timeout: granted / 6,
        }
    }
}

/// The number of a [`Session`], unique in its store.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub u128);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// A confirmed renewal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Renewal {
    /// Attempts whose entries the store found gone although the session lives.
    pub lost: Vec<AttemptId>,
}
