//! The servers that are named, and the first of them that takes writes.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mysql_async::OptsBuilder;
use portunus_core::backend::{Capabilities, TokenStrength};
use portunus_core::error::{ErrorKind, Result};

use super::backend::MAX_VALUE_BYTES;
use super::config::MysqlConfig;
use super::connection::Connection;
use super::error::{STORE, read_only};
use crate::server::failure::{Failure, Fallible};
use crate::server::tables::Database;

/// The servers that are named.
pub(super) struct Servers {
    config: MysqlConfig,
    /// With the files of TLS, as they were read.
    options: OptsBuilder,
    /// The one to begin with: the last that took writes. A call that is dropped, for its server does not
    /// answer, leaves the next one here.
    first: AtomicUsize,
}

impl Servers {
    pub(super) fn new(config: &MysqlConfig) -> Result<Self> {
        let options = config.options()?;
        Ok(Self { config: config.clone(), options, first: AtomicUsize::new(0) })
    }
}

/// Not the options, which would show the password.
impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Servers").field(&self.config).finish()
    }
}

#[async_trait]
impl Database for Servers {
    type Tables = Connection;

    const STORE: &'static str = STORE;

    fn capabilities() -> Capabilities {
        Capabilities {
            store: STORE,
            fifo: true,
            shared: true,
            permits: true,
            convert: true,
            push: false,
            strength: TokenStrength::Durable,
            crash_release: true,
            // The server counts a wait for a row in whole seconds.
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(24 * 3600),
            fail_over: Duration::ZERO,
            max_value: MAX_VALUE_BYTES,
        }
    }

    async fn connect(&self, patience: Duration) -> Fallible<Connection> {
        let hosts = self.config.hosts();
        let first = self.first.load(Ordering::Relaxed) % hosts.len();
        let mut refused = None;
        for at in (first..hosts.len()).chain(0..first) {
            self.first.store(at + 1, Ordering::Relaxed);
            let (host, port) = hosts[at].clone();
            let options = self.options.clone().ip_or_hostname(host).tcp_port(port);
            match Connection::open(&self.config, options, patience).await {
                Ok(connection) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(connection);
                }
                // What was asked for wrongly says more than that a server is away.
                Err(failed) if refused.is_none() || !is_away(&failed) => {
                    refused = Some(failed);
                }
                Err(_) => {}
            }
        }
        Err(refused.unwrap_or_else(read_only))
    }
}

fn is_away(failed: &Failure) -> bool {
    match failed {
        Failure::Sql { kind, .. } => *kind == ErrorKind::Unavailable,
        Failure::Ours(error) => error.kind() == ErrorKind::Unavailable,
    }
}
