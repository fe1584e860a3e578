//! The semaphore: held by at most so many at a time.

use std::time::Duration;

use crate::backend::Mode;
use crate::error::{ErrorKind, Result};
use crate::guard::Permit;
use crate::handle::Handle;
use crate::keeper::{Request, Wait};
use crate::name::LockName;

/// A name that at most `limit` may hold at a time, over all processes. Cheap to clone; holds
/// nothing by itself.
///
/// Every contender of one name gives the same limit: the one who differs from those who stand in
/// the queue is refused as a conflict that names both. Permits are served in the order of arrival.
/// Where the limit is above one a permit has no fencing token, for no resource could tell from an
/// order of tokens who holds: a semaphore bounds load, it does not protect data.
///
/// # Algorithm
///
/// The queue of the exclusive lock, in which the first `limit` entries hold. The first that waits
/// watches all holders, a later one the entry before it, so each release wakes one and costs as many
/// requests whatever the queue's length.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> portunus_core::error::Result<()> {
/// use portunus_core::manager::LockManager;
/// use portunus_core::memory::Memory;
///
/// let manager = LockManager::builder(Memory::new()).open().await?;
/// let exports = manager.semaphore("exports", 2)?;
/// let (_one, _another) = (exports.acquire().await?, exports.acquire().await?);
/// assert!(exports.try_acquire().await?.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Semaphore {
    handle: Handle,
    limit: u32,
}

impl Semaphore {
    pub(crate) fn new(handle: Handle, limit: u32) -> Result<Self> {
        if limit == 0 {
            let error = handle.context().error(ErrorKind::Invalid, "semaphore");
            return Err(error.with_key(handle.name().as_str()).with_detail(
                "the limit is 0, so nobody could ever hold it; accepted is 1 or more",
            ));
        }
        Ok(Self { handle, limit })
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        self.handle.name()
    }

    /// Returns how many may hold at a time.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Waits until there is a permit.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire), and [`ErrorKind::Conflict`] when the
    /// name is used with another limit, or as another kind of lock; both are named, and nothing is
    /// left in the queue.
    ///
    /// # Cancel safety
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire).
    pub async fn acquire(&self) -> Result<Permit> {
        self.handle.acquire(self.request()).await
    }

    /// Takes a permit if there is one; `None` if there is not. Never queues.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Self::acquire) and [`Lock::try_acquire`](crate::lock::Lock::try_acquire).
    ///
    /// # Cancel safety
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire).
    pub async fn try_acquire(&self) -> Result<Option<Permit>> {
        self.handle.seek(self.request(), Wait::Not).await
    }

    /// Waits at most `limit` for a permit; `None` if others kept them for so long. The limit bounds
    /// the whole call, connecting included.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Self::acquire) and
    /// [`Lock::acquire_timeout`](crate::lock::Lock::acquire_timeout).
    ///
    /// # Cancel safety
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire).
    pub async fn acquire_timeout(&self, limit: Duration) -> Result<Option<Permit>> {
        self.handle.seek(self.request(), self.handle.context().until(limit)).await
    }

    fn request(&self) -> Request {
        Request { mode: Mode::Permit { limit: self.limit }, ..Request::default() }
    }
}
