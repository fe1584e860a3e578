//! Wake-ups that are lost cost time, and never more than the holder's time to live.

use std::time::Duration;

use portunus_core::backend::{Attempt, Entered, EntryId, LockBackend, Session, Turn};
use portunus_redis::Redis;
use portunus_testkit::cluster;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, timeout};

use super::{attempt, eventually, hold, namespace};
use crate::harness::{RedisHarness, client, raw};

const TTL: Duration = Duration::from_secs(4);

/// One who waits, until it holds.
async fn granted(redis: &Redis, session: &Session, name: &str) -> (Attempt, EntryId) {
    let waiter = attempt(name, false);
    let entered = redis.enter(session, &waiter).await.unwrap();
    let Entered::Queued { entry, mut turn } = entered else { panic!("{entered:?}") };
    while let Turn::Waiting { .. } = turn {
        redis.changed(session, &waiter, &entry, &turn).await.unwrap();
        turn = redis.look(session, &waiter, &entry).await.unwrap();
    }
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    (waiter, entry)
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_lock_that_goes_without_a_word_is_granted_by_its_time_to_live() {
    let harness = RedisHarness::open().await;
    let redis = harness.redis();
    let session = redis.open_session(10 * TTL).await.unwrap();
    // Its holder is not there any more, and a key that expires is not published.
    let crashed = harness.redis();
    let ended = crashed.open_session(TTL).await.unwrap();
    let began = Instant::now();
    hold(&crashed, &ended, "a").await;
    let waiting = granted(&redis, &session, "a");
    timeout(5 * TTL, waiting).await.expect("nobody woke it");
    assert!(began.elapsed() >= TTL - Duration::from_millis(100), "{:?}", began.elapsed());
    redis.close_session(&session).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_silent_connection_of_wake_ups_is_replaced() {
    let server = cluster::Redis::exclusive().await.unwrap();
    let redis = client(&server.url(), &namespace());
    let session = redis.open_session(Duration::from_secs(60)).await.unwrap();
    let (held, ..) = hold(&redis, &session, "a").await;
    let listening = async || {
        let mut raw = raw(server.url()).await;
        listeners(&mut raw).await
    };
    let releasing = async {
        eventually(TTL, "it listens", async || match listening().await {
            ids if ids.len() == 1 => Ok(()),
            ids => Err(ids),
        })
        .await;
        let first = listening().await;
        // Packets vanish, and no end of the connection is told.
        server.cut_clients(0).await.unwrap();
        tokio::time::sleep(Duration::from_secs(8)).await;
        server.heal(0).await.unwrap();
        eventually(Duration::from_secs(20), "it listens by another connection", async || {
            let now = listening().await;
            if now.iter().any(|id| !first.contains(id)) { Ok(()) } else { Err(now) }
        })
        .await;
        eventually(Duration::from_secs(20), "it lets go", async || {
            redis.leave(&session, &held, false).await.map(drop)
        })
        .await;
    };
    let waiting = async {
        let waiter = attempt("a", false);
        let entered = redis.enter(&session, &waiter).await.unwrap();
        let Entered::Queued { entry, mut turn } = entered else { panic!("{entered:?}") };
        while let Turn::Waiting { .. } = turn {
            // As the engine does: a failure is no answer.
            if redis.changed(&session, &waiter, &entry, &turn).await.is_ok()
                && let Ok(looked) = redis.look(&session, &waiter, &entry).await
            {
                turn = looked;
            }
        }
        assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    };
    timeout(Duration::from_secs(50), async { tokio::join!(releasing, waiting) }).await.unwrap();
    redis.close_session(&session).await.unwrap();
}

/// The connections that listen, by the server's numbers.
async fn listeners(raw: &mut MultiplexedConnection) -> Vec<u64> {
    let mut list = redis::cmd("CLIENT");
    list.arg("LIST").arg("TYPE").arg("pubsub");
    let list: String = list.query_async(raw).await.unwrap();
    let id = |line: &str| line.strip_prefix("id=")?.split(' ').next()?.parse().ok();
    list.lines().filter_map(id).collect()
}
