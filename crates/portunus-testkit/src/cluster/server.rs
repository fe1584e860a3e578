//! What the servers that need no quorum have in common: how a test comes by them.

use std::fmt;
use std::ops::Deref;

use super::shared::Turns;
use super::store::Store;
use super::{Access, Cluster, Result};

/// Running servers of the kind that `S` builds, a [`Cluster`] to which it dereferences:
/// [`MariaDb`](super::MariaDb), [`Postgres`](super::Postgres), [`Redis`](super::Redis),
/// [`RedisGroup`](super::RedisGroup), [`RedisMasters`](super::RedisMasters).
#[derive(Clone)]
pub struct Server<S> {
    cluster: Cluster,
    pub(super) options: S,
}

#[expect(private_bounds, reason = "sealed: the builders of this module implement it")]
impl<S: Kind> Server<S> {
    /// This process's servers, as the builder makes them without an option, together with other
    /// tests that leave them alone.
    ///
    /// The first call starts them; they are healthy then. They live as long as the process; the
    /// next sweep removes them.
    ///
    /// # Errors
    ///
    /// When they cannot be started, or not be made whole after a test that disturbed them.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn shared() -> Result<Access<Self>> {
        S::turns().shared().await
    }

    /// The same servers, alone: the caller may disturb them and need not undo it.
    ///
    /// # Errors
    ///
    /// As [`Server::shared`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn exclusive() -> Result<Access<Self>> {
        S::turns().exclusive().await
    }
}

#[expect(private_bounds, reason = "as above")]
impl<S: Store + Clone> Server<S> {
    pub(super) async fn launch(options: S) -> Result<Self> {
        Ok(Self { cluster: Cluster::launch(options.clone()).await?, options })
    }
}

impl<S> Deref for Server<S> {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

/// Without the options, a password may be among them.
impl<S> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.cluster).finish()
    }
}

/// Servers that all tests of a process can share.
pub(super) trait Kind: Store + Clone {
    /// The process's own.
    fn turns() -> &'static Turns<Server<Self>>;
}
