//! The lock manager: one session in one store, and everything that is locked through it.

mod builder;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use self::builder::ManagerBuilder;
use crate::backend::{Capabilities, Contender, LockBackend, Probe};
use crate::election::Election;
use crate::error::{ErrorKind, Result};
use crate::handle::Handle;
use crate::keeper::{Context, Engine, Wait};
use crate::lock::Lock;
use crate::many::Guards;
use crate::name::LockName;
use crate::rwlock::RwLock;
use crate::semaphore::Semaphore;

/// One session in one store. Cheap to clone; clones share the session.
///
/// It owns two threads that renew, watch and clean up, whatever the user's executor does. With the
/// last manager, lock and guard the session is closed in the background; to be sure of it before
/// the process ends, call [`shutdown`](Self::shutdown).
#[derive(Clone)]
pub struct LockManager {
    engine: Arc<Engine>,
}

impl LockManager {
    /// Begins a manager on a backend; the facade's `connect` does it from a URL.
    pub fn builder(backend: impl LockBackend + 'static) -> ManagerBuilder {
        ManagerBuilder::new(Arc::new(backend))
    }

    fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// Names a lock.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: see [`LockName::new`].
    pub fn lock(&self, name: impl AsRef<str>) -> Result<Lock> {
        Ok(Lock::new(self.handle(name)?))
    }

    /// Names a read/write lock.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: see [`LockName::new`].
    /// - [`ErrorKind::Unsupported`]: this store can't
    ///   ([`Capabilities::shared`](crate::backend::Capabilities::shared)).
    pub fn rwlock(&self, name: impl AsRef<str>) -> Result<RwLock> {
        self.can(self.capabilities().shared, "rwlock")?;
        Ok(RwLock::new(self.handle(name)?))
    }

    /// Names a semaphore that at most `limit` may hold at a time.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: the limit is zero, or see [`LockName::new`].
    /// - [`ErrorKind::Unsupported`]: this store can't
    ///   ([`Capabilities::permits`](crate::backend::Capabilities::permits)).
    pub fn semaphore(&self, name: impl AsRef<str>, limit: u32) -> Result<Semaphore> {
        self.can(self.capabilities().permits, "semaphore")?;
        Semaphore::new(self.handle(name)?, limit)
    }

    /// Names an election.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: see [`LockName::new`].
    /// - [`ErrorKind::Unsupported`]: the store's tokens are
    ///   [weak](crate::backend::TokenStrength::Weak), and
    ///   [`allow_weak`](ManagerBuilder::allow_weak) was not given.
    pub fn election(&self, name: impl AsRef<str>) -> Result<Election> {
        Election::new(self.handle(name)?)
    }

    /// Acquires several exclusive locks, one after another in the order of their names, so that no
    /// two who do so wait for each other for ever.
    ///
    /// # Errors
    ///
    /// In each case none of them is held, and what may be left in a queue is withdrawn in the
    /// background:
    ///
    /// - [`ErrorKind::Invalid`]: no name, or one of them twice; see also [`LockName::new`].
    /// - [`ErrorKind::Lost`]: one was lost while others were waited for.
    /// - As for [`Lock::acquire`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future releases what it holds, in the background.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> portunus_core::error::Result<()> {
    /// # use portunus_core::{manager::LockManager, memory::Memory};
    /// # let manager = LockManager::builder(Memory::new()).open().await?;
    /// let accounts = manager.acquire_all(["account/7", "account/3"]).await?;
    /// let (from, to) = (accounts.token("account/7"), accounts.token("account/3"));
    /// accounts.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn acquire_all<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Guards> {
        let guards = Guards::acquire(&self.engine, parse(names)?, Wait::Forever).await?;
        // Only a wait that ends can end without.
        guards.ok_or_else(|| self.engine.context.error(ErrorKind::Protocol, "acquire_all"))
    }

    /// Acquires several exclusive locks if nobody holds any of them; `None` if somebody does. Never
    /// queues.
    ///
    /// # Errors
    ///
    /// As for [`acquire_all`](Self::acquire_all) and [`Lock::try_acquire`].
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire_all`](Self::acquire_all).
    pub async fn try_acquire_all<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Option<Guards>> {
        Guards::acquire(&self.engine, parse(names)?, Wait::Not).await
    }

    /// Waits at most `limit` for several exclusive locks, all together; `None` if others kept one
    /// for so long. The limit bounds the whole call.
    ///
    /// # Errors
    ///
    /// As for [`acquire_all`](Self::acquire_all) and [`Lock::acquire_timeout`].
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire_all`](Self::acquire_all).
    pub async fn acquire_all_timeout<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
        limit: Duration,
    ) -> Result<Option<Guards>> {
        let until = self.engine.context.until(limit);
        Guards::acquire(&self.engine, parse(names)?, until).await
    }

    /// Lists who holds and who waits, in the order of the queue.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the store gave no answer within `connect_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; changes nothing.
    pub async fn contenders(&self, name: impl AsRef<str>) -> Result<Vec<Contender>> {
        let name = LockName::new(name)?;
        self.ask(move |context| async move {
            context.ask("contenders", || context.backend.contenders(&name)).await
        })
        .await
    }

    /// Asks the store who it is, and what about its settings is dangerous.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the store gave no answer within `connect_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; changes nothing.
    pub async fn probe(&self) -> Result<Probe> {
        self.ask(|context| async move { context.ask("probe", || context.backend.probe()).await })
            .await
    }

    /// Returns what the store can do and promises.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.engine.context.capabilities
    }

    /// Returns counters of this manager, without I/O.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.engine.context.counters;
        Stats {
            held: counters.held.load(Ordering::Relaxed),
            waiting: counters.waiting.load(Ordering::Relaxed),
            reaping: counters.reaping.load(Ordering::Relaxed),
            acquired: counters.acquired.load(Ordering::Relaxed),
            lost: counters.lost.load(Ordering::Relaxed),
            places_lost: counters.places_lost.load(Ordering::Relaxed),
            renewals: counters.renewals.load(Ordering::Relaxed),
            retries: counters.retries.load(Ordering::Relaxed),
            sessions: counters.sessions.load(Ordering::Relaxed),
            notices_dropped: counters.notices_dropped.load(Ordering::Relaxed),
            suspended: counters.suspended.load(Ordering::Relaxed),
        }
    }

    /// Refuses new calls, ends those that wait, gives guards `limit` to be released, then closes
    /// the session: what is still held is lost. Returns how many guards that were.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unconfirmed`] when the store did not confirm the end within a further
    /// `connect_timeout`; the entries go with the session's time to live.
    ///
    /// # Cancel safety
    ///
    /// New calls stay refused; call it again to finish.
    pub async fn shutdown(&self, limit: Duration) -> Result<usize> {
        self.engine.shutdown(limit).await
    }

    fn handle(&self, name: impl AsRef<str>) -> Result<Handle> {
        Ok(Handle::new(Arc::clone(&self.engine), LockName::new(name)?))
    }

    fn can(&self, supported: bool, operation: &'static str) -> Result<()> {
        if supported {
            return Ok(());
        }
        let error = self.engine.context.error(ErrorKind::Unsupported, operation);
        Err(error.with_detail("this store has no such locks; nothing was asked of it"))
    }

    async fn ask<T, F>(&self, call: impl FnOnce(Arc<Context>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.engine.run("ask", call(Arc::clone(&self.engine.context))).await
    }
}

impl fmt::Debug for LockManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockManager")
            .field("backend", &self.engine.context.backend)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Counters of one manager since it was opened.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Guards that exist now.
    pub held: usize,
    /// Calls that wait now.
    pub waiting: usize,
    /// Withdrawals that the store has not confirmed yet.
    pub reaping: usize,
    /// Grants.
    pub acquired: u64,
    /// Grants that were lost.
    pub lost: u64,
    /// Places in a queue that were lost with their session.
    pub places_lost: u64,
    /// Confirmed renewals.
    pub renewals: u64,
    /// Requests that were repeated.
    pub retries: u64,
    /// Sessions that were opened: one, and one more for each that ended or was retired.
    pub sessions: u64,
    /// Events that were not traced because the subscriber was too slow.
    pub notices_dropped: u64,
    /// Whether renewals are failing now.
    pub suspended: bool,
}

fn parse<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Result<Vec<LockName>> {
    names.into_iter().map(LockName::new).collect()
}
