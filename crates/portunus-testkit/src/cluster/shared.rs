//! One cluster for all tests of a process, which take turns on it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{OnceCell, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::{Etcd, Result};

impl Etcd {
    /// This process's cluster, together with other tests that leave its nodes alone.
    ///
    /// The first call starts it, in the clear and without authentication; it is healthy then. It
    /// lives as long as the process; the next sweep removes it.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or not be made whole after a test that disturbed it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn shared() -> Result<Access> {
        let cluster = cluster().await?;
        let mut turn = Arc::clone(&cluster.turns).read_owned().await;
        if cluster.etcd.0.disturbed.load(Ordering::SeqCst) {
            // The first one after a disturbing test makes it whole before others are let in.
            drop(turn);
            let alone = Arc::clone(&cluster.turns).write_owned().await;
            make_whole(&cluster.etcd).await?;
            turn = alone.downgrade();
        }
        Ok(Access { etcd: cluster.etcd.clone(), _turn: Turn::Shared(turn) })
    }

    /// This process's cluster, alone: the caller may disturb its nodes and need not undo it.
    ///
    /// # Errors
    ///
    /// As [`Etcd::shared`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn exclusive() -> Result<Access> {
        let cluster = cluster().await?;
        let turn = Arc::clone(&cluster.turns).write_owned().await;
        make_whole(&cluster.etcd).await?;
        Ok(Access { etcd: cluster.etcd.clone(), _turn: Turn::Exclusive(turn) })
    }
}

/// A turn on the process's cluster, to which it dereferences; it ends with this value.
///
/// Do not keep a clone of the cluster beyond it.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub struct Access {
    etcd: Etcd,
    _turn: Turn,
}

impl Deref for Access {
    type Target = Etcd;

    fn deref(&self) -> &Etcd {
        &self.etcd
    }
}

/// Held for what its drop does.
#[derive(Debug)]
#[expect(dead_code, reason = "the guards are never read")]
enum Turn {
    Exclusive(OwnedRwLockWriteGuard<()>),
    Shared(OwnedRwLockReadGuard<()>),
}

struct Cluster {
    etcd: Etcd,
    turns: Arc<RwLock<()>>,
}

async fn cluster() -> Result<&'static Cluster> {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    let start = || async {
        let etcd = Etcd::builder().start().await?;
        Ok(Cluster { etcd, turns: Arc::default() })
    };
    CLUSTER.get_or_try_init(start).await
}

async fn make_whole(etcd: &Etcd) -> Result<()> {
    if etcd.0.disturbed.load(Ordering::SeqCst) { etcd.restore().await } else { Ok(()) }
}
