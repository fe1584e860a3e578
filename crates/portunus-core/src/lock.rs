//! The exclusive lock: a name that can be acquired.

use std::time::Duration;

use crate::error::{ErrorKind, Result};
use crate::guard::{Guard, Ran};
use crate::handle::Handle;
use crate::keeper::{Request, Wait};
use crate::name::LockName;
use crate::token::FencingToken;

/// An exclusive lock. Cheap to clone; holds nothing by itself.
///
/// Two acquires exclude each other whoever calls them: it is not re-entrant, and a second one in
/// the same task waits for the first for ever.
#[derive(Clone, Debug)]
pub struct Lock(Handle);

impl Lock {
    pub(crate) fn new(handle: Handle) -> Self {
        Self(handle)
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        self.0.name()
    }

    /// Waits until this lock is held, then returns the guard that keeps it.
    ///
    /// Waiters are served in the order of arrival where
    /// [`Capabilities::fifo`](crate::backend::Capabilities::fifo) says so. While the store does not
    /// answer, the call keeps trying, for ever: bound it with
    /// [`acquire_timeout`](Self::acquire_timeout). If the session ends while it waits, it queues
    /// again in a new one, at the end.
    ///
    /// # Errors
    ///
    /// In each case nothing is held, and what may be left in the queue is withdrawn in the
    /// background:
    ///
    /// - [`ErrorKind::Overloaded`]: the manager's `max_waiters` calls are waiting already.
    /// - [`ErrorKind::Unavailable`]: renewals are failing and `fail_fast` is set, or the manager was
    ///   shut down.
    /// - [`ErrorKind::Lost`]: the entry was removed from the queue by somebody else.
    /// - [`ErrorKind::Conflict`]: a semaphore uses this name.
    /// - [`ErrorKind::Denied`], [`ErrorKind::Regression`]: see there.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. Dropping the future withdraws the place in the queue, or the grant if there is
    /// one already, in the background; if the process dies first, it goes with the session's time to
    /// live. The time waited is lost.
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
    /// let guard = manager.lock("invoices/2026-11")?.acquire().await?;
    /// println!("billing with token {}", guard.token());
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Algorithm
    ///
    /// The queue recipe of the store (see its crate); leases follow Gray and Cheriton, *Leases*
    /// (SOSP 1989), tokens Burrows, *Chubby* (OSDI 2006), §2.4.
    pub async fn acquire(&self) -> Result<Guard> {
        self.0.acquire(Request::default()).await
    }

    /// Acquires the lock if nobody holds it; `None` if somebody does. Never queues.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Self::acquire), and [`ErrorKind::Unavailable`] or
    /// [`ErrorKind::Unconfirmed`] when the store gave no answer within `connect_timeout`.
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Option<Guard>> {
        self.0.seek(Request::default(), Wait::Not).await
    }

    /// Waits at most `limit` for the lock; `None` if others kept it for so long. The limit bounds
    /// the whole call, connecting included.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Self::acquire), and [`ErrorKind::Unavailable`] or
    /// [`ErrorKind::Unconfirmed`] when the store gave no answer within `limit`.
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire`](Self::acquire).
    pub async fn acquire_timeout(&self, limit: Duration) -> Result<Option<Guard>> {
        self.0.seek(Request::default(), self.0.context().until(limit)).await
    }

    /// Acquires the lock, runs `work` with its token, and releases it. `work` is dropped where it
    /// stands when the lock is lost.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Self::acquire), and [`ErrorKind::Lost`] when the lock was lost before
    /// `work` had finished: then its output is not returned, for another may have run beside it
    /// ([`Guard::run`] tells the two apart). A release that the store does not confirm is no error
    /// here: the entry goes in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `work` and releases the lock in the background.
    pub async fn with<F, Fut>(&self, work: F) -> Result<Fut::Output>
    where
        F: FnOnce(FencingToken) -> Fut,
        Fut: Future,
    {
        let guard = self.acquire().await?;
        let ran = guard.run(work(guard.token())).await;
        match ran {
            Ran::Finished(output) => {
                drop(guard.release().await);
                Ok(output)
            }
            Ran::FinishedAfterLoss(_, reason) | Ran::Lost(reason) => Err(self
                .0
                .context()
                .error(ErrorKind::Lost, "with")
                .with_key(self.name().as_str())
                .with_detail(format!("{reason:?} before the work had finished"))),
        }
    }
}
