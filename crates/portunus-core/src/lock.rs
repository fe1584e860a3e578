//! The exclusive lock: a name that can be acquired.

use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

use crate::backend::Mode;
use crate::error::{ErrorKind, Result};
use crate::guard::Guard;
use crate::keeper::{Engine, LockState, Wait};
use crate::name::LockName;
use crate::token::FencingToken;

/// An exclusive lock. Cheap to clone; holds nothing by itself.
///
/// Two acquires exclude each other whoever calls them: it is not re-entrant, and a second one in
/// the same task waits for the first for ever.
#[derive(Clone, Debug)]
pub struct Lock {
    engine: Arc<Engine>,
    state: Arc<LockState>,
}

impl Lock {
    pub(crate) fn new(engine: Arc<Engine>, name: LockName) -> Self {
        let state = engine.lock_state(name);
        Self { engine, state }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        &self.state.name
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
    /// - [`ErrorKind::Conflict`], [`ErrorKind::Denied`], [`ErrorKind::Regression`]: see there.
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
        match self.seek(Wait::Forever).await? {
            Some(guard) => Ok(guard),
            None => Err(self.engine.context.error(ErrorKind::Protocol, "acquire")),
        }
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
        self.seek(Wait::Not).await
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
        let until = self.engine.context.clock.now().after(limit);
        self.seek(Wait::Until(until)).await
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
        use crate::guard::Ran;

        let guard = self.acquire().await?;
        let ran = guard.run(work(guard.token())).await;
        match ran {
            Ran::Finished(output) => {
                drop(guard.release().await);
                Ok(output)
            }
            Ran::FinishedAfterLoss(_, reason) | Ran::Lost(reason) => Err(self
                .engine
                .context
                .error(ErrorKind::Lost, "with")
                .with_key(self.name().as_str())
                .with_detail(format!("{reason:?} before the work had finished"))),
        }
    }

    async fn seek(&self, wait: Wait) -> Result<Option<Guard>> {
        let clock = &self.engine.context.clock;
        let begun = clock.now();
        let span = tracing::debug_span!("acquire", lock = %self.state.name);
        let hold = self
            .engine
            .acquire(&self.state, Mode::Exclusive, wait)
            .instrument(span.clone())
            .await?;
        let Some(hold) = hold else { return Ok(None) };
        span.in_scope(|| {
            tracing::debug!(token = hold.token, waited = ?clock.now().since(begun), "acquired");
        });
        Ok(Some(Guard::new(hold, Arc::clone(&self.engine), Arc::clone(&self.state))))
    }
}
