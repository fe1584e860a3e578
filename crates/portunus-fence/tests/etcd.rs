//! The fence in etcd: the suite on a real cluster, and what is particular to it.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::Arc;

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use portunus_core::name::LockName;
use portunus_core::token::{Incarnation, Origin};
use portunus_fence::etcd::EtcdFence;
use portunus_fence::{ErrorKind, Fence, FencingToken};
use portunus_testkit::cluster::{Access, Etcd, NODES};
use portunus_testkit::{FenceHarness, async_trait};
use tokio::sync::Mutex;

portunus_testkit::fence_conformance! {
    #[ignore = "needs a cluster: `cargo xtask test`"]
    Store::open
}

/// A prefix of its own on the shared cluster.
struct Store {
    access: Mutex<Option<Access<Etcd>>>,
    prefix: String,
}

impl Store {
    async fn open() -> Self {
        let access = Mutex::new(Some(Etcd::shared().await.unwrap()));
        Self { access, prefix: format!("test-{:032x}", rand::random::<u128>()) }
    }

    async fn client(&self) -> Client {
        let endpoints = self.access.lock().await.as_ref().unwrap().endpoints();
        Client::connect(&endpoints[..1], None).await.unwrap()
    }

    async fn etcd(&self) -> EtcdFence {
        EtcdFence::new(self.client().await, &*self.prefix)
    }

    async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.client().await.get(key, None).await.unwrap();
        answer.kvs().first().map(|kv| kv.value().to_vec())
    }
}

#[async_trait]
impl FenceHarness for Store {
    async fn fence(&self) -> Arc<dyn Fence> {
        Arc::new(self.etcd().await)
    }

    async fn restart(&self) {
        let mut access = self.access.lock().await;
        drop(access.take());
        let etcd = Etcd::exclusive().await.unwrap();
        for node in 0..NODES {
            etcd.kill(node).await.unwrap();
        }
        for node in 0..NODES {
            etcd.restart(node).await.unwrap();
        }
        etcd.wait_healthy().await.unwrap();
        *access = Some(etcd);
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_step_is_done_with_its_mark_or_not_at_all() {
    let store = Store::open().await;
    let (fence, key) = (store.etcd().await, format!("{}-data", store.prefix));
    let put = |value: &str| Txn::new().and_then([TxnOp::put(&*key, value, None)]);
    assert!(fence.update("a/b", &token(7), put("seven")).await.unwrap().succeeded());
    assert_eq!(store.get(&key).await.as_deref(), Some(&b"seven"[..]));
    let mark = store.get(&format!("{}/a%2Fb/mark", store.prefix)).await.unwrap();
    assert_eq!(mark, b"016c73746f636b:00000000000000000007");
    let error = fence.update("a/b", &token(6), put("six")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error:#}");
    let error = fence.update("a/b", &other(8), put("eight")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:#}");
    for bad in [token(0), weak(8)] {
        let error = fence.update("a/b", &bad, put("none")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:#}");
    }
    assert_eq!(store.get(&key).await.as_deref(), Some(&b"seven"[..]));
    assert_eq!(fence.mark("a/b").await.unwrap(), Some(token(7)));
    let allowed = weak(8).allow_weak();
    assert!(fence.update("a/b", &allowed, put("eight")).await.unwrap().succeeded());
    assert_eq!(store.get(&key).await.as_deref(), Some(&b"eight"[..]));
}

/// Also where the origin's bytes are before those of the mark's.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn other_origins_are_refused_on_either_side() {
    let fence = Store::open().await.etcd().await;
    fence.open("low", &other(7)).await.unwrap();
    fence.open("high", &token(7)).await.unwrap();
    for value in [1, 7, 8, u64::MAX] {
        let error = fence.open("low", &token(value)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:#}");
        let error = fence.open("high", &other(value)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:#}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_steps_own_conditions_keep_their_meaning() {
    let store = Store::open().await;
    let (fence, key) = (store.etcd().await, format!("{}-data", store.prefix));
    let once = || {
        Txn::new()
            .when([Compare::version(&*key, CompareOp::Equal, 0)])
            .and_then([TxnOp::put(&*key, "first", None)])
            .or_else([TxnOp::get(&*key, None)])
    };
    assert!(fence.update("a", &token(1), once()).await.unwrap().succeeded());
    let answer = fence.update("a", &token(2), once()).await.unwrap();
    assert!(!answer.succeeded());
    let [TxnOpResponse::Get(found)] = &answer.op_responses()[..] else { panic!("{answer:?}") };
    assert_eq!(found.kvs()[0].value(), b"first");
    assert_eq!(fence.mark("a").await.unwrap(), Some(token(2)));
    // Nothing to do is a step, too.
    assert!(fence.update("a", &token(3), Txn::new()).await.unwrap().succeeded());
    assert_eq!(fence.mark("a").await.unwrap(), Some(token(3)));
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_step_that_the_server_does_not_take_is_told() {
    let store = Store::open().await;
    let (fence, mark) = (store.etcd().await, format!("{}/a/mark", store.prefix));
    fence.open("a", &token(1)).await.unwrap();
    let key = |n: usize| format!("{}-{n}", store.prefix);
    let puts = |count| {
        Txn::new().and_then((0..count).map(|n| TxnOp::put(key(n), "x", None)).collect::<Vec<_>>())
    };
    let lease = PutOptions::new().with_lease(4711);
    for (step, said) in [
        (Txn::new().and_then([TxnOp::put(&*mark, "forged", None)]), "duplicate key"),
        (puts(126), "too many operations"),
        (Txn::new().and_then([TxnOp::put(key(0), vec![0; 1_600_000], None)]), "too large"),
        (Txn::new().and_then([TxnOp::put(key(0), "x", Some(lease))]), "lease not found"),
    ] {
        let error = fence.update("a", &token(2), step).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:#}");
        assert!(format!("{error:#}").contains(said), "{error:#}");
    }
    assert_eq!(fence.mark("a").await.unwrap(), Some(token(1)));
    assert_eq!(store.get(&key(0)).await, None);
    fence.update("a", &token(2), puts(125)).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_key_that_is_no_mark_is_not_written_over() {
    let store = Store::open().await;
    let fence = store.etcd().await;
    let key = format!("{}/a/mark", store.prefix);
    for garbled in ["hello", "", "zz", "016c73746f636b:7", "016c73746f636b:99999999999999999999"] {
        store.client().await.put(&*key, garbled, None).await.unwrap();
        let error = fence.open("a", &token(7)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{garbled}: {error:#}");
        assert_eq!(store.get(&key).await.as_deref(), Some(garbled.as_bytes()));
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_applied_nothing() {
    let client = Client::connect(["127.0.0.1:1"], None).await.unwrap();
    let fence = EtcdFence::new(client, "fences");
    let error = fence.admit("a", &token(1), b"x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    assert!(error.to_string().starts_with("etcd fence admit a: "), "{error}");
}

fn token(value: u64) -> FencingToken {
    of("stock", value)
}

fn weak(value: u64) -> FencingToken {
    FencingToken::new_weak(value, token(value).origin().clone())
}

fn other(value: u64) -> FencingToken {
    of("bonds", value)
}

fn of(lock: &str, value: u64) -> FencingToken {
    let origin = Origin::new(Incarnation::new(b"l").unwrap(), LockName::new(lock).unwrap());
    FencingToken::new(value, origin)
}
