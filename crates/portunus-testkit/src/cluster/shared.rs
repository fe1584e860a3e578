//! One cluster for all tests of a process, which take turns on it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, OnceCell, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::{Cluster, Etcd, Result};

/// A turn on the process's cluster of a store, to which it dereferences; it ends with this value.
///
/// Do not keep a clone of the cluster beyond it.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub struct Access<S = Etcd> {
    store: S,
    _turn: Turn,
}

impl<S> Deref for Access<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.store
    }
}

/// The process's cluster of one store, and whose turn it is.
pub(super) struct Turns<S> {
    start: fn() -> BoxFuture<'static, Result<S>>,
    started: OnceCell<Started<S>>,
}

impl<S: Clone + Deref<Target = Cluster> + Send + Sync> Turns<S> {
    /// No cluster yet: the first turn starts it.
    pub(super) const fn new(start: fn() -> BoxFuture<'static, Result<S>>) -> Self {
        Self { start, started: OnceCell::const_new() }
    }

    /// A turn together with others.
    pub(super) async fn shared(&self) -> Result<Access<S>> {
        let Started { store, turns, mending } = self.started().await?;
        loop {
            let turn = Arc::clone(turns).read_owned().await;
            if !is_disturbed(store) {
                return Ok(Access { store: store.clone(), _turn: Turn::Shared(turn) });
            }
            drop(turn);
            // One of those who see it makes it whole. The others must not wait for a turn alone: the
            // first may keep its own until they have theirs.
            let _mending = mending.lock().await;
            if is_disturbed(store) {
                let _alone = turns.write().await;
                make_whole(store).await?;
            }
        }
    }

    /// A turn alone.
    pub(super) async fn exclusive(&self) -> Result<Access<S>> {
        let Started { store, turns, .. } = self.started().await?;
        let turn = Arc::clone(turns).write_owned().await;
        make_whole(store).await?;
        Ok(Access { store: store.clone(), _turn: Turn::Exclusive(turn) })
    }

    async fn started(&self) -> Result<&Started<S>> {
        let start = || async {
            Ok(Started {
                store: (self.start)().await?,
                turns: Arc::default(),
                mending: Mutex::default(),
            })
        };
        self.started.get_or_try_init(start).await
    }
}

struct Started<S> {
    store: S,
    turns: Arc<RwLock<()>>,
    mending: Mutex<()>,
}

/// Held for what its drop does.
#[derive(Debug)]
#[expect(dead_code, reason = "the guards are never read")]
enum Turn {
    Exclusive(OwnedRwLockWriteGuard<()>),
    Shared(OwnedRwLockReadGuard<()>),
}

fn is_disturbed(cluster: &Cluster) -> bool {
    cluster.0.disturbed.load(Ordering::SeqCst)
}

async fn make_whole(cluster: &Cluster) -> Result<()> {
    if is_disturbed(cluster) { cluster.restore().await } else { Ok(()) }
}
