//! A lease or an entry taken away by somebody else's hand, under a holder and under a waiter.

use std::time::Duration;

use etcd_client::KeyValue;
use portunus_core::error::ErrorKind;
use portunus_core::guard::{Guard, LossReason, Released};

use crate::harness::scene::{LONG, PROMPT, Scene, acquire, eventually, within};

/// Holds the lock for longer than min(validity/6, 1 s): from then on a watch tells of a loss.
async fn hold_for_long(scene: &Scene, name: &str) -> Guard {
    let guard = scene.manager(LONG).await.lock(name).unwrap().acquire().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(guard.is_held());
    guard
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_lease_revoked_under_a_holder_is_told_at_once() {
    let scene = Scene::shared().await;
    let guard = hold_for_long(&scene, "a").await;
    let lease = scene.entries("a").await[0].lease();
    scene.raw().await.lease_revoke(lease).await.unwrap();
    let reason = within(PROMPT, "the loss is told", guard.lost()).await;
    assert!(matches!(reason, LossReason::Evicted | LossReason::SessionEnded), "{reason:?}");
    assert!(!guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::AlreadyLost(reason));
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_lease_revoked_under_a_waiter_costs_its_place_and_no_more() {
    let scene = Scene::shared().await;
    let (holding, waiting) = (scene.manager(LONG).await, scene.manager(LONG).await);
    let guard = holding.lock("a").unwrap().acquire().await.unwrap();
    let waiter = acquire(&waiting, "a");
    let lost = scene.queued("a", 2).await.swap_remove(1);
    scene.raw().await.lease_revoke(lost.lease()).await.unwrap();
    eventually(PROMPT, "it queues again, in another session", async || {
        let entries = scene.entries("a").await;
        match entries.get(1).map(KeyValue::lease) {
            Some(lease) if lease != lost.lease() => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(waiting.stats().places_lost, 1);
    assert!(guard.is_held() && !waiter.is_finished());
    let first = guard.token().value();
    guard.release().await.unwrap();
    let second = within(PROMPT, "the waiter is served", waiter).await.unwrap().unwrap();
    assert!(second.token().value() > first);
    assert_eq!(waiting.stats().places_lost, 1);
    second.release().await.unwrap();
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn an_entry_evicted_under_a_holder_is_told_at_once() {
    let scene = Scene::shared().await;
    let guard = hold_for_long(&scene, "a").await;
    let entry = scene.entries("a").await.swap_remove(0);
    scene.cluster.etcdctl(1, &["del", entry.key_str().unwrap()]).await.unwrap();
    let reason = within(PROMPT, "the loss is told", guard.lost()).await;
    assert_eq!(reason, LossReason::Evicted);
    assert!(!guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::AlreadyLost(LossReason::Evicted));
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn an_entry_evicted_under_a_waiter_is_an_error() {
    let scene = Scene::shared().await;
    let (holding, waiting) = (scene.manager(LONG).await, scene.manager(LONG).await);
    let guard = holding.lock("a").unwrap().acquire().await.unwrap();
    let waiter = acquire(&waiting, "a");
    let entry = scene.queued("a", 2).await.swap_remove(1);
    scene.cluster.etcdctl(2, &["del", entry.key_str().unwrap()]).await.unwrap();
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
