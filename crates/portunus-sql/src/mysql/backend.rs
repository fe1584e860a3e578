//! The store's public type.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{self, Attempt, Session};
use portunus_core::clock::{BootClock, Clock};
use portunus_core::error::Result;
use portunus_core::name::LockName;

use super::config::MysqlConfig;
use super::servers::Servers;
use super::witness::Witness;
use crate::rows::Keys;
use crate::server::Server;
use crate::server::store::store;
use crate::server::tables::Change;

/// The longest value of a leader, in bytes of UTF-8: 128 KiB. The server would take more; with this one a
/// value fits other stores too.
pub const MAX_VALUE_BYTES: usize = 128 * 1024;

/// Locks in a MySQL or MariaDB database.
pub struct Mysql {
    config: MysqlConfig,
    pub(super) keys: Keys,
    pub(super) server: Server<Servers>,
    pub(super) witness: Witness,
}

impl Mysql {
    /// Prepares the backend. Connects with the first request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](portunus_core::error::ErrorKind::Invalid) when a TLS file can't be used.
    pub fn new(config: MysqlConfig) -> Result<Self> {
        Self::with_clock(config, Arc::new(BootClock::new()))
    }

    /// The same by another clock. Processes of one kernel keep what they saw of others by its time:
    /// those who use the tables together from one machine need the same clock.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_clock(config: MysqlConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let server = Server::new(Servers::new(&config)?, config.keys(), clock);
        let witness = Witness::new(server.dialer.clone());
        Ok(Self { keys: config.keys(), server, witness, config })
    }

    /// Makes the tables unless they are there, as opening a session does too: for a user who may, where
    /// the others may not. Two processes may do so at once.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Denied`]: the user may not create tables.
    /// - [`ErrorKind::Unsupported`]: there are tables of another version.
    /// - [`ErrorKind::Unavailable`]: no server takes writes. Some of the tables are there, or none.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the tables are made or not; to call it again is safe.
    ///
    /// [`ErrorKind::Denied`]: portunus_core::error::ErrorKind::Denied
    /// [`ErrorKind::Unsupported`]: portunus_core::error::ErrorKind::Unsupported
    /// [`ErrorKind::Unavailable`]: portunus_core::error::ErrorKind::Unavailable
    pub async fn create_schema(&self) -> Result<()> {
        self.server.create_schema().await
    }

    /// Removes the rows of locks that nobody holds or waits for, of all namespaces; returns how many.
    ///
    /// There is one row for each name that was ever asked for, so a program whose names do not repeat
    /// calls this now and then. Tokens go on growing: the highest that was removed is kept, and a name
    /// that comes back goes on above it. A row that somebody has locked just then stays.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] and [`ErrorKind::Unconfirmed`], with some of the rows removed; to call
    /// it again is safe.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped some of the rows are removed; to call it again is safe.
    ///
    /// [`ErrorKind::Unavailable`]: portunus_core::error::ErrorKind::Unavailable
    /// [`ErrorKind::Unconfirmed`]: portunus_core::error::ErrorKind::Unconfirmed
    pub async fn prune(&self) -> Result<u64> {
        self.server.prune().await
    }
}

/// Names the servers: errors of the engine show it.
impl fmt::Debug for Mysql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mysql").field(&self.config).finish()
    }
}

store!(Mysql, Servers);
