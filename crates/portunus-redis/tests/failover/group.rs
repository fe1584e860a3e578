//! A namespace of its own on servers that all tests share, of which none is disturbed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use portunus_core::backend::{
    Attempt, AttemptId, Entered, EntryId, LockBackend, LockObserver, Mode, Session, Turn,
};
use portunus_core::name::LockName;
use portunus_redis::Redis;
use portunus_testkit::cluster::RedisGroup;
use portunus_testkit::harness::Harness;
use tokio::sync::OnceCell;

use crate::harness::{client, left, raw};

/// One test's namespace.
pub struct GroupHarness {
    url: String,
    namespace: String,
    /// What the keys begin with.
    keys: String,
    raw: redis::aio::MultiplexedConnection,
}

impl GroupHarness {
    pub async fn sentinels() -> Self {
        static GROUP: OnceCell<RedisGroup> = OnceCell::const_new();
        let namespace = namespace();
        let keys = namespace.clone();
        Self::on(GROUP.get_or_try_init(RedisGroup::sentinels).await.unwrap(), namespace, keys).await
    }

    pub async fn cluster() -> Self {
        static GROUP: OnceCell<RedisGroup> = OnceCell::const_new();
        let namespace = namespace();
        let keys = format!("{{{namespace}}}");
        Self::on(GROUP.get_or_try_init(RedisGroup::cluster).await.unwrap(), namespace, keys).await
    }

    async fn on(group: &RedisGroup, namespace: String, keys: String) -> Self {
        let master = group.master(&keys).await.expect("there is no master");
        let raw = raw(format!("redis://{}", group.address(master))).await;
        Self { url: group.url(), namespace, keys, raw }
    }

    fn redis(&self) -> Redis {
        client(&self.url, &self.namespace)
    }
}

#[async_trait]
impl Harness for GroupHarness {
    async fn backend(&self) -> Arc<dyn LockBackend> {
        Arc::new(self.redis())
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(1500)
    }

    async fn end_session(&self, session: &Session) {
        self.redis().close_session(session).await.unwrap();
    }

    async fn audit(&self, _: &[Session]) -> Vec<String> {
        let redis = self.redis();
        for name in redis.names("", None).await.unwrap().names {
            redis.queue(&name).await.unwrap();
        }
        left(&mut self.raw.clone(), &self.keys).await
    }
}

pub fn namespace() -> String {
    format!("test-{:032x}", rand::random::<u128>())
}

pub fn attempt(name: &str, try_only: bool) -> Attempt {
    Attempt {
        id: AttemptId(rand::random()),
        name: LockName::new(name).unwrap(),
        mode: Mode::Exclusive,
        try_only,
        value: String::new(),
        holder: Arc::default(),
    }
}

/// Takes a lock that is free.
pub async fn hold(redis: &Redis, session: &Session, name: &str) -> (Attempt, EntryId, u64) {
    let attempt = attempt(name, true);
    match redis.enter(session, &attempt).await.unwrap() {
        Entered::Queued { entry, turn: Turn::Held { token, .. } } => (attempt, entry, token),
        other => panic!("not held: {other:?}"),
    }
}
