//! A namespace of its own on the shared ensemble, or on the one that `PORTUNUS_TEST_ZOOKEEPER`
//! names.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

pub mod scene;
pub mod session;
pub mod trace;
pub mod ways;

use async_trait::async_trait;
use portunus_core::backend::{LockBackend, Session};
use portunus_core::url::StoreUrl;
use portunus_testkit::cluster::{self, Access};
use portunus_testkit::harness::Harness;
use portunus_zookeeper::{ZooKeeper, ZooKeeperConfig};
use std::sync::Arc;
use std::time::Duration;
use zookeeper_client::{Client, Error};

/// One test's namespace.
pub struct ZooKeeperHarness {
    url: String,
    hosts: Vec<String>,
    namespace: String,
    raw: Client,
    /// Keeps disturbing tests away while this one runs.
    _access: Option<Access<cluster::ZooKeeper>>,
}

impl ZooKeeperHarness {
    pub async fn open() -> Self {
        let (url, access) = match std::env::var("PORTUNUS_TEST_ZOOKEEPER") {
            Ok(url) => (url, None),
            Err(_) => {
                let access = cluster::ZooKeeper::shared().await.unwrap();
                (format!("zookeeper://{}", access.endpoints().join(",")), Some(access))
            }
        };
        let mut parsed = StoreUrl::parse(&url).unwrap();
        assert!(parsed.take_bool("tls").unwrap() != Some(true), "the suite's own audit is plain");
        let mut connector = Client::connector();
        if let Some((user, password)) = parsed.login() {
            connector = connector.with_auth("digest", format!("{user}:{password}").as_bytes());
        }
        let hosts = parsed.hosts().to_vec();
        let raw = connector.connect(&hosts.join(",")).await.unwrap();
        let namespace = format!("test-{:032x}", rand::random::<u128>());
        Self { url, hosts, namespace, raw, _access: access }
    }

    fn config(&self) -> ZooKeeperConfig {
        let mut url = StoreUrl::parse(&self.url).unwrap();
        ZooKeeperConfig::from_url(&mut url).unwrap().namespace(&*self.namespace).unwrap()
    }
}

#[async_trait]
impl Harness for ZooKeeperHarness {
    async fn backend(&self) -> Arc<dyn LockBackend> {
        Arc::new(ZooKeeper::new(self.config()).unwrap())
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn end_session(&self, session: &Session) {
        session::end(&self.hosts[0], session).await;
    }

    async fn silence(&self, session: &Session) {
        // A server that still has the client's connection goes on to count its pings.
        for host in &self.hosts {
            session::take_over(host, session).await;
        }
    }

    async fn audit(&self, sessions: &[Session]) -> Vec<String> {
        let url = StoreUrl::parse(&self.url).unwrap();
        let root = format!("{}/{}", url.path().trim_end_matches('/'), self.namespace);
        let ids = sessions.iter().map(|session| session.id.to_string());
        left(&self.raw, &root, &ids.collect::<Vec<_>>()).await
    }
}

/// What is left below a namespace but for empty containers, which the server removes by itself; of
/// the session nodes only those of these sessions.
pub async fn left(raw: &Client, root: &str, sessions: &[String]) -> Vec<String> {
    raw.sync(root).await.unwrap_or_default();
    let mut left = Vec::new();
    for child in children(raw, root).await {
        for entry in children(raw, &format!("{root}/{child}")).await {
            if child != ".sessions" || sessions.contains(&entry) {
                left.push(format!("node {child}/{entry}"));
            }
        }
    }
    left
}

pub async fn children(raw: &Client, path: &str) -> Vec<String> {
    match raw.list_children(path).await {
        Err(Error::NoNode) => Vec::new(),
        children => children.unwrap(),
    }
}
