//! The same API for threads: each call waits where it is made.
//!
//! Needs no runtime of the caller's; the manager's own threads do the work. A call from within an
//! async runtime blocks one of its threads: use the async API there.
//!
//! ```
//! # fn main() -> portunus::Result<()> {
//! let manager = portunus::blocking::connect("memory:")?;
//! let guard = manager.lock("nightly/report")?.acquire()?;
//! assert!(guard.is_held());
//! # Ok(())
//! # }
//! ```

pub use portunus_core::blocking::{
    Election, Guard, Guards, Leaders, Leadership, Lock, LockManager, Run, RwLock, Semaphore,
};
use portunus_core::error::Result;

/// Connects to the store that `url` names; see [`connect`](crate::connect).
///
/// # Errors
///
/// As there.
pub fn connect(url: impl AsRef<str>) -> Result<LockManager> {
    LockManager::open(crate::builder(url)?)
}
