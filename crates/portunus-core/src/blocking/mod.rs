//! The same API for threads: each call waits where it is made.
//!
//! Needs no runtime of the caller's; the manager's own threads do the work. A call from within an
//! async runtime blocks one of its threads: use the async API there.
//!
//! ```
//! # fn main() -> portunus_core::error::Result<()> {
//! use portunus_core::blocking::LockManager;
//! use portunus_core::manager::LockManager as Async;
//! use portunus_core::memory::Memory;
//!
//! let manager = LockManager::open(Async::builder(Memory::new()))?;
//! let guard = manager.lock("invoices/2026-11")?.acquire()?;
//! println!("billing with token {}", guard.token());
//! guard.release()?;
//! # Ok(())
//! # }
//! ```

mod election;
mod guard;
mod lock;

use std::time::Duration;

use pollster::FutureExt;

use crate::backend::{Capabilities, Contender, Probe};
use crate::error::Result;
use crate::manager::{self, ManagerBuilder, Stats};

pub use self::election::{Election, Leaders, Leadership, Run};
pub use self::guard::{Guard, Guards};
pub use self::lock::{Lock, RwLock, Semaphore};

/// [`LockManager`](manager::LockManager) for threads.
#[derive(Clone, Debug)]
pub struct LockManager(manager::LockManager);

impl LockManager {
    /// Connects: [`ManagerBuilder::open`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open(builder: ManagerBuilder) -> Result<Self> {
        builder.open().block_on().map(Self)
    }

    /// Names a lock.
    ///
    /// # Errors
    ///
    /// As for the async one.
    pub fn lock(&self, name: impl AsRef<str>) -> Result<Lock> {
        self.0.lock(name).map(Lock)
    }

    /// Names a read/write lock.
    ///
    /// # Errors
    ///
    /// As for the async one.
    pub fn rwlock(&self, name: impl AsRef<str>) -> Result<RwLock> {
        self.0.rwlock(name).map(RwLock)
    }

    /// Names a semaphore.
    ///
    /// # Errors
    ///
    /// As for the async one.
    pub fn semaphore(&self, name: impl AsRef<str>, limit: u32) -> Result<Semaphore> {
        self.0.semaphore(name, limit).map(Semaphore)
    }

    /// Names an election.
    ///
    /// # Errors
    ///
    /// As for the async one.
    pub fn election(&self, name: impl AsRef<str>) -> Result<Election> {
        self.0.election(name).map(Election)
    }

    /// Acquires several locks: [`acquire_all`](manager::LockManager::acquire_all).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn acquire_all<N: AsRef<str>>(&self, names: impl IntoIterator<Item = N>) -> Result<Guards> {
        self.0.acquire_all(names).block_on().map(Guards)
    }

    /// Acquires several locks if nobody holds any of them:
    /// [`try_acquire_all`](manager::LockManager::try_acquire_all).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_acquire_all<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Option<Guards>> {
        Ok(self.0.try_acquire_all(names).block_on()?.map(Guards))
    }

    /// Waits at most `limit` for several locks:
    /// [`acquire_all_timeout`](manager::LockManager::acquire_all_timeout).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn acquire_all_timeout<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
        limit: Duration,
    ) -> Result<Option<Guards>> {
        Ok(self.0.acquire_all_timeout(names, limit).block_on()?.map(Guards))
    }

    /// Lists who holds and who waits: [`contenders`](manager::LockManager::contenders).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn contenders(&self, name: impl AsRef<str>) -> Result<Vec<Contender>> {
        self.0.contenders(name).block_on()
    }

    /// Asks the store who it is: [`probe`](manager::LockManager::probe).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn probe(&self) -> Result<Probe> {
        self.0.probe().block_on()
    }

    /// Returns what the store can do and promises.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    /// Returns counters of this manager, without I/O.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Ends everything: [`shutdown`](manager::LockManager::shutdown).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn shutdown(&self, limit: Duration) -> Result<usize> {
        self.0.shutdown(limit).block_on()
    }
}
