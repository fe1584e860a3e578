//! Clusters and servers in containers, whose nodes a test pauses, kills and cuts off.
//!
//! ```no_run
//! # async fn test() -> Result<(), portunus_testkit::cluster::Error> {
//! use portunus_testkit::cluster::Etcd;
//!
//! let etcd = Etcd::exclusive().await?;
//! let leader = etcd.leader().await?;
//! etcd.kill(leader).await?;
//! assert_ne!(etcd.leader().await?, leader);
//! # Ok(())
//! # }
//! ```
//!
//! It needs a Docker engine and the images that `cargo xtask images` builds. Every container and
//! network carries the labels `org.portunus.test=1` and `org.portunus.owner=<pid>`; what dead
//! processes left is removed when a cluster starts, and by `cargo xtask sweep`.
//!
//! All work with the engine runs on a runtime of this module's own: a cluster outlives the
//! runtime of the `#[tokio::test]` that started it, and a call that is cancelled still ends.

mod certificates;
mod engine;
mod etcd;
mod exec;
mod faults;
mod mariadb;
mod nodes;
mod postgres;
mod redis;
mod server;
mod shared;
mod shell;
mod status;
mod store;
mod zookeeper;

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

pub use certificates::{Certificates, Tls};
pub use etcd::{Auth, Etcd, EtcdBuilder, Token};
pub use exec::{Output, Process};
pub use mariadb::{MariaDb, MariaDbBuilder};
pub use nodes::{Cluster, NODES};
pub use postgres::{Postgres, PostgresBuilder, Standby};
pub use redis::{Group, Persistence, Redis, RedisBuilder, RedisGroup, RedisMasters};
pub use server::Server;
pub use shared::Access;
pub use zookeeper::{ZooKeeper, ZooKeeperBuilder};

/// What a call on a cluster returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a cluster could not be had, or not be brought into the state that was asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A command in a container ended with another code than 0.
    Command {
        /// The command.
        command: String,
        /// How it ended.
        output: Output,
    },
    /// The container engine refused, or none answers.
    Engine {
        /// What it was to do.
        doing: String,
        /// What it said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// An image is not there: `cargo xtask images` builds it.
    MissingImage {
        /// The image's name.
        image: String,
    },
    /// A state that was waited for did not come.
    Timeout {
        /// The state.
        awaited: String,
        /// How long was waited.
        limit: Duration,
    },
}

impl Error {
    /// Makes what the engine said an error, with what it was to do.
    fn engine<E>(doing: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        move |source| Self::Engine { doing: doing.into(), source: source.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { command, output } => {
                write!(f, "`{command}` ended with {:?}: {}", output.code, output.stderr.trim())
            }
            Self::Engine { doing, .. } => write!(f, "the container engine failed to {doing}"),
            Self::MissingImage { image } => {
                write!(f, "there is no image {image}: `cargo xtask images` builds it")
            }
            Self::Timeout { awaited, limit } => write!(f, "{awaited}: not within {limit:?}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Engine { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
