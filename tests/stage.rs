//! What the tests of whole processes share: a store with the cluster alone, or a file of its own.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test uses a part of it")]

use std::fmt::Debug;
use std::time::Duration;

use nix::sys::signal::Signal;
use portunus::LockManager;
use portunus_testkit::cluster::{Access, Cluster, Etcd, MariaDb, Postgres, Redis, ZooKeeper};
use tokio::time::{Instant, sleep};

use crate::file::File;

/// The shortest that etcd grants.
pub(crate) const TTL: Duration = Duration::from_secs(2);
/// Both stores look for what expired each half second, at most; the rest is for a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(4);
/// How long that may take which needs a few round trips.
pub(crate) const PROMPT: Duration = Duration::from_secs(3);

/// Makes each test once for each store; those of `servers` for those alone that have some, which can be
/// paused.
macro_rules! on_every_store {
    ($($test:ident)+ $(; servers: $($of_servers:ident)+)?) => {
        crate::stage::on_every_cluster! { $($test)+ $($($of_servers)+)? }
        mod mariadb {
            $(
                #[tokio::test]
                #[ignore = "needs a server: `cargo xtask test`"]
                async fn $test() {
                    super::$test(crate::stage::Scene::mariadb().await).await;
                }
            )+
            $($(
                #[tokio::test]
                #[ignore = "needs a server: `cargo xtask test`"]
                async fn $of_servers() {
                    super::$of_servers(crate::stage::Scene::mariadb().await).await;
                }
            )+)?
        }
        mod postgres {
            $(
                #[tokio::test]
                #[ignore = "needs a server: `cargo xtask test`"]
                async fn $test() {
                    super::$test(crate::stage::Scene::postgres().await).await;
                }
            )+
            $($(
                #[tokio::test]
                #[ignore = "needs a server: `cargo xtask test`"]
                async fn $of_servers() {
                    super::$of_servers(crate::stage::Scene::postgres().await).await;
                }
            )+)?
        }
        // Weak tokens are in order, too, as long as the server keeps what it acknowledged.
        mod redis {
            $(
                #[tokio::test]
                #[ignore = "needs a server: `cargo xtask test`"]
                async fn $test() {
                    super::$test(crate::stage::Scene::redis().await).await;
                }
            )+
            $($(
                #[tokio::test]
                #[ignore = "needs a server: `cargo xtask test`"]
                async fn $of_servers() {
                    super::$of_servers(crate::stage::Scene::redis().await).await;
                }
            )+)?
        }
        mod sqlite {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(crate::stage::Scene::sqlite().await).await;
                }
            )+
        }
    };
}
pub(crate) use on_every_store;

/// Makes each test once for each store with nodes that replace each other.
macro_rules! on_every_cluster {
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
pub(crate) use on_every_cluster;

/// A store that nobody else uses.
pub(crate) struct Scene {
    store: Store,
    /// Looks at queues, with a session of its own.
    pub(crate) observer: LockManager,
}

enum Store {
    Etcd(Access<Etcd>),
    MariaDb(Access<MariaDb>),
    Postgres(Access<Postgres>),
    Redis(Access<Redis>),
    Sqlite(File),
    ZooKeeper(Access<ZooKeeper>),
}

impl Scene {
    pub(crate) async fn etcd() -> Self {
        Self::open(Store::Etcd(Etcd::exclusive().await.unwrap())).await
    }

    pub(crate) async fn zookeeper() -> Self {
        Self::open(Store::ZooKeeper(ZooKeeper::exclusive().await.unwrap())).await
    }

    pub(crate) async fn mariadb() -> Self {
        Self::open(Store::MariaDb(MariaDb::exclusive().await.unwrap())).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::open(Store::Postgres(Postgres::exclusive().await.unwrap())).await
    }

    pub(crate) async fn redis() -> Self {
        Self::open(Store::Redis(Redis::exclusive().await.unwrap())).await
    }

    pub(crate) async fn sqlite() -> Self {
        Self::open(Store::Sqlite(File::new())).await
    }

    async fn open(store: Store) -> Self {
        let observer = portunus::connect(store.url("30s")).await.unwrap();
        Self { store, observer }
    }

    pub(crate) fn url(&self, ttl: &str) -> String {
        self.store.url(ttl)
    }

    /// # Panics
    ///
    /// Where there are no servers: a test that calls this is made for the others alone.
    pub(crate) fn cluster(&self) -> &Cluster {
        self.store.cluster().expect("a file has no servers")
    }

    /// Stops a process, by its `signal`, at a moment at which it holds up nobody else: in the middle of a
    /// commit it would take a file's write lock along.
    pub(crate) async fn stop(&self, signal: impl Fn(Signal)) {
        signal(Signal::SIGSTOP);
        if let Store::Sqlite(file) = &self.store {
            while !file.is_writable().await {
                signal(Signal::SIGCONT);
                signal(Signal::SIGSTOP);
            }
        }
    }

    /// Why a process that wakes up past its deadline may say that it lost its lock: where its session is a
    /// row, whoever of its own looks first says it.
    pub(crate) fn losses(&self) -> &'static [&'static str] {
        match self.store {
            Store::Etcd(_) | Store::ZooKeeper(_) => &["Expired"],
            Store::MariaDb(_) | Store::Postgres(_) | Store::Redis(_) | Store::Sqlite(_) => {
                &["Expired", "SessionEnded"]
            }
        }
    }

    /// No node answers from now on.
    pub(crate) async fn pause(&self) {
        for node in 0..self.cluster().endpoints().len() {
            self.cluster().pause(node).await.unwrap();
        }
    }

    pub(crate) async fn unpause(&self) {
        for node in 0..self.cluster().endpoints().len() {
            self.cluster().unpause(node).await.unwrap();
        }
        // What the servers take to agree again is theirs.
        self.cluster().wait_healthy().await.unwrap();
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
        // Of some stores no server looks for the dead: who looks at a lock does.
        eventually("the dead are found", async || {
            self.observer.contenders("a").await.unwrap();
            let left = self.store.left().await;
            if self.store.has_dead(&left) { Err(left) } else { Ok(()) }
        })
        .await;
        self.observer.shutdown(PROMPT).await.unwrap();
        eventually("nothing left", async || {
            let left = self.store.left().await;
            if left.iter().all(|line| line.starts_with("0 ")) { Ok(()) } else { Err(left) }
        })
        .await;
    }
}

impl Store {
    fn cluster(&self) -> Option<&Cluster> {
        match self {
            Self::Etcd(etcd) => Some(etcd),
            Self::MariaDb(mariadb) => Some(mariadb),
            Self::Postgres(postgres) => Some(postgres),
            Self::Redis(redis) => Some(redis),
            Self::Sqlite(_) => None,
            Self::ZooKeeper(zookeeper) => Some(zookeeper),
        }
    }

    fn url(&self, ttl: &str) -> String {
        match self {
            Self::Etcd(etcd) => format!("etcd://{}?ttl={ttl}", etcd.endpoints().join(",")),
            Self::MariaDb(mariadb) => format!("{}?ttl={ttl}", mariadb.url()),
            Self::Postgres(postgres) => format!("{}?ttl={ttl}", postgres.url()),
            Self::Redis(redis) => format!("{}?ttl={ttl}&allow_weak=true", redis.url()),
            Self::Sqlite(file) => file.url(ttl),
            Self::ZooKeeper(zookeeper) => {
                format!("zookeeper://{}?ttl={ttl}", zookeeper.endpoints().join(","))
            }
        }
    }

    /// Whether something is left of those who died, but for what the server itself removes.
    fn has_dead(&self, left: &[String]) -> bool {
        match self {
            Self::MariaDb(_) | Self::Postgres(_) | Self::Sqlite(_) => {
                left != ["0 in portunus_entry", "1 in portunus_session"]
            }
            Self::Redis(_) => left.iter().any(|key| key.ends_with(":line")),
            Self::Etcd(_) | Self::ZooKeeper(_) => false,
        }
    }

    /// Entries and sessions, a line each; or of each table how many.
    async fn left(&self) -> Vec<String> {
        match self {
            Self::Etcd(etcd) => {
                let keys = etcd.etcdctl(0, &["get", "--prefix", "--keys-only", ""]).await.unwrap();
                let leases = etcd.etcdctl(0, &["lease", "list"]).await.unwrap();
                let lines = keys.stdout.lines().chain(leases.stdout.lines());
                let fine = ["", "found 0 leases", "portunus/.incarnation"];
                lines.filter(|line| !fine.contains(line)).map(str::to_owned).collect()
            }
            Self::MariaDb(mariadb) => {
                let ask = ["mariadb", "--skip-column-names", "portunus", "-e", COUNTS];
                lines(&mariadb.exec(0, &ask).await.unwrap().stdout)
            }
            Self::Postgres(postgres) => {
                let ask = ["psql", "-U", "postgres", "-d", "portunus", "-tAc", COUNTS];
                lines(&postgres.exec(0, &ask).await.unwrap().stdout)
            }
            Self::Redis(redis) => {
                let ask = ["redis-cli", "eval", KEYS_IN_USE, "0"];
                let left = lines(&redis.exec(0, &ask).await.unwrap().stdout);
                left.into_iter().filter(|line| !line.is_empty()).collect()
            }
            Self::Sqlite(file) => {
                TABLES.iter().map(|table| format!("{} in {table}", file.count(table))).collect()
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

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

const TABLES: [&str; 2] = ["portunus_entry", "portunus_session"];
const COUNTS: &str = "SELECT concat(count(*), ' in portunus_entry') FROM portunus_entry; \
    SELECT concat(count(*), ' in portunus_session') FROM portunus_session";

/// All but what is there for good, and the sessions that are closed.
const KEYS_IN_USE: &str = "local left = {} \
    for _, key in ipairs(redis.call('KEYS', 'portunus:*')) do \
      local is_hash = redis.call('TYPE', key).ok == 'hash' \
      local is_over = is_hash and redis.call('HEXISTS', key, 'closed') == 1 \
      if key ~= 'portunus:node' and not is_over then left[#left + 1] = key end \
    end return left";

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
