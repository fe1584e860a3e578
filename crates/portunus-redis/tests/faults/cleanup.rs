//! What is left behind on masters that fail in the middle: taken back, and told as what it is.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Entered, Left, LockBackend};
use portunus_core::error::ErrorKind;
use portunus_testkit::cluster::RedisMasters;
use tokio::net::TcpListener;

use super::{eventually, exists, hold, is_taken, namespace, open};
use crate::harness::{client, raw};

const TTL: Duration = Duration::from_secs(60);

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_value_that_a_minority_took_is_unconfirmed() {
    let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
    let redis = client(&masters.url(), &namespace());
    let session = open(&redis, TTL).await;
    let (held, entry, _) = hold(&redis, &session, "a").await;
    for node in [1, 2] {
        masters.kill(node).await.unwrap();
    }
    // The first answers are of connections that broke; then nobody can be reached, which is sure.
    for _ in 0..3 {
        let told = redis.publish(&session, &held, &entry, "10.0.0.1").await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Unconfirmed, "{told:#}");
        let told = redis.renew(&session, &[Arc::new(held.clone())]).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Unconfirmed, "{told:#}");
    }
    for node in [1, 2] {
        masters.restart(node).await.unwrap();
    }
    masters.wait_healthy().await.unwrap();
    eventually(TTL, "the value is published", async || {
        redis.publish(&session, &held, &entry, "10.0.0.2").await
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_release_reaches_the_master_that_was_down() {
    let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
    let namespace = namespace();
    let redis = client(&masters.url(), &namespace);
    let session = open(&redis, TTL).await;
    let (held, ..) = hold(&redis, &session, "a").await;
    let key = format!("{namespace}:{{a}}");
    eventually(TTL, "all have it", async || match exists(&masters, 2, &key).await {
        true => Ok(()),
        false => Err(()),
    })
    .await;
    masters.kill(2).await.unwrap();
    let left = redis.leave(&session, &held, false).await.unwrap();
    assert_eq!(left, Left::Removed);
    assert!(!is_taken(&redis, &session, "a").await, "two let it go");
    masters.restart(2).await.unwrap();
    masters.wait_healthy().await.unwrap();
    // Long before it expires there, and nothing of the attempt is left.
    let field = [format!("{namespace}:session:{}", session.id), held.id.to_string()];
    eventually(TTL / 3, "the third let it go", async || {
        let mut raw = raw(masters.node_url(2)).await;
        let mut stands = redis::cmd("HEXISTS");
        let stands: bool = stands.arg(&field).query_async(&mut raw).await.unwrap();
        if stands || exists(&masters, 2, &key).await { Err(stands) } else { Ok(()) }
    })
    .await;
    redis.close_session(&session).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_master_that_never_answers_costs_no_memory_and_no_time() {
    let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let namespace = namespace();
    // The first session begins the life of the store, for which all have to be there.
    let seeding = client(&masters.url(), &namespace);
    let session = open(&seeding, TTL).await;
    seeding.close_session(&session).await.unwrap();
    let url = format!("redlock://{},{}", masters.endpoint(0), masters.endpoint(1));
    let redis = client(&format!("{url},{}", mute.local_addr().unwrap()), &namespace);
    let session = open(&redis, 10 * TTL).await;
    let began = tokio::time::Instant::now();
    for _ in 0..300 {
        let (held, ..) = hold(&redis, &session, "a").await;
        redis.leave(&session, &held, false).await.unwrap();
    }
    // Each round that waited for it would take seconds.
    assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
    // Each of them tried, and none stays to wait for its turn.
    let metrics = tokio::runtime::Handle::current().metrics();
    eventually(Duration::from_secs(20), "few wait", async || match metrics.num_alive_tasks() {
        tasks if tasks < 600 => Ok(()),
        tasks => Err(tasks),
    })
    .await;
}

/// Rounds that are taken back and attempts that have left are remembered while something may come late, no longer.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn contention_leaves_nothing_in_a_session() {
    let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
    let namespace = namespace();
    let contenders = [(); 3].map(|()| client(&masters.url(), &namespace));
    let mut sessions = Vec::new();
    for redis in &contenders {
        sessions.push(open(redis, TTL).await);
    }
    for _ in 0..100 {
        let contending = contenders.iter().zip(&sessions).map(async |(redis, session)| {
            let attempt = super::attempt("a", true);
            let entered = redis.enter(session, &attempt).await.unwrap();
            if matches!(entered, Entered::Queued { .. }) {
                redis.leave(session, &attempt, false).await.unwrap();
            }
        });
        futures_util::future::join_all(contending).await;
    }
    for (session, node) in
        sessions.iter().flat_map(|session| (0..3).map(move |node| (session, node)))
    {
        let mut fields = redis::cmd("HKEYS");
        fields.arg(format!("{namespace}:session:{}", session.id));
        eventually(TTL / 3, "only what is the session's own", async || {
            let mut raw = raw(masters.node_url(node)).await;
            let fields: Vec<String> = fields.query_async(&mut raw).await.unwrap();
            if fields.len() <= 2 { Ok(()) } else { Err(fields) }
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_session_comes_back_to_a_master_that_was_away() {
    let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
    let namespace = namespace();
    let redis = client(&masters.url(), &namespace);
    let session = open(&redis, TTL).await;
    let key = format!("{namespace}:session:{}", session.id);
    masters.kill(2).await.unwrap();
    redis.renew(&session, &[]).await.unwrap();
    masters.restart(2).await.unwrap();
    masters.wait_healthy().await.unwrap();
    // As if it had been away for longer than a time to live.
    let mut third = raw(masters.node_url(2)).await;
    let () = redis::cmd("DEL").arg(&key).query_async(&mut third).await.unwrap();
    let renewing = async || {
        let _ = redis.renew(&session, &[]).await;
        if exists(&masters, 2, &key).await { Ok(()) } else { Err(()) }
    };
    eventually(TTL, "the session is on the third again", renewing).await;
    // It takes part: with another one down it still is a majority.
    masters.kill(1).await.unwrap();
    eventually(TTL, "two of three give the lock", async || {
        redis.renew(&session, &[]).await.map_err(|error| error.to_string())?;
        let taken = super::attempt("b", true);
        let entered = redis.enter(&session, &taken).await.map_err(|error| error.to_string())?;
        match entered {
            portunus_core::backend::Entered::Queued { .. } => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    redis.close_session(&session).await.unwrap();
}
