//! Locks that wait where they are asked.

use std::time::Duration;

use pollster::FutureExt;

use super::guard::Guard;
use crate::error::Result;
use crate::guard::{Counted, Shared};
use crate::lock;
use crate::name::LockName;
use crate::rwlock;
use crate::semaphore;

/// [`Lock`](lock::Lock) for threads.
#[derive(Clone, Debug)]
pub struct Lock(pub(super) lock::Lock);

impl Lock {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        self.0.name()
    }

    /// Waits until this lock is held: [`acquire`](lock::Lock::acquire).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn acquire(&self) -> Result<Guard> {
        self.0.acquire().block_on().map(Guard)
    }

    /// Acquires the lock if nobody holds it: [`try_acquire`](lock::Lock::try_acquire).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_acquire(&self) -> Result<Option<Guard>> {
        Ok(self.0.try_acquire().block_on()?.map(Guard))
    }

    /// Waits at most `limit`: [`acquire_timeout`](lock::Lock::acquire_timeout).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn acquire_timeout(&self, limit: Duration) -> Result<Option<Guard>> {
        Ok(self.0.acquire_timeout(limit).block_on()?.map(Guard))
    }
}

/// [`RwLock`](rwlock::RwLock) for threads.
#[derive(Clone, Debug)]
pub struct RwLock(pub(super) rwlock::RwLock);

impl RwLock {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        self.0.name()
    }

    /// Waits until this lock is held for reading: [`read`](rwlock::RwLock::read).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read(&self) -> Result<Guard<Shared>> {
        self.0.read().block_on().map(Guard)
    }

    /// Waits until this lock is held for writing: [`write`](rwlock::RwLock::write).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn write(&self) -> Result<Guard> {
        self.0.write().block_on().map(Guard)
    }

    /// Reads if no writer holds or waits: [`try_read`](rwlock::RwLock::try_read).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_read(&self) -> Result<Option<Guard<Shared>>> {
        Ok(self.0.try_read().block_on()?.map(Guard))
    }

    /// Writes if nobody holds or waits: [`try_write`](rwlock::RwLock::try_write).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_write(&self) -> Result<Option<Guard>> {
        Ok(self.0.try_write().block_on()?.map(Guard))
    }

    /// Waits at most `limit` to read: [`read_timeout`](rwlock::RwLock::read_timeout).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read_timeout(&self, limit: Duration) -> Result<Option<Guard<Shared>>> {
        Ok(self.0.read_timeout(limit).block_on()?.map(Guard))
    }

    /// Waits at most `limit` to write: [`write_timeout`](rwlock::RwLock::write_timeout).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn write_timeout(&self, limit: Duration) -> Result<Option<Guard>> {
        Ok(self.0.write_timeout(limit).block_on()?.map(Guard))
    }
}

/// [`Semaphore`](semaphore::Semaphore) for threads.
#[derive(Clone, Debug)]
pub struct Semaphore(pub(super) semaphore::Semaphore);

impl Semaphore {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        self.0.name()
    }

    /// Returns how many may hold at a time.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.0.limit()
    }

    /// Waits until there is a permit: [`acquire`](semaphore::Semaphore::acquire).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn acquire(&self) -> Result<Guard<Counted>> {
        self.0.acquire().block_on().map(Guard)
    }

    /// Takes a permit if there is one: [`try_acquire`](semaphore::Semaphore::try_acquire).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_acquire(&self) -> Result<Option<Guard<Counted>>> {
        Ok(self.0.try_acquire().block_on()?.map(Guard))
    }

    /// Waits at most `limit` for a permit:
    /// [`acquire_timeout`](semaphore::Semaphore::acquire_timeout).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn acquire_timeout(&self, limit: Duration) -> Result<Option<Guard<Counted>>> {
        Ok(self.0.acquire_timeout(limit).block_on()?.map(Guard))
    }
}
