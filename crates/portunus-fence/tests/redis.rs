//! The fence in Redis: the suite on a real server, and what is particular to it.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::Arc;
use std::time::Duration;

use portunus_core::name::LockName;
use portunus_core::token::{Incarnation, Origin};
use portunus_fence::redis::{RedisFence, key_beside};
use portunus_fence::{ErrorKind, Fence, FencingToken};
use portunus_testkit::cluster::{Access, Redis};
use portunus_testkit::{FenceHarness, async_trait};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Value, cmd};

portunus_testkit::fence_conformance! {
    #[ignore = "needs a cluster: `cargo xtask test`"]
    Store::open
}

/// The whole server, without a key.
struct Store(Access<Redis>);

/// A connection whose answers are waited for that long.
async fn connect(url: String, patience: Duration) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(20)))
        .set_response_timeout(Some(patience));
    let client = Client::open(url).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

impl Store {
    async fn open() -> Self {
        let store = Self(Redis::exclusive().await.unwrap());
        store.run::<()>(&mut cmd("FLUSHALL")).await;
        store
    }

    async fn connection(&self) -> MultiplexedConnection {
        connect(self.0.url(), Duration::from_secs(20)).await
    }

    async fn redis(&self) -> RedisFence<MultiplexedConnection> {
        RedisFence::new(self.connection().await)
    }

    async fn run<T: FromRedisValue>(&self, command: &mut Cmd) -> T {
        command.query_async(&mut self.connection().await).await.unwrap()
    }
}

#[async_trait]
impl FenceHarness for Store {
    async fn fence(&self) -> Arc<dyn Fence> {
        Arc::new(self.redis().await)
    }

    async fn restart(&self) {
        self.0.kill(0).await.unwrap();
        self.0.restart(0).await.unwrap();
        self.0.wait_healthy().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_step_is_done_with_its_mark_or_not_at_all() {
    let store = Store::open().await;
    let fence = store.redis().await;
    let key = key_beside("a}b", "stock").unwrap();
    assert_eq!(key, "{a%7Db}:stock");
    let sell = || cmd("DECRBY").arg(&key).arg(2).to_owned();
    let log = || cmd("RPUSH").arg(format!("{key}:log")).arg("x y").arg(b"\0\xff").to_owned();
    let replies = fence.update("a}b", &token(7), &[sell(), log()]).await.unwrap();
    assert_eq!(replies, [Value::Int(-2), Value::Int(2)]);
    let mut read = cmd("HGETALL");
    read.arg("portunus:fence:{a%7Db}");
    let mark = store.run::<Vec<(String, String)>>(&mut read).await;
    let mark: std::collections::HashMap<_, _> = mark.into_iter().collect();
    assert_eq!((&*mark["token"], &*mark["origin"], mark.len()), ("7", "016c73746f636b", 2));
    for (refused, kind) in [
        (token(6), ErrorKind::Stale),
        (of("bonds", 8), ErrorKind::Conflict),
        (token(0), ErrorKind::Invalid),
        (weak(9), ErrorKind::Invalid),
    ] {
        let error = fence.update("a}b", &refused, &[sell()]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:#}");
    }
    assert_eq!(store.run::<i64>(cmd("GET").arg(&key)).await, -2);
    assert_eq!(fence.update("a}b", &token(8), &[]).await.unwrap(), []);
    assert_eq!(fence.mark("a}b").await.unwrap(), Some(token(8)));
    fence.update("a}b", &weak(9).allow_weak(), &[sell()]).await.unwrap();
    assert_eq!(store.run::<i64>(cmd("GET").arg(&key)).await, -4);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn replies_come_back_in_order_and_nothing_ends_them_early() {
    let store = Store::open().await;
    let fence = store.redis().await;
    let get = |key: &str| cmd("GET").arg(key).to_owned();
    let set = |key: &str| cmd("SET").arg(key).arg("v").to_owned();
    let both = cmd("MGET").arg("none").arg("k").to_owned();
    let steps = [get("none"), set("k"), get("k"), both, get("none")];
    let replies = fence.update("a", &token(1), &steps).await.unwrap();
    let v = || Value::BulkString(b"v".to_vec());
    let expected = [Value::Nil, Value::Okay, v(), Value::Array(vec![Value::Nil, v()]), Value::Nil];
    assert_eq!(replies, expected);
}

/// As the documentation says: Redis takes nothing back.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_command_that_fails_is_named_and_leaves_those_before_it() {
    let store = Store::open().await;
    let fence = store.redis().await;
    fence.open("a", &token(1)).await.unwrap();
    let incr = |key: &str| cmd("INCR").arg(key).to_owned();
    let push = cmd("LPUSH").arg("n").arg("x").to_owned();
    let error = fence.update("a", &token(2), &[incr("n"), push, incr("n")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:#}");
    assert!(error.to_string().contains("command 2 of the step failed"), "{error}");
    assert!(error.to_string().contains("WRONGTYPE"), "{error}");
    assert_eq!(store.run::<i64>(cmd("GET").arg("n")).await, 1);
    assert_eq!(fence.mark("a").await.unwrap(), Some(token(2)));
    for bad in [cmd("NOSUCH"), cmd("BLPOP"), cmd("MULTI")] {
        let error = fence.update("a", &token(2), &[bad]).await.unwrap_err();
        assert!(error.to_string().contains("command 1 of the step failed"), "{error}");
    }
    let mut many = cmd("RPUSH");
    many.arg("list");
    for n in 0..3_998 {
        many.arg(n);
    }
    assert_eq!(fence.update("a", &token(2), &[many]).await.unwrap(), [Value::Int(3_998)]);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_key_that_is_no_mark_is_not_written_over() {
    let store = Store::open().await;
    let fence = store.redis().await;
    for make in [
        cmd("SET").arg("portunus:fence:{a}").arg("hello"),
        cmd("HSET").arg("portunus:fence:{a}").arg("value").arg("x"),
        cmd("HSET").arg("portunus:fence:{a}").arg("token").arg("07").arg("origin").arg("00"),
        cmd("HSET").arg("portunus:fence:{a}").arg("token").arg("1e3").arg("origin").arg("00"),
        cmd("HSET").arg("portunus:fence:{a}").arg("token").arg("7").arg("origin").arg("zz"),
    ] {
        store.run::<()>(&mut cmd("FLUSHALL")).await;
        store.run::<()>(make).await;
        let dump = store.run::<Vec<u8>>(cmd("DUMP").arg("portunus:fence:{a}")).await;
        let error = fence.admit("a", &token(7), b"x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error:#}");
        assert_eq!(fence.mark("a").await.unwrap_err().kind(), ErrorKind::Protocol);
        assert_eq!(store.run::<Vec<u8>>(cmd("DUMP").arg("portunus:fence:{a}")).await, dump);
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_server_that_forgot_the_script_is_given_it_again() {
    let store = Store::open().await;
    let fence = store.redis().await;
    for mark in 1..=2 {
        store.run::<()>(cmd("SCRIPT").arg("FLUSH")).await;
        fence.admit("a", &token(mark), b"x").await.unwrap();
    }
    assert_eq!(fence.mark("a").await.unwrap(), Some(token(2)));
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn what_the_server_forbids_is_told() {
    let store = Store::open().await;
    let user = ["SETUSER", "app", "on", ">secret", "~portunus:*", "~{a}*", "+@all", "-@list"];
    store.run::<()>(cmd("ACL").arg(&user[..])).await;
    let url = store.0.url().replace("redis://", "redis://app:secret@");
    let fence = RedisFence::new(connect(url, Duration::from_secs(20)).await);
    let push = cmd("LPUSH").arg("{a}:x").arg("x").to_owned();
    let error = fence.update("a", &token(1), &[push]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    assert!(!format!("{error:#} {error:?}").contains("secret"), "{error:#}");
    store.run::<()>(cmd("ACL").arg("SETUSER").arg("app").arg("-evalsha")).await;
    let error = fence.open("a", &token(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    store.run::<()>(cmd("ACL").arg("DELUSER").arg("app")).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_write_that_is_not_answered_is_in_doubt_and_a_server_without_memory_takes_none() {
    let store = Store::open().await;
    store.run::<()>(cmd("CONFIG").arg("SET").arg("maxmemory").arg("1")).await;
    let error = store.redis().await.admit("a", &token(1), b"x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    store.run::<()>(cmd("CONFIG").arg("SET").arg("maxmemory").arg("0")).await;
    assert_eq!(store.redis().await.mark("a").await.unwrap(), None);
    let fence = RedisFence::new(connect(store.0.url(), Duration::from_millis(300)).await);
    store.0.pause(0).await.unwrap();
    let error = fence.admit("a", &token(1), b"x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unconfirmed, "{error:#}");
    let error = fence.mark("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    store.0.unpause(0).await.unwrap();
}

fn weak(value: u64) -> FencingToken {
    FencingToken::new_weak(value, token(value).origin().clone())
}

fn token(value: u64) -> FencingToken {
    of("stock", value)
}

fn of(lock: &str, value: u64) -> FencingToken {
    let origin = Origin::new(Incarnation::new(b"l").unwrap(), LockName::new(lock).unwrap());
    FencingToken::new(value, origin)
}
