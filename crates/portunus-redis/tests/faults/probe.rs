//! What the servers are warned of while they run.

use std::time::Duration;

use portunus_core::backend::{LockBackend, LockObserver};
use portunus_core::manager::LockManager;
use portunus_redis::Redis;
use portunus_testkit::cluster::{self, RedisMasters};
use redis::aio::MultiplexedConnection;

use super::{namespace, open};
use crate::harness::{client, raw};

const TTL: Duration = Duration::from_secs(10);

async fn set(raw: &mut MultiplexedConnection, command: &str) {
    let mut words = command.split(' ');
    let mut set = redis::cmd(words.next().unwrap());
    let () = set.arg(words.collect::<Vec<_>>()).query_async(raw).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_setting_that_is_changed_while_a_manager_runs_is_warned_of() {
    let server: cluster::Redis = cluster::Redis::builder().start().await.unwrap();
    let manager = LockManager::builder(client(&server.url(), &namespace())).open().await.unwrap();
    let mut raw = raw(server.url()).await;
    let warnings = async || manager.probe().await.unwrap().warnings;
    assert_eq!(warnings().await, [""; 0]);
    for (setting, accepted, dangerous) in [
        ("maxmemory-policy", "noeviction", "allkeys-lru"),
        ("appendfsync", "always", "everysec"),
        ("appendonly", "yes", "no"),
    ] {
        set(&mut raw, &format!("CONFIG SET {setting} {dangerous}")).await;
        let told = warnings().await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(&format!("{setting} {dangerous}")), "{told:?}");
        set(&mut raw, &format!("CONFIG SET {setting} {accepted}")).await;
    }
}

/// The one warning, which has to name the master.
async fn warned_of(redis: &Redis, host: &str) -> String {
    let warnings = redis.probe().await.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains(host), "{host}: {warnings:?}");
    warnings.into_iter().next().unwrap()
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_master_without_a_vote_is_named_with_the_reason() {
    let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
    let namespace = namespace();
    let redis = client(&masters.url(), &namespace);
    let session = open(&redis, TTL).await;
    assert_eq!(redis.probe().await.unwrap().warnings, [""; 0]);
    let (mut third, host) = (raw(masters.node_url(2)).await, masters.endpoint(2));
    let node = format!("{namespace}:node");
    for (there, back, text) in [
        (
            format!("HSET {node} incarnation {:032x}", 7),
            format!("HSET {node} incarnation {}", session.incarnation),
            "another life",
        ),
        (
            format!("HSET {node} layout plain/5"),
            format!("HSET {node} layout namespace/3"),
            "the layout `plain/5`",
        ),
        (
            format!("RENAME {node} {node}-saved"),
            format!("RENAME {node}-saved {node}"),
            "its counter is gone",
        ),
    ] {
        set(&mut third, &there).await;
        let told = warned_of(&redis, &host).await;
        assert!(told.contains("no vote") && told.contains(text), "{told}");
        set(&mut third, &back).await;
    }
    // Who is connected stays; another one is not let in.
    set(&mut third, "CONFIG SET requirepass s3cret").await;
    let told = warned_of(&client(&masters.url(), &namespace), &host).await;
    assert!(told.contains("no vote") && told.contains("NOAUTH"), "{told}");
    set(&mut third, "CONFIG SET requirepass ").await;
    masters.kill(2).await.unwrap();
    for _ in 0..2 {
        let told = warned_of(&redis, &host).await;
        assert!(told.contains("no vote") && told.contains("redis probe"), "{told}");
        assert!(!told.contains("appendfsync"), "{told}");
    }
    redis.close_session(&session).await.unwrap();
}
