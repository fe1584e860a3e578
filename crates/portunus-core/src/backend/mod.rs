//! The traits that a store implements, and the words that they are written in.
//!
//! A backend speaks to its store and nothing more. It decides no policy: it does not retry, it
//! starts no timer, it keeps no deadline. (Where a store needs one, to poll what tells nobody, to
//! give up a server that is silent, to repeat an undo, it goes by the injected clock.) The engine
//! bounds every call in time and *drops* it when the time is over, so each method must be safe to
//! drop at any await, and a dropped call counts as one whose outcome is unknown.

mod attempt;
mod capabilities;
mod entry;
mod session;

use async_trait::async_trait;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use self::attempt::{Attempt, AttemptId, Holder, Mode, Record};
pub use self::capabilities::{Capabilities, TokenStrength};
pub use self::entry::{
    Contender, Entered, Entry, EntryId, Expires, Left, NamePage, Observation, Probe, Turn,
};
pub use self::session::{Renewal, Session, SessionId};
use crate::error::Result;
use crate::name::LockName;

/// A boxed stream, as [`LockObserver::follow`] returns it.
pub type BoxStream<T> = Pin<Box<dyn futures_core::Stream<Item = T> + Send>>;

/// A store of locks.
///
/// Written by authors of backends; users meet [`LockManager`](crate::manager::LockManager). A
/// *session* is one manager's liveness in the store. An *attempt* is one try to get one lock: it
/// makes at most one *entry*, and belongs to one session for ever.
///
/// # Runtimes
///
/// The engine calls [`open_session`](Self::open_session) and [`renew`](Self::renew) on the runtime
/// of its *keeper*, a thread on which no code of the user's runs, so that nothing starves it.
/// Whatever a session's life hangs on belongs there: its connection, the tasks that serve it. All
/// other verbs run on the runtime of the *herald*, which a user's waker or subscriber can block.
///
/// # Errors
///
/// Every method sorts its failures: [`ErrorKind::Unavailable`] only when the request was certainly
/// not applied, [`ErrorKind::Lost`] when the session is gone, and [`ErrorKind::Unconfirmed`]
/// whenever there is doubt.
///
/// [`ErrorKind::Unavailable`]: crate::error::ErrorKind::Unavailable
/// [`ErrorKind::Unconfirmed`]: crate::error::ErrorKind::Unconfirmed
/// [`ErrorKind::Lost`]: crate::error::ErrorKind::Lost
#[async_trait]
pub trait LockBackend: LockObserver {
    /// What this store can do and promises; constant for the life of the backend.
    fn capabilities(&self) -> Capabilities;

    /// Opens a session that lives at least `ttl` after each renewal.
    ///
    /// The answer says how long a confirmed renewal is worth, counted from before it was sent, and
    /// how often to renew. The engine renews; the backend only states.
    async fn open_session(&self, ttl: Duration) -> Result<Session>;

    /// Extends the session. `Ok` only when the store's quorum confirmed it.
    ///
    /// `held` lists the attempts that hold a lock in this session, for stores where each grant is
    /// renewed by itself; those found gone come back in [`Renewal::lost`]. An `Err` of kind `Lost`
    /// says that the session itself is gone.
    async fn renew(&self, session: &Session, held: &[Arc<Attempt>]) -> Result<Renewal>;

    /// Ends the session, and with it all its entries. Idempotent; `Ok` when it is gone.
    async fn close_session(&self, session: &Session) -> Result<()>;

    /// Puts the attempt into the queue of its lock; idempotent by [`Attempt::id`].
    ///
    /// The engine calls it until its first definite answer and never after. The token of the grant
    /// belongs to the entry, so a repeated call gives the same token, or no grant.
    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered>;

    /// Answers where the entry stands now. Never creates an entry.
    ///
    /// [`Turn::Held`] needs two things: no earlier conflicting entry, *and* the own entry confirmed
    /// after that by a linearizable step, for it may have been evicted meanwhile. An entry that is
    /// absent, or whose id is another, is [`Turn::Lost`].
    async fn look(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<Turn>;

    /// Completes when [`look`](Self::look) may answer otherwise than `turn`: a blocker went or, for
    /// permits, changed; or the own entry went. May complete early, never late.
    async fn changed(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        turn: &Turn,
    ) -> Result<()>;

    /// Withdraws the attempt. On `Ok` its entry is gone **and no request sent before can create it
    /// any more**.
    ///
    /// `in_doubt` says that a request of this attempt once went unanswered, and may arrive after
    /// this one. Touches no other attempt's entry. Idempotent.
    async fn leave(&self, session: &Session, attempt: &Attempt, in_doubt: bool) -> Result<Left>;

    /// Turns an exclusive grant into a shared one: same entry, same token, same value, no gap.
    ///
    /// Idempotent; fails as [`publish`](Self::publish) does.
    async fn convert(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<()>;

    /// Replaces the value that the entry of a grant shows to observers, and nothing else of it: its
    /// mode stays what a downgrade made of it. `value` is at most [`Capabilities::max_value`] long.
    ///
    /// Idempotent. Of several calls the one that was called last stands: a request of an earlier
    /// one that went unanswered, and arrives late, never overwrites a newer value. For that each
    /// write compares that nothing changed since the entry was read. If another write came in
    /// between, the answer is `Unavailable`: nothing was applied, and the engine calls again. An
    /// entry that is absent, or whose id is another, is `Lost`, and none is created.
    async fn publish(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: &str,
    ) -> Result<()>;
}

/// The view of a store for those who take no lock: tools, observers, and the engine's own check
/// that no wake-up was missed.
///
/// Its `Debug` names the servers, for errors, and never shows a secret.
#[async_trait]
pub trait LockObserver: fmt::Debug + Send + Sync {
    /// Lists the queue of a lock in its order: one cheap request, whatever its length.
    async fn queue(&self, name: &LockName) -> Result<Vec<Entry>>;

    /// Lists the queue of a lock with what each entry says about itself.
    async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>>;

    /// Follows the head of a lock's queue: its state now, then each change.
    ///
    /// A store that answers from before position `since` has gone back, which is an error of kind
    /// `Regression`. Ends with an error when the store can no longer be followed; the caller follows
    /// anew from the last position that it saw.
    async fn follow(&self, name: &LockName, since: u64) -> Result<BoxStream<Result<Observation>>>;

    /// Lists the names with entries that begin with `prefix`, a page at a time.
    async fn names(&self, prefix: &str, page: Option<&str>) -> Result<NamePage>;

    /// Removes any owner's entry, if it still is the one named; `false` when it is not there.
    async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool>;

    /// Asks the store who it is, and what about its settings is dangerous.
    async fn probe(&self) -> Result<Probe>;
}
