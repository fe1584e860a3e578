//! Renewals: in batches, and a single loss is told.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Left, LockBackend};
use portunus_core::error::ErrorKind;
use portunus_core::manager::LockManager;
use portunus_testkit::cluster::{self, RedisMasters};
use portunus_testkit::proxy::{Direction, Proxy};
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::{attempt, hold, hold_on_all, namespace, open};
use crate::harness::{RedisHarness, client, raw};

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_renewal_extends_each_lock_and_tells_of_the_one_that_is_gone() {
    let harness = RedisHarness::open().await;
    let redis = harness.redis();
    let session = open(&redis, TTL).await;
    let mut held = Vec::new();
    for number in 0..250 {
        held.push(Arc::new(hold(&redis, &session, &number.to_string()).await.0));
    }
    let mut raw = harness.raw();
    let key = |number: usize| format!("{}:{{{number}}}", harness.namespace());
    for number in [7, 8] {
        let () =
            redis::cmd("PEXPIRE").arg(key(number)).arg(3_000).query_async(&mut raw).await.unwrap();
    }
    // Another client took one that an operator had deleted.
    let () = redis::cmd("SET").arg(key(120)).arg("x").query_async(&mut raw).await.unwrap();
    let () = redis::cmd("DEL").arg(key(249)).query_async(&mut raw).await.unwrap();
    let renewal = redis.renew(&session, &held).await.unwrap();
    assert_eq!(renewal.lost, [held[120].id, held[249].id]);
    let left: u64 = redis::cmd("PTTL").arg(key(7)).query_async(&mut raw).await.unwrap();
    assert!(left > 5_000, "{left}");
    let taken: i64 = redis::cmd("PTTL").arg(key(120)).query_async(&mut raw).await.unwrap();
    assert_eq!(taken, -1, "another's lock is not extended");
    redis.close_session(&session).await.unwrap();
    let refused = redis.renew(&session, &held).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Lost);
    let exists: u64 = redis::cmd("EXISTS").arg(key(120)).query_async(&mut raw).await.unwrap();
    assert_eq!(exists, 1, "another's lock is left");
}

/// The next `enter` may be granted what the lost one made: as long as the attempt has not left, it is renewed.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_lock_whose_answer_was_lost_is_renewed_though_the_next_request_can_not_be_sent() {
    let server: cluster::Redis = cluster::Redis::builder().start().await.unwrap();
    let proxy = Proxy::start(server.endpoint(0)).await.unwrap();
    let namespace = namespace();
    let redis = client(&format!("redis://{}", proxy.address()), &namespace);
    let mut raw = raw(server.url()).await;
    let session = open(&redis, TTL).await;
    hold(&redis, &session, "other").await;
    let (doubtful, key) = (attempt("a", false), format!("{namespace}:{{a}}"));
    proxy.hold_replies();
    tokio::select! {
        entered = redis.enter(&session, &doubtful) => panic!("its answer is held: {entered:?}"),
        () = proxy.wait_held(Direction::Replies) => {}
    }
    proxy.pass();
    proxy.refuse();
    end_requests(&mut raw).await;
    while redis.enter(&session, &doubtful).await.unwrap_err().kind() != ErrorKind::Unavailable {}
    let () = redis::cmd("PEXPIRE").arg(&key).arg(4_000).query_async(&mut raw).await.unwrap();
    redis.renew(&session, &[]).await.unwrap();
    let left: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut raw).await.unwrap();
    assert!(left > 5_000, "{left} ms");
    proxy.pass();
    redis.leave(&session, &doubtful, true).await.unwrap();
    redis.close_session(&session).await.unwrap();
}

/// `SCRIPT FLUSH`, by an operator or by a server that starts again behind the same address.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_server_that_forgot_the_scripts_is_told_them_again() {
    let server = cluster::Redis::exclusive().await.unwrap();
    let (redis, mut raw) = (client(&server.url(), &namespace()), raw(server.url()).await);
    let session = open(&redis, TTL).await;
    let (held, ..) = hold(&redis, &session, "a").await;
    let mut flush = redis::cmd("SCRIPT");
    let () = flush.arg("FLUSH").query_async(&mut raw).await.unwrap();
    let renewal = redis.renew(&session, &[Arc::new(held.clone())]).await.unwrap();
    assert_eq!(renewal.lost, []);
    assert_eq!(redis.leave(&session, &held, false).await.unwrap(), Left::Removed);
    hold(&redis, &session, "a").await;
    redis.close_session(&session).await.unwrap();
}

/// A firewall that lost its state drops what comes by the connections that it knew, without a word.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_lock_outlives_connections_that_fall_silent() {
    let server: cluster::Redis = cluster::Redis::builder().start().await.unwrap();
    let proxy = Proxy::start(server.endpoint(0)).await.unwrap();
    let redis = client(&format!("redis://{}", proxy.address()), &namespace());
    let manager = LockManager::builder(redis).ttl(TTL).open().await.unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    proxy.forget();
    let lost = timeout(TTL + TTL / 2, guard.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
    guard.release().await.unwrap();
    let next = manager.lock("a").unwrap();
    let next = timeout(TTL, next.acquire()).await.expect("the connection of requests is silent");
    next.unwrap().release().await.unwrap();
}

/// Silence is no loss, unless it lasts: then the other locks of the session are kept, and not this one.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_lock_is_not_lost_by_one_answer_that_is_slow() {
    let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
    let proxy = Proxy::start(masters.endpoint(2)).await.unwrap();
    let (one, two) = (masters.endpoint(0), masters.endpoint(1));
    let namespace = namespace();
    let redis = client(&format!("redlock://{one},{two},{}", proxy.address()), &namespace);
    let session = open(&redis, TTL).await;
    let mut held = Vec::new();
    for name in ["a", "b"] {
        let taken = hold_on_all(&masters, &namespace, (&redis, &session), name).await;
        held.push(Arc::new(taken.0));
    }
    // It stands on the first and the third.
    let mut two = raw(masters.node_url(1)).await;
    let key = format!("{namespace}:{{a}}");
    let () = redis::cmd("DEL").arg(&key).query_async(&mut two).await.unwrap();
    for _ in 0..2 {
        proxy.hold_replies();
        let told = redis.renew(&session, &held).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Unconfirmed, "{told:#}");
        proxy.pass();
        assert_eq!(redis.renew(&session, &held).await.unwrap().lost, []);
    }
    proxy.hold_replies();
    redis.renew(&session, &held).await.unwrap_err();
    assert_eq!(redis.renew(&session, &held).await.unwrap().lost, [held[0].id]);
    proxy.pass();
    // What those who answer make impossible is lost at once.
    let key = format!("{namespace}:{{b}}");
    for node in [0, 1] {
        let mut raw = raw(masters.node_url(node)).await;
        let () = redis::cmd("DEL").arg(&key).query_async(&mut raw).await.unwrap();
    }
    proxy.hold_replies();
    assert_eq!(redis.renew(&session, &held[1..]).await.unwrap().lost, [held[1].id]);
}

/// Ends the connection of requests; that of renewals, which is older, stays.
async fn end_requests(raw: &mut MultiplexedConnection) {
    let mut list = redis::cmd("CLIENT");
    let list: String = list.arg(&["LIST", "TYPE", "normal"]).query_async(raw).await.unwrap();
    let ours = list.lines().filter(|line| line.contains(" cmd=evalsha "));
    let id = |line: &str| line.split([' ', '=']).nth(1)?.parse::<u64>().ok();
    let newest = ours.filter_map(id).max().expect("a connection of ours");
    let mut kill = redis::cmd("CLIENT");
    let () = kill.arg("KILL").arg("ID").arg(newest).exec_async(raw).await.unwrap();
}
