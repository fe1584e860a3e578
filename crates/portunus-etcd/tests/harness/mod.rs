//! A namespace of its own on the shared cluster, or on the cluster that `PORTUNUS_TEST_ETCD` names.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod scene;

use async_trait::async_trait;
use etcd_client::{Client, GetOptions};
use portunus_core::backend::{LockBackend, Session};
use portunus_core::url::StoreUrl;
use portunus_etcd::{Etcd, EtcdConfig};
use portunus_testkit::cluster::{self, Access};
use portunus_testkit::harness::Harness;
use std::sync::Arc;
use std::time::Duration;

/// One test's namespace.
pub struct EtcdHarness {
    url: String,
    namespace: String,
    raw: Client,
    /// Keeps disturbing tests away while this one runs.
    _access: Option<Access>,
}

impl EtcdHarness {
    pub async fn open() -> Self {
        let access = match std::env::var("PORTUNUS_TEST_ETCD") {
            Ok(url) => (url, None),
            Err(_) => {
                let access = cluster::Etcd::shared().await.unwrap();
                (format!("etcd://{}", access.endpoints().join(",")), Some(access))
            }
        };
        let (url, access) = access;
        let mut parsed = StoreUrl::parse(&url).unwrap();
        let login = parsed.login().map(|(user, password)| (user.to_owned(), password.to_owned()));
        assert!(parsed.take_bool("tls").unwrap() != Some(true), "the suite's own audit is plain");
        let mut options = etcd_client::ConnectOptions::new();
        if let Some((user, password)) = login {
            options = options.with_user(user, password);
        }
        let raw = Client::connect(parsed.hosts(), Some(options)).await.unwrap();
        let namespace = format!("test-{:032x}", rand::random::<u128>());
        Self { url, namespace, raw, _access: access }
    }
}

#[async_trait]
impl Harness for EtcdHarness {
    async fn backend(&self) -> Arc<dyn LockBackend> {
        let mut url = StoreUrl::parse(&self.url).unwrap();
        let config = EtcdConfig::from_url(&mut url).unwrap().namespace(&*self.namespace).unwrap();
        Arc::new(Etcd::new(config).unwrap())
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn end_session(&self, session: &Session) {
        let lease = i64::try_from(session.id.0).unwrap();
        self.raw.clone().lease_revoke(lease).await.unwrap();
    }

    async fn audit(&self, sessions: &[Session]) -> Vec<String> {
        let leases = sessions.iter().map(|session| i64::try_from(session.id.0).unwrap());
        left(&mut self.raw.clone(), &self.namespace, leases).await
    }
}

/// What is left of a namespace, and which of these leases live.
async fn left(
    raw: &mut Client,
    namespace: &str,
    leases: impl Iterator<Item = i64> + Send,
) -> Vec<String> {
    let mut left = Vec::new();
    let options = GetOptions::new().with_prefix().with_keys_only();
    let keys = raw.get(format!("{namespace}/"), Some(options)).await.unwrap();
    for key in keys.kvs() {
        let key = key.key_str().unwrap();
        if !key.ends_with("/.incarnation") {
            left.push(format!("key {key}"));
        }
    }
    for lease in leases {
        if raw.lease_time_to_live(lease, None).await.unwrap().ttl() > 0 {
            left.push(format!("lease {lease:x}"));
        }
    }
    left
}
