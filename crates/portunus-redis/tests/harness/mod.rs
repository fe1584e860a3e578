//! A namespace of its own on the shared server, or on the shared five masters.
#![allow(dead_code, reason = "each test uses a part of it")]

use async_trait::async_trait;
use portunus_core::backend::{LockBackend, LockObserver, Session};
use portunus_core::url::StoreUrl;
use portunus_redis::{Redis, RedisConfig};
use portunus_testkit::cluster::{self, Access};
use portunus_testkit::harness::Harness;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

/// One test's namespace on one server.
pub struct RedisHarness {
    url: String,
    namespace: String,
    raw: MultiplexedConnection,
    /// Keeps disturbing tests away while this one runs; nothing disturbs Valkey.
    _access: Option<Access<cluster::Redis>>,
}

impl RedisHarness {
    pub async fn open() -> Self {
        let access = cluster::Redis::shared().await.unwrap();
        Self::on(access.url(), Some(access)).await
    }

    pub async fn on_valkey() -> Self {
        static VALKEY: OnceCell<cluster::Redis> = OnceCell::const_new();
        let start = || cluster::Redis::builder().valkey().start();
        Self::on(VALKEY.get_or_try_init(start).await.unwrap().url(), None).await
    }

    async fn on(url: String, access: Option<Access<cluster::Redis>>) -> Self {
        let raw = raw(&url).await;
        let namespace = format!("test-{:032x}", rand::random::<u128>());
        Self { url, namespace, raw, _access: access }
    }

    pub fn redis(&self) -> Redis {
        client(&self.url, &self.namespace)
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn raw(&self) -> MultiplexedConnection {
        self.raw.clone()
    }
}

/// A client of the servers that a URL names.
pub fn client(url: &str, namespace: &str) -> Redis {
    let mut url = StoreUrl::parse(url).unwrap();
    let config = RedisConfig::from_url(&mut url).unwrap().namespace(namespace).unwrap();
    Redis::new(config).unwrap()
}

/// A connection past the library, as patient as a busy machine asks for: by itself the client gives up after
/// half a second.
pub async fn raw(url: impl AsRef<str>) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(PATIENCE)
        .set_response_timeout(PATIENCE);
    let client = redis::Client::open(url.as_ref()).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

#[async_trait]
impl Harness for RedisHarness {
    async fn backend(&self) -> Arc<dyn LockBackend> {
        Arc::new(self.redis())
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(1500)
    }

    async fn end_session(&self, session: &Session) {
        // What an operator's client does: another than the session's own.
        self.redis().close_session(session).await.unwrap();
    }

    async fn audit(&self, _: &[Session]) -> Vec<String> {
        look(&self.redis()).await;
        left(&mut self.raw.clone(), &self.namespace).await
    }
}

/// Who crashed while waiting is found gone by whoever looks next.
async fn look(redis: &Redis) {
    for name in redis.names("", None).await.unwrap().names {
        redis.queue(&name).await.unwrap();
    }
}

/// The keys of a namespace, but for the counter's, and those that bar late requests of a closed session for a
/// while.
pub async fn left(raw: &mut MultiplexedConnection, namespace: &str) -> Vec<String> {
    let mut keys = redis::cmd("KEYS");
    keys.arg(format!("{namespace}:*"));
    let keys: Vec<String> = keys.query_async(raw).await.unwrap();
    let node = format!("{namespace}:node");
    let mut left = Vec::new();
    for key in keys.into_iter().filter(|key| !key.starts_with(&node)) {
        let mut marker = redis::pipe();
        marker.cmd("HKEYS").arg(&key).cmd("PTTL").arg(&key);
        let marker = marker.query_async::<(Vec<String>, i64)>(raw).await;
        if !marker.is_ok_and(|(fields, ttl)| fields == ["closed"] && ttl > 0) {
            left.push(key);
        }
    }
    left
}

/// One test's namespace on five masters.
pub struct RedlockHarness {
    url: String,
    namespace: String,
    nodes: Vec<String>,
    raw: Vec<MultiplexedConnection>,
    _access: Access<cluster::RedisMasters>,
}

impl RedlockHarness {
    pub async fn open() -> Self {
        let access = cluster::RedisMasters::shared().await.unwrap();
        let nodes: Vec<String> = (0..5).map(|node| access.node_url(node)).collect();
        let mut raw = Vec::new();
        for node in 0..5 {
            raw.push(self::raw(access.node_url(node)).await);
        }
        let namespace = format!("test-{:032x}", rand::random::<u128>());
        Self { url: access.url(), namespace, nodes, raw, _access: access }
    }
}

#[async_trait]
impl Harness for RedlockHarness {
    async fn backend(&self) -> Arc<dyn LockBackend> {
        Arc::new(client(&self.url, &self.namespace))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn end_session(&self, session: &Session) {
        client(&self.url, &self.namespace).close_session(session).await.unwrap();
    }

    async fn audit(&self, _: &[Session]) -> Vec<String> {
        let mut all = Vec::new();
        for (node, raw) in self.raw.iter().enumerate() {
            look(&client(&self.nodes[node], &self.namespace)).await;
            let left = left(&mut raw.clone(), &self.namespace).await;
            all.extend(left.into_iter().map(|key| format!("{node}: {key}")));
        }
        all
    }
}
