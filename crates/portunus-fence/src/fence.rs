//! The trait: marks, and one small value beside each.

use async_trait::async_trait;
use portunus_core::error::Result;
use portunus_core::token::{FencingToken, SharedToken};

/// The longest value that a fence keeps, in bytes.
pub const MAX_VALUE_BYTES: usize = 128 * 1024;

/// What compares tokens: it keeps a *mark* for each resource, the highest exclusive token that it
/// accepted, and refuses lower ones.
///
/// Beside the mark it keeps one small value, and changes both in one atomic step. What is a resource's
/// whole state where that is small (a counter, a checkpoint, the period that a job has done) is the
/// example of how it is done where it is not: the modules of the databases put the same comparison
/// into a transaction of yours.
///
/// - A token *passes* if it comes from the origin of the mark (one lock in one life of its store), and is
///   not below it. Without a mark each token passes.
/// - An exclusive token that passes becomes the mark. A shared one never does.
/// - The mark is as durable as the value, and never goes back.
///
/// A [weak](FencingToken#weak-tokens) token proves no order, and none of the methods takes it, unless
/// somebody said [`allow_weak`](FencingToken::allow_weak) to it. Whoever implements this trait asks
/// [`may_fence`](FencingToken::may_fence) first.
///
/// **Open before the first read.** [`open`](Self::open) raises the mark, so that nothing of an earlier
/// holder can come between what is read now and what is written later. With [`admit`](Self::admit)
/// alone an old write may land after the read, and is lost then. [`Register`](crate::Register) keeps
/// to that order by itself.
///
/// Resources are named by 1 to 512 bytes of UTF-8 without NUL. Several resources may be guarded by
/// one lock; give each its own name here. Two locks must not guard one resource.
///
/// # Errors
///
/// Of every method. In each case the mark and the value are as they were, but for `Unconfirmed`.
///
/// - [`ErrorKind::Stale`](crate::ErrorKind::Stale): the token is below the mark. Another holder came
///   later: stop, and do not retry.
/// - [`ErrorKind::Conflict`](crate::ErrorKind::Conflict): the token is of another origin than the mark:
///   another lock, or a store of locks that was replaced or restored. An operator has to look.
/// - [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): the resource's name, the token (0, or too large
///   for a column) or the value is out of its range; or the token is weak and not allowed.
/// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): what is to hold the marks was not set up;
///   the error says how.
/// - [`ErrorKind::Denied`](crate::ErrorKind::Denied): the credentials do not suffice.
/// - [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): not applied; retry with the same token.
/// - [`ErrorKind::Unconfirmed`](crate::ErrorKind::Unconfirmed): applied, or not, or only later. To repeat
///   the same call is safe. To write anything *else* with the same token is not: tokens that are equal
///   pass, so what is under way may land over it. Acquire the lock again, for a higher token, first.
/// - [`ErrorKind::Protocol`](crate::ErrorKind::Protocol): what is stored under this name is no mark.
#[async_trait]
pub trait Fence: Send + Sync {
    /// Raises the mark to `token` and returns the value, in one step. To be called before the first
    /// read of anything that this token's holder will write.
    ///
    /// # Errors
    ///
    /// See the [trait](Self#errors).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the mark is raised or not; to call it again is safe.
    async fn open(&self, resource: &str, token: &FencingToken) -> Result<Option<Vec<u8>>>;

    /// Raises the mark to `token` and writes the value, in one step.
    ///
    /// # Errors
    ///
    /// See the [trait](Self#errors).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the step was taken, is taken later, or never. A higher token bars it;
    /// until then write nothing but the same.
    async fn admit(&self, resource: &str, token: &FencingToken, value: &[u8]) -> Result<()>;

    /// Returns the value if `token`, of a shared grant, is not below the mark; raises nothing.
    ///
    /// # Errors
    ///
    /// See the [trait](Self#errors).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only looks.
    async fn check(&self, resource: &str, token: &SharedToken) -> Result<Option<Vec<u8>>>;

    /// Returns the mark: for people and tools, not to decide by.
    ///
    /// # Errors
    ///
    /// See the [trait](Self#errors).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only looks.
    async fn mark(&self, resource: &str) -> Result<Option<FencingToken>>;
}
