//! A place for one fault: a namespace, managers in it, and the leak audit at its end.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{Client, GetOptions, KeyValue, WatchOptions};
use portunus_core::error::Result;
use portunus_core::guard::Guard;
use portunus_core::manager::LockManager;
use portunus_etcd::{Etcd, EtcdConfig};
use portunus_testkit::cluster::{self, Access, NODES};
use tokio::task::JoinHandle;

/// A time to live whose renewals and sweeps come each 10 s: what happens within [`PROMPT`] was
/// told by a watch.
pub const LONG: Duration = Duration::from_secs(30);

/// How long that may take which needs a few round trips, on a machine that is busy.
pub const PROMPT: Duration = Duration::from_secs(8);

/// How long that may take which waits for an expiry or an election.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A namespace on the cluster in containers.
pub struct Scene {
    pub cluster: Access,
    pub namespace: String,
    alone: bool,
    managers: Mutex<Vec<LockManager>>,
    leases: Arc<Mutex<BTreeSet<i64>>>,
    watch: JoinHandle<()>,
}

impl Scene {
    /// For a test that leaves the nodes alone.
    pub async fn shared() -> Self {
        let namespace = format!("test-{:032x}", rand::random::<u128>());
        Self::open(cluster::Etcd::shared().await.unwrap(), namespace, false).await
    }

    /// For a test that disturbs them.
    pub async fn exclusive() -> Self {
        let namespace = format!("test-{:032x}", rand::random::<u128>());
        Self::open(cluster::Etcd::exclusive().await.unwrap(), namespace, true).await
    }

    /// On the shared cluster, with keys that the test names itself, all below `namespace/`.
    pub async fn at(namespace: String) -> Self {
        Self::open(cluster::Etcd::shared().await.unwrap(), namespace, false).await
    }

    async fn open(cluster: Access, namespace: String, alone: bool) -> Self {
        let leases = Arc::<Mutex<BTreeSet<i64>>>::default();
        let (noted, prefix) = (Arc::clone(&leases), format!("{namespace}/"));
        let mut raw = Client::connect(cluster.endpoints(), None).await.unwrap();
        let options = WatchOptions::new().with_prefix();
        let mut stream = raw.watch(prefix, Some(options)).await.unwrap();
        stream.message().await.unwrap().expect("it was created");
        // Alone on the cluster no watch is needed: no lease at all may be left.
        let watch = tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                let seen = message.events().iter().filter_map(|event| event.kv());
                let seen = seen.map(KeyValue::lease).filter(|lease| *lease != 0);
                noted.lock().unwrap().extend(seen);
            }
        });
        Self { cluster, namespace, alone, managers: Mutex::default(), leases, watch }
    }

    /// A client of one node that serves: this library would try several.
    pub async fn raw(&self) -> Client {
        for node in 0..NODES {
            if self.cluster.is_healthy(node).await {
                return Client::connect([self.cluster.endpoint(node)], None).await.unwrap();
            }
        }
        panic!("no node serves");
    }

    pub fn config<H: AsRef<str>>(&self, hosts: impl IntoIterator<Item = H>) -> EtcdConfig {
        EtcdConfig::new(hosts).unwrap().namespace(&*self.namespace).unwrap()
    }

    /// A manager of the whole cluster.
    pub async fn manager(&self, ttl: Duration) -> LockManager {
        self.with(self.config(self.cluster.endpoints()), ttl).await
    }

    pub async fn with(&self, config: EtcdConfig, ttl: Duration) -> LockManager {
        let backend = Etcd::new(config).unwrap();
        let manager = LockManager::builder(backend).ttl(ttl).open().await.unwrap();
        self.managers.lock().unwrap().push(manager.clone());
        manager
    }

    /// The entries of a lock, as the store has them, in the order of the queue.
    pub async fn entries(&self, name: &str) -> Vec<KeyValue> {
        entries(&mut self.raw().await, &format!("{}/{name}/", self.namespace)).await
    }

    /// Waits until `count` entries stand in the queue of a lock.
    pub async fn queued(&self, name: &str, count: usize) -> Vec<KeyValue> {
        let mut raw = self.raw().await;
        let prefix = format!("{}/{name}/", self.namespace);
        eventually(PATIENCE, &format!("{count} entries in {name}"), async || {
            let found = entries(&mut raw, &prefix).await;
            if found.len() == count { Ok(found) } else { Err(found.len()) }
        })
        .await
    }

    /// The sum over all nodes, or that of one, of a counter whose lines hold all of `words`.
    pub async fn counted(&self, node: Option<usize>, words: &[&str]) -> u64 {
        let nodes = node.map_or(0..NODES, |node| node..node + 1);
        let mut sum = 0.0;
        for node in nodes {
            let metrics = self.cluster.metrics(node).await.unwrap();
            let lines = metrics.lines().filter(|line| words.iter().all(|word| line.contains(word)));
            sum += lines
                .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
                .sum::<f64>();
        }
        format!("{sum:.0}").parse().unwrap()
    }

    /// Undoes the faults, closes the managers, and fails when something of ours is left.
    pub async fn end(self) {
        if self.alone {
            self.cluster.restore().await.unwrap();
        }
        let managers = std::mem::take(&mut *self.managers.lock().unwrap());
        for manager in managers {
            manager.shutdown(PROMPT).await.unwrap();
        }
        let mut raw = self.raw().await;
        eventually(PATIENCE, "nothing left", async || {
            let mut leases = self.leases.lock().unwrap().clone();
            if self.alone {
                let all = raw.leases().await.unwrap();
                leases = all.leases().iter().map(|lease| lease.id()).collect();
            }
            let left = super::left(&mut raw, &self.namespace, leases.into_iter()).await;
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
        self.watch.abort();
    }
}

async fn entries(raw: &mut Client, prefix: &str) -> Vec<KeyValue> {
    let options = GetOptions::new().with_prefix();
    let mut found = raw.get(prefix, Some(options)).await.unwrap().take_kvs();
    found.sort_by_key(KeyValue::create_revision);
    found
}

/// Fails when a key or a lease is left on a cluster of a test's own.
pub async fn empty(etcd: &cluster::Etcd) {
    eventually(PATIENCE, "nothing left", async || {
        let keys = etcd.etcdctl(0, &["get", "--prefix", "--keys-only", ""]).await.unwrap();
        let mut keys = keys.stdout.lines().filter(|key| !key.is_empty());
        let key = keys.find(|key| !key.ends_with("/.incarnation")).map(str::to_owned);
        let leases = etcd.etcdctl(0, &["lease", "list"]).await.unwrap().stdout;
        match key {
            None if leases.starts_with("found 0 leases") => Ok(()),
            key => Err((key, leases)),
        }
    })
    .await;
}

/// Acquires in the background.
pub fn acquire(manager: &LockManager, name: &str) -> JoinHandle<Result<Guard>> {
    let lock = manager.lock(name).unwrap();
    tokio::spawn(async move { lock.acquire().await })
}

/// Asks again and again until the answer is `Ok`; fails with the last `Err` after `limit`.
pub async fn eventually<T, E: Debug>(
    limit: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let mut last = None;
    let asking = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(answer) => last = Some(answer),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(limit, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within {limit:?}: {what}; last seen: {last:?}"),
    }
}

/// Awaits `future`; fails after `limit`.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}
