//! What the tests of whole processes share: a store with the cluster alone.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::fmt::Debug;
use std::time::Duration;

use portunus::LockManager;
use portunus_testkit::cluster::{Access, Cluster, Etcd, NODES, ZooKeeper};
use tokio::time::{Instant, sleep};

/// The shortest that etcd grants.
pub(crate) const TTL: Duration = Duration::from_secs(2);
/// Both stores look for what expired each half second, at most; the rest is for a busy machine.
pub(crate) const SLACK: Duration = Duration::from_millis(1500);
/// How long that may take which needs a few round trips.
pub(crate) const PROMPT: Duration = Duration::from_secs(3);

/// Makes each test once for each store.
macro_rules! on_every_store {
    ($($test:ident)+) => {
        mod etcd {
            $(
                #[tokio::test]
                #[ignore = "needs a cluster: `cargo xtask test etcd`"]
                async fn $test() {
                    super::$test(crate::stage::Scene::etcd().await).await;
                }
            )+
        }
        mod zookeeper {
            $(
                #[tokio::test]
                #[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
                async fn $test() {
                    super::$test(crate::stage::Scene::zookeeper().await).await;
                }
            )+
        }
    };
}
pub(crate) use on_every_store;

/// A store with the cluster alone.
pub(crate) struct Scene {
    store: Store,
    /// Looks at queues, with a session of its own.
    pub(crate) observer: LockManager,
}

enum Store {
    Etcd(Access<Etcd>),
    ZooKeeper(Access<ZooKeeper>),
}

impl Scene {
    pub(crate) async fn etcd() -> Self {
        Self::open(Store::Etcd(Etcd::exclusive().await.unwrap())).await
    }

    pub(crate) async fn zookeeper() -> Self {
        Self::open(Store::ZooKeeper(ZooKeeper::exclusive().await.unwrap())).await
    }

    async fn open(store: Store) -> Self {
        let observer = portunus::connect(store.url("30s")).await.unwrap();
        Self { store, observer }
    }

    pub(crate) fn url(&self, ttl: &str) -> String {
        self.store.url(ttl)
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        self.store.cluster()
    }

    /// No node answers from now on.
    pub(crate) async fn pause(&self) {
        for node in 0..NODES {
            self.store.cluster().pause(node).await.unwrap();
        }
    }

    pub(crate) async fn unpause(&self) {
        for node in 0..NODES {
            self.store.cluster().unpause(node).await.unwrap();
        }
    }

    /// Waits until `count` entries stand in the queue of a lock.
    pub(crate) async fn queued(&self, name: &str, count: usize) {
        eventually(&format!("{count} entries"), async || {
            let found = self.observer.contenders(name).await.unwrap();
            if found.len() == count { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// Fails when an entry or a session is left.
    pub(crate) async fn end(self) {
        self.observer.shutdown(PROMPT).await.unwrap();
        eventually("nothing left", async || {
            let left = self.store.left().await;
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
}

impl Store {
    fn cluster(&self) -> &Cluster {
        match self {
            Self::Etcd(etcd) => etcd,
            Self::ZooKeeper(zookeeper) => zookeeper,
        }
    }

    fn url(&self, ttl: &str) -> String {
        let scheme = match self {
            Self::Etcd(_) => "etcd",
            Self::ZooKeeper(_) => "zookeeper",
        };
        format!("{scheme}://{}?ttl={ttl}", self.cluster().endpoints().join(","))
    }

    /// Entries and sessions, a line each.
    async fn left(&self) -> Vec<String> {
        match self {
            Self::Etcd(etcd) => {
                let keys = etcd.etcdctl(0, &["get", "--prefix", "--keys-only", ""]).await.unwrap();
                let leases = etcd.etcdctl(0, &["lease", "list"]).await.unwrap();
                let lines = keys.stdout.lines().chain(leases.stdout.lines());
                let fine = ["", "found 0 leases", "portunus/.incarnation"];
                lines.filter(|line| !fine.contains(line)).map(str::to_owned).collect()
            }
            Self::ZooKeeper(zookeeper) => {
                let leader = zookeeper.leader().await.unwrap();
                let dump = zookeeper.ask(leader, "dump").await.unwrap();
                let lines = dump.lines().map(str::trim);
                // Each ephemeral node, and each session with the moment at which it expires.
                lines
                    .filter(|line| line.starts_with("0x") || line.starts_with('/'))
                    .map(str::to_owned)
                    .collect()
            }
        }
    }
}

/// Asks again and again until the answer is `Ok`; fails with the last `Err` after a while.
pub(crate) async fn eventually<E: Debug>(what: &str, mut ask: impl AsyncFnMut() -> Result<(), E>) {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(()) => return,
            Err(last) if began.elapsed() > Duration::from_secs(40) => {
                panic!("not in time: {what}; last seen: {last:?}")
            }
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}
