//! A place for one fault: a namespace, managers in it, and the leak audit at its end.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portunus_core::guard::Guard;
use portunus_core::manager::LockManager;
use portunus_testkit::cluster::{self, Access, NODES};
use portunus_zookeeper::{ZooKeeper, ZooKeeperConfig};
use tokio::task::JoinHandle;
use zookeeper_client::{AddWatchMode, Client};

/// A time to live whose renewals come each 5 s and whose sweeps come each 10 s: what happens
/// within [`PROMPT`] was told by a watch.
pub const LONG: Duration = Duration::from_secs(30);

/// How long that may take which needs a few round trips, on a machine that is busy.
pub const PROMPT: Duration = Duration::from_secs(4);

/// How long that may take which waits for an expiry or an election.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A namespace on the ensemble in containers.
pub struct Scene {
    pub cluster: Access<cluster::ZooKeeper>,
    pub namespace: String,
    alone: bool,
    managers: Mutex<Vec<LockManager>>,
    sessions: Arc<Mutex<BTreeSet<String>>>,
    watch: JoinHandle<()>,
}

/// A contender's node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    pub path: String,
    /// The zxid in which it was created: the token.
    pub czxid: u64,
    /// The session that it goes with.
    pub session: i64,
    number: i64,
}

impl Scene {
    /// For a test that leaves the nodes alone.
    pub async fn shared() -> Self {
        Self::below("").await
    }

    /// The same in a namespace of several parts, which ends in these.
    pub async fn below(parts: &str) -> Self {
        Self::open(cluster::ZooKeeper::shared().await.unwrap(), parts, false).await
    }

    /// For a test that disturbs them, or counts what they do.
    pub async fn exclusive() -> Self {
        Self::open(cluster::ZooKeeper::exclusive().await.unwrap(), "", true).await
    }

    async fn open(cluster: Access<cluster::ZooKeeper>, parts: &str, alone: bool) -> Self {
        let namespace = format!("test-{:032x}{parts}", rand::random::<u128>());
        let sessions = Arc::<Mutex<BTreeSet<String>>>::default();
        let (noted, path) = (Arc::clone(&sessions), format!("/{namespace}/.sessions"));
        let raw = Client::connect(&cluster.endpoints().join(",")).await.unwrap();
        // Alone on the ensemble no watch is needed: no other session at all may be left.
        let watch = match alone {
            true => tokio::spawn(async {}),
            false => {
                let mut news = raw.watch(&path, AddWatchMode::PersistentRecursive).await.unwrap();
                tokio::spawn(async move {
                    // The connection goes with the client.
                    let _raw = raw;
                    loop {
                        let seen = news.changed().await.path;
                        if let Some(id) = seen.strip_prefix(&format!("{path}/")) {
                            noted.lock().unwrap().insert(id.to_owned());
                        }
                    }
                })
            }
        };
        Self { cluster, namespace, alone, managers: Mutex::default(), sessions, watch }
    }

    /// A client of one node that serves: the library would stay with a frozen one for long.
    pub async fn raw(&self) -> Client {
        for node in 0..NODES {
            if self.cluster.is_healthy(node).await {
                return self.raw_at(node).await;
            }
        }
        panic!("no node serves");
    }

    pub async fn raw_at(&self, node: usize) -> Client {
        Client::connect(&self.cluster.endpoint(node)).await.unwrap()
    }

    pub fn config<H: AsRef<str>>(&self, hosts: impl IntoIterator<Item = H>) -> ZooKeeperConfig {
        ZooKeeperConfig::new(hosts).unwrap().namespace(&*self.namespace).unwrap()
    }

    /// A manager of the whole ensemble.
    pub async fn manager(&self, ttl: Duration) -> LockManager {
        self.with(self.config(self.cluster.endpoints()), ttl).await
    }

    pub async fn with(&self, config: ZooKeeperConfig, ttl: Duration) -> LockManager {
        let backend = ZooKeeper::new(config).unwrap();
        let manager = LockManager::builder(backend).ttl(ttl).open().await.unwrap();
        self.managers.lock().unwrap().push(manager.clone());
        manager
    }

    /// The node whose children are the lock's entries.
    pub fn queue(&self, name: &str) -> String {
        format!("/{}/{name}", self.namespace)
    }

    /// The entries of a lock, as the store has them, in the order of the queue.
    pub async fn entries(&self, name: &str) -> Vec<Entry> {
        entries(&self.raw().await, &self.queue(name)).await
    }

    /// Waits until `count` entries stand in the queue of a lock.
    pub async fn queued(&self, name: &str, count: usize) -> Vec<Entry> {
        let (raw, queue) = (self.raw().await, self.queue(name));
        eventually(PATIENCE, &format!("{count} entries in {name}"), async || {
            // To read each of many nodes takes too long to do it again and again.
            let found = children(&raw, &queue).await.len();
            if found == count { Ok(()) } else { Err(found) }
        })
        .await;
        entries(&raw, &queue).await
    }

    /// The node to which the session of this entry is connected.
    pub async fn seat(&self, session: i64) -> Option<usize> {
        for node in 0..NODES {
            // A node that is down or frozen says nothing.
            let connections = self.cluster.ask(node, "cons").await.unwrap_or_default();
            if connections.contains(&format!("sid=0x{session:x},")) {
                return Some(node);
            }
        }
        None
    }

    /// The one session in the namespace.
    pub async fn session(&self) -> i64 {
        let raw = self.raw().await;
        let sessions = children(&raw, &format!("/{}/.sessions", self.namespace)).await;
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        u64::from_str_radix(&sessions[0], 16).unwrap().cast_signed()
    }

    /// Ends a session as an operator does.
    pub async fn end_session(&self, session: i64) {
        // Also told as its new time to live, which has no time to matter.
        super::session::end_id(&self.cluster.endpoint(0), session, LONG).await;
    }

    /// A number that the node counts.
    pub async fn counted_at(&self, node: usize, name: &str) -> u64 {
        self.cluster.mntr(node).await.unwrap()[name].parse().unwrap()
    }

    /// The sum over all nodes of a number that they count.
    pub async fn counted(&self, name: &str) -> u64 {
        let mut sum = 0;
        for node in 0..NODES {
            sum += self.counted_at(node, name).await;
        }
        sum
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
        let raw = self.raw().await;
        let root = format!("/{}", self.namespace);
        eventually(PATIENCE, "no node left", async || {
            // The test's own: on the shared ensemble no other session is in this namespace.
            let sessions = children(&raw, &format!("{root}/.sessions")).await;
            let left = super::left(&raw, &root, &sessions).await;
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
        drop(raw);
        let noted = self.sessions.lock().unwrap().clone();
        assert!(self.alone || !noted.is_empty(), "the audit knows of no session");
        self.watch.abort();
        eventually(PATIENCE, "no session and no watch left", async || {
            let traces = traces(&self.cluster, (!self.alone).then_some(&noted)).await;
            if traces.is_empty() { Ok(()) } else { Err(traces) }
        })
        .await;
    }
}

/// What the servers know of these sessions, or of any if none are given: that they live, what goes
/// with them, and what they watch.
async fn traces(cluster: &cluster::ZooKeeper, of: Option<&BTreeSet<String>>) -> Vec<String> {
    // The leader alone decides which sessions live.
    let mut known = cluster.ask(cluster.leader().await.unwrap(), "dump").await.unwrap();
    for node in 0..NODES {
        known += &cluster.ask(node, "wchc").await.unwrap();
    }
    let traces =
        known.lines().map(|line| line.trim().trim_end_matches(':')).filter(|line| {
            match (line.strip_prefix("0x"), of) {
                (Some(id), Some(sessions)) => sessions.contains(id),
                (id, of) => id.is_some() && of.is_none(),
            }
        });
    traces.map(str::to_owned).collect()
}

async fn entries(raw: &Client, queue: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for child in children(raw, queue).await {
        let path = format!("{queue}/{child}");
        let Some(stat) = raw.check_stat(&path).await.unwrap() else { continue };
        let number = child[child.len() - 10..].parse().unwrap();
        let czxid = stat.czxid.try_into().unwrap();
        entries.push(Entry { path, czxid, session: stat.ephemeral_owner, number });
    }
    entries.sort_by_key(|entry| entry.number);
    entries
}

/// The children of a node, no older than this call.
pub async fn children(raw: &Client, path: &str) -> Vec<String> {
    raw.sync(path).await.unwrap();
    super::children(raw, path).await
}

/// Acquires in the background.
pub fn acquire(
    manager: &LockManager,
    name: &str,
) -> JoinHandle<portunus_core::error::Result<Guard>> {
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
