//! What others do to the key space, and what a crowd of waiters does to the servers.

use std::time::Duration;

use portunus_core::error::ErrorKind;
use tokio::sync::mpsc;

use crate::harness::scene::{LONG, PATIENCE, PROMPT, Scene, acquire, eventually, within};

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_compaction_during_a_wait_delays_nothing() {
    let scene = Scene::shared().await;
    let (holding, waiting) = (scene.manager(LONG).await, scene.manager(LONG).await);
    let guard = holding.lock("a").unwrap().acquire().await.unwrap();
    let waiter = acquire(&waiting, "a");
    scene.queued("a", 2).await;
    let mut raw = scene.raw().await;
    let put = raw.put(format!("{}/.other", scene.namespace), "", None).await.unwrap();
    let now = put.header().unwrap().revision();
    raw.delete(format!("{}/.other", scene.namespace), None).await.unwrap();
    scene.cluster.etcdctl(0, &["compact", "--physical", &now.to_string()]).await.unwrap();
    for node in 0..3 {
        scene.cluster.etcdctl(node, &["defrag"]).await.unwrap();
    }
    assert!(guard.is_held() && !waiter.is_finished());
    guard.release().await.unwrap();
    let guard = within(PROMPT, "the waiter is served", waiter).await.unwrap().unwrap();
    guard.release().await.unwrap();
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_foreign_value_is_a_conflict_that_names_its_key() {
    let scene = Scene::shared().await;
    let manager = scene.manager(LONG).await;
    let lock = manager.lock("a").unwrap();
    for tail in ["something", "1f2e"] {
        // The one has a name that no contender has, the other no lease.
        let key = format!("{}/a/{tail}", scene.namespace);
        scene.cluster.etcdctl(0, &["put", &key, "mine"]).await.unwrap();
        let acquired = within(PROMPT, "acquire ends", lock.acquire()).await;
        let ours_gone = scene.queued("a", 1).await;
        assert_eq!(ours_gone[0].value(), b"mine", "ours was withdrawn, theirs was not");
        let tried = within(PROMPT, "try_acquire ends", lock.try_acquire()).await;
        for error in [acquired.unwrap_err(), tried.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error:#}");
            assert!(error.to_string().contains(&key), "{error} does not name {key}");
        }
        scene.queued("a", 1).await;
        scene.cluster.etcdctl(0, &["del", &key]).await.unwrap();
        let guard = within(PROMPT, "all is well", lock.acquire()).await.unwrap();
        guard.release().await.unwrap();
    }
    scene.end().await;
}

/// A herd would cost a request of each waiter for each release.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_release_with_500_waiters_wakes_one() {
    const WAITERS: usize = 500;
    const RELEASES: u64 = 20;
    // Alone: the servers count the requests of everybody.
    let scene = Scene::exclusive().await;
    let manager = scene.manager(Duration::from_secs(120)).await;
    let first = manager.lock("a").unwrap().acquire().await.unwrap();
    let (granted, mut grants) = mpsc::unbounded_channel();
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..WAITERS {
        let (lock, granted) = (manager.lock("a").unwrap(), granted.clone());
        waiters.spawn(async move { granted.send(lock.acquire().await.unwrap()) });
    }
    scene.queued("a", WAITERS + 1).await;

    let requests = async || scene.counted(None, &["grpc_server_started_total", "unary"]).await;
    // One hand-over proves that the lock's watch is open; each waiter looks once after that.
    first.release().await.unwrap();
    let mut holder = within(PATIENCE, "the next is served", grants.recv()).await.unwrap();
    let mut before = requests().await;
    eventually(PATIENCE, "all wait", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = requests().await;
        let settled = std::mem::replace(&mut before, now) == now;
        if settled { Ok(()) } else { Err(now) }
    })
    .await;
    for _ in 0..RELEASES {
        let token = holder.token().value();
        holder.release().await.unwrap();
        holder = within(PROMPT, "the next is served", grants.recv()).await.unwrap();
        assert!(holder.token().value() > token);
        assert!(grants.is_empty(), "a release woke two");
    }
    let spent = requests().await - before;
    println!("{RELEASES} releases with {WAITERS} waiters: {spent} requests");
    // A deletion and a look for each; a sweep may fall between.
    assert!(spent <= 2 * RELEASES + 2, "{RELEASES} releases cost {spent} requests");
    assert_eq!(manager.stats().waiting, WAITERS - 1 - usize::try_from(RELEASES).unwrap());

    waiters.abort_all();
    while waiters.join_next().await.is_some() {}
    holder.release().await.unwrap();
    eventually(PATIENCE, "all withdrawn", async || match manager.stats() {
        stats if stats.waiting + stats.reaping == 0 => Ok(()),
        stats => Err(stats),
    })
    .await;
    scene.end().await;
}
