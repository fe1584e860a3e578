//! The read/write lock: held by many readers together, or by one writer alone.

use std::time::Duration;

use crate::backend::Mode;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::guard::{Guard, SharedGuard};
use crate::handle::Handle;
use crate::keeper::{Request, Wait};
use crate::name::LockName;

/// A lock that many read under together, or one writes under alone. Cheap to clone; holds nothing
/// by itself.
///
/// Readers and writers are served in the order of arrival: a reader that comes after a waiting
/// writer waits behind it, so writers are not starved. Nobody re-enters: a reader that reads again
/// while a writer waits between the two waits for itself for ever.
///
/// It shares its name with [`Lock`](crate::lock::Lock), which is its writer; a
/// [`Semaphore`](crate::semaphore::Semaphore) on that name is refused as a conflict.
///
/// # Algorithm
///
/// The shared locks of Hunt et al. (USENIX ATC 2010), §2.4, on every store that can.
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
/// let prices = manager.rwlock("prices")?;
/// let (one, another) = (prices.read().await?, prices.read().await?);
/// assert!(prices.try_write().await?.is_none());
/// drop((one, another));
/// let writer = prices.write().await?;
/// let reader = writer.downgrade().await?;
/// assert!(prices.try_read().await?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RwLock(Handle);

impl RwLock {
    pub(crate) fn new(handle: Handle) -> Self {
        Self(handle)
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        self.0.name()
    }

    /// Waits until this lock is held for reading, then returns the guard that keeps it.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire).
    ///
    /// # Cancel safety
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire).
    pub async fn read(&self) -> Result<SharedGuard> {
        self.0.acquire(shared()).await
    }

    /// Waits until this lock is held for writing, then returns the guard that keeps it;
    /// [`Guard::downgrade`] turns it into a reader's.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire).
    ///
    /// # Cancel safety
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire).
    pub async fn write(&self) -> Result<Guard> {
        self.0.acquire(Request::default()).await
    }

    /// Reads if no writer holds or waits; `None` if one does. Never queues.
    ///
    /// # Errors
    ///
    /// As for [`Lock::try_acquire`](crate::lock::Lock::try_acquire).
    ///
    /// # Cancel safety
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire).
    pub async fn try_read(&self) -> Result<Option<SharedGuard>> {
        self.0.seek(shared(), Wait::Not).await
    }

    /// Writes if nobody holds or waits; `None` if somebody does. Never queues.
    ///
    /// # Errors
    ///
    /// As for [`Lock::try_acquire`](crate::lock::Lock::try_acquire).
    ///
    /// # Cancel safety
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire).
    pub async fn try_write(&self) -> Result<Option<Guard>> {
        self.0.seek(Request::default(), Wait::Not).await
    }

    /// Waits at most `limit` to read; `None` if writers kept it for so long. The limit bounds the
    /// whole call, connecting included.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire_timeout`](crate::lock::Lock::acquire_timeout): [`ErrorKind::Unavailable`]
    /// or [`ErrorKind::Unconfirmed`] when the store gave no answer within `limit`.
    ///
    /// # Cancel safety
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire).
    pub async fn read_timeout(&self, limit: Duration) -> Result<Option<SharedGuard>> {
        self.0.seek(shared(), self.0.context().until(limit)).await
    }

    /// Waits at most `limit` to write; `None` if others kept it for so long.
    ///
    /// # Errors
    ///
    /// As for [`read_timeout`](Self::read_timeout).
    ///
    /// # Cancel safety
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire).
    pub async fn write_timeout(&self, limit: Duration) -> Result<Option<Guard>> {
        self.0.seek(Request::default(), self.0.context().until(limit)).await
    }
}

fn shared() -> Request {
    Request { mode: Mode::Shared, ..Request::default() }
}
