//! Why a grant ended: said by the keeper, read through the guard.

/// Why a lock is not held any more.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LossReason {
    /// The manager was shut down.
    Closed,
    /// The entry was removed from the store, for instance by an operator.
    Evicted,
    /// The deadline passed without a confirmed renewal.
    Expired,
    /// This is a forked child; the lock is the parent's.
    Forked,
    /// It was held for as long as the manager's `max_hold` allows.
    MaxHold,
    /// Its holder gave it up, and this look came later: seen by those who share a leadership.
    Released,
    /// The store said that the session is gone.
    SessionEnded,
}
