//! A session or a node taken away by somebody else's hand, under a holder and under a waiter.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Attempt, AttemptId, Entered, LockBackend, LockObserver, Mode, Turn};
use portunus_core::error::ErrorKind;
use portunus_core::guard::{Guard, LossReason, Released};
use portunus_core::manager::LockManager;
use portunus_core::name::LockName;
use portunus_zookeeper::ZooKeeper;
use tokio::time::Instant;

use crate::harness::scene::{LONG, PROMPT, Scene, acquire, eventually, within};
use crate::harness::session;

/// Holds the lock for longer than min(validity/6, 1 s): from then on a watch tells of a loss.
async fn hold_for_long(scene: &Scene, name: &str) -> Guard {
    let guard = scene.manager(LONG).await.lock(name).unwrap().acquire().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(guard.is_held());
    guard
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_session_ended_under_a_holder_is_told_at_once() {
    let scene = Scene::shared().await;
    let guard = hold_for_long(&scene, "a").await;
    let session = scene.entries("a").await[0].session;
    let ended = Instant::now();
    scene.end_session(session).await;
    let reason = within(PROMPT, "the loss is told", guard.lost()).await;
    println!("the end of the session was told after {:?}", ended.elapsed());
    assert!(matches!(reason, LossReason::Evicted | LossReason::SessionEnded), "{reason:?}");
    assert!(!guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::AlreadyLost(reason));
    scene.end().await;
}

/// Who waits behind it is served before it is.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_session_ended_under_a_waiter_costs_its_place_and_no_more() {
    let scene = Scene::shared().await;
    let (holding, waiting) = (scene.manager(LONG).await, scene.manager(LONG).await);
    let behind = scene.manager(LONG).await;
    let guard = holding.lock("a").unwrap().acquire().await.unwrap();
    let waiter = acquire(&waiting, "a");
    let lost = scene.queued("a", 2).await.swap_remove(1);
    let next = acquire(&behind, "a");
    scene.queued("a", 3).await;
    scene.end_session(lost.session).await;
    eventually(PROMPT, "it queues again, in another session", async || {
        let entries = scene.entries("a").await;
        match entries.get(2) {
            Some(entry) if entry.session != lost.session => Ok(()),
            _ => Err(entries),
        }
    })
    .await;
    assert_eq!(waiting.stats().places_lost, 1);
    assert!(guard.is_held() && !waiter.is_finished() && !next.is_finished());
    let first = guard.token().value();
    guard.release().await.unwrap();
    let second = within(PROMPT, "the one behind is served", next).await.unwrap().unwrap();
    assert!(second.token().value() > first && !waiter.is_finished());
    let token = second.token().value();
    second.release().await.unwrap();
    let third = within(PROMPT, "the waiter is served", waiter).await.unwrap().unwrap();
    assert!(third.token().value() > token);
    assert_eq!(waiting.stats().places_lost, 1);
    third.release().await.unwrap();
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_node_deleted_under_a_holder_is_told_at_once() {
    let scene = Scene::shared().await;
    let guard = hold_for_long(&scene, "a").await;
    let entry = scene.entries("a").await.swap_remove(0);
    let raw = scene.raw_at(1).await;
    let deleted = Instant::now();
    raw.delete(&entry.path, None).await.unwrap();
    let reason = within(PROMPT, "the loss is told", guard.lost()).await;
    println!("the deletion was told after {:?}", deleted.elapsed());
    assert_eq!(reason, LossReason::Evicted);
    assert!(!guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::AlreadyLost(LossReason::Evicted));
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_node_deleted_under_a_waiter_is_an_error() {
    let scene = Scene::shared().await;
    let (holding, waiting) = (scene.manager(LONG).await, scene.manager(LONG).await);
    let guard = holding.lock("a").unwrap().acquire().await.unwrap();
    let waiter = acquire(&waiting, "a");
    let entry = scene.queued("a", 2).await.swap_remove(1);
    scene.raw_at(2).await.delete(&entry.path, None).await.unwrap();
    let error = within(PROMPT, "the waiter is told", waiter).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:#}");
    assert_eq!(error.key(), Some("a"));
    assert!(guard.is_held());
    guard.release().await.unwrap();
    // Its session is as good as before.
    assert_eq!(waiting.stats().places_lost, 0);
    let guard = waiting.lock("a").unwrap().try_acquire().await.unwrap().expect("free");
    guard.release().await.unwrap();
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn sessions_that_ended_spoil_no_other() {
    let scene = Scene::shared().await;
    let hosts = scene.cluster.endpoints();
    let backend = ZooKeeper::new(scene.config(&hosts)).unwrap();
    for _ in 0..4 {
        // Nobody closes it: its manager gave that up.
        let ended = backend.open_session(LONG).await.unwrap();
        session::end(&hosts[0], &ended).await;
    }
    let live = backend.open_session(LONG).await.unwrap();
    let name = LockName::new("a").unwrap();
    for _ in 0..20 {
        let attempt = attempt(&name);
        let entered = backend.enter(&live, &attempt).await.unwrap();
        assert!(matches!(entered, Entered::Queued { turn: Turn::Held { .. }, .. }), "{entered:?}");
        assert_eq!(backend.contenders(&name).await.unwrap().len(), 1);
        backend.leave(&live, &attempt, false).await.unwrap();
    }
    backend.close_session(&live).await.unwrap();
    drop(backend);
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_lock_delay_takes_its_part_of_the_session() {
    let scene = Scene::shared().await;
    let open = async |delay| {
        let backend = ZooKeeper::new(scene.config(scene.cluster.endpoints())).unwrap();
        let builder = LockManager::builder(backend).ttl(Duration::from_secs(4));
        builder.lock_delay(Duration::from_secs(delay)).open().await
    };
    let manager = open(2).await.unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    assert!(guard.remaining() <= Duration::from_secs(1), "{:?}", guard.remaining());
    guard.release().await.unwrap();
    manager.shutdown(PROMPT).await.unwrap();
    let error = open(3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:#}");
    scene.end().await;
}

/// A try for a lock.
fn attempt(name: &LockName) -> Attempt {
    Attempt {
        id: AttemptId(rand::random()),
        name: name.clone(),
        mode: Mode::Exclusive,
        try_only: true,
        value: String::new(),
        holder: Arc::default(),
    }
}
