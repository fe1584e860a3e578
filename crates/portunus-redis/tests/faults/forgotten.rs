//! Locks that servers forgot: their holders are told, and no token is given again.

use std::time::Duration;

use portunus_core::error::ErrorKind;
use portunus_core::guard::LossReason;
use portunus_core::manager::LockManager;
use portunus_testkit::cluster::{self, Persistence, RedisMasters};
use tokio::time::timeout;

use super::{eventually, namespace};
use crate::harness::{client, raw};

const TTL: Duration = Duration::from_secs(6);

/// The keys of a namespace on a master.
async fn keys(masters: &RedisMasters<3>, node: usize, namespace: &str) -> Vec<String> {
    let mut raw = raw(masters.node_url(node)).await;
    redis::cmd("KEYS").arg(format!("{namespace}:*")).query_async(&mut raw).await.unwrap()
}

/// Each of them alone is a minority, which costs nobody the lock.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_holder_whose_lock_one_master_after_the_other_forgot_is_told() {
    let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
    let namespace = namespace();
    let manager = LockManager::builder(client(&masters.url(), &namespace)).ttl(TTL);
    let manager = manager.open().await.unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let (lock, node) = (format!("{namespace}:{{a}}"), format!("{namespace}:node"));
    masters.wipe(0).await.unwrap();
    eventually(TTL * 5, "the first is seeded, and has the session again", async || {
        let keys = keys(&masters, 0, &namespace).await;
        let has_session = keys.iter().any(|key| key.contains(":session:"));
        if has_session && keys.contains(&node) { Ok(()) } else { Err(keys) }
    })
    .await;
    assert!(guard.is_held());
    assert!(!keys(&masters, 0, &namespace).await.contains(&lock), "it was put back");
    // Without a word, and its connections stay: nobody but a renewal finds it.
    let mut second = raw(masters.node_url(1)).await;
    let () = redis::cmd("FLUSHALL").query_async(&mut second).await.unwrap();
    let told = timeout(TTL, guard.lost()).await.expect("nobody tells it");
    assert_eq!(told, LossReason::Evicted);
    let next = timeout(TTL * 5, manager.lock("a").unwrap().acquire()).await;
    let next = next.expect("it is never free").unwrap();
    assert_eq!(next.token().origin(), guard.token().origin());
    assert!(next.token().value() > guard.token().value(), "{next:?} after {guard:?}");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_server_that_keeps_nothing_begins_another_life_and_the_holder_is_told() {
    let server: cluster::Redis =
        cluster::Redis::builder().persistence(Persistence::None).start().await.unwrap();
    let namespace = namespace();
    let open = async || {
        let manager = LockManager::builder(client(&server.url(), &namespace)).ttl(TTL * 5);
        manager.open().await.unwrap()
    };
    let manager = open().await;
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    server.kill(0).await.unwrap();
    server.restart(0).await.unwrap();
    server.wait_healthy().await.unwrap();
    // Long before its time to live is over.
    let told = timeout(TTL * 4, guard.lost()).await.expect("nobody tells it");
    // By a renewal, or by who looks after its own entry.
    assert!(matches!(told, LossReason::SessionEnded | LossReason::Evicted), "{told:?}");
    let refused = manager.lock("a").unwrap().acquire().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Regression, "{refused:#}");
    let next = open().await.lock("a").unwrap().acquire().await.unwrap();
    assert_ne!(next.token().origin(), guard.token().origin());
}
