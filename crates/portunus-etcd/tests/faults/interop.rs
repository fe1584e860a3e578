//! Locks that `etcdctl lock` (Go's `concurrency.Mutex`) and this library both use.

use std::time::Duration;

use portunus_etcd::{EtcdConfig, Layout};
use tokio::time::timeout;

use crate::harness::scene::{LONG, PROMPT, Scene, acquire, eventually, within};

/// Each holds while the other waits, and is served after the release. `name` is what etcdctl
/// calls our `lock`.
async fn exclude_each_other(scene: &Scene, config: EtcdConfig, lock: &str, name: &str) {
    let manager = scene.with(config, LONG).await;
    let lock = manager.lock(lock).unwrap();
    let contenders = async |count: usize| {
        eventually(PROMPT, &format!("{count} contend"), async || {
            let found = manager.contenders(lock.name()).await.unwrap();
            if found.len() == count { Ok(()) } else { Err(found) }
        })
        .await;
    };

    let guard = lock.acquire().await.unwrap();
    let mut theirs = scene.cluster.spawn_etcdctl(0, &["lock", name]).await.unwrap();
    contenders(2).await;
    assert!(timeout(Duration::from_millis(300), theirs.line()).await.is_err(), "two hold");
    let ours = guard.token().value();
    guard.release().await.unwrap();
    let key = within(PROMPT, "etcdctl is served", theirs.line()).await.unwrap();
    assert!(key.starts_with(&format!("{name}/")), "{key}");

    assert!(lock.try_acquire().await.unwrap().is_none());
    let mut waiter = acquire(&manager, lock.name().as_str());
    contenders(2).await;
    assert!(timeout(Duration::from_millis(300), &mut waiter).await.is_err(), "two hold");
    theirs.signal("TERM").await.unwrap();
    let guard = within(PROMPT, "ours is served", waiter).await.unwrap().unwrap();
    assert!(guard.token().value() > ours);
    guard.release().await.unwrap();
    theirs.output().await.unwrap();
    contenders(0).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn etcdctl_and_the_verbatim_layout_exclude_each_other() {
    let scene = Scene::shared().await;
    let config = EtcdConfig::new(scene.cluster.endpoints()).unwrap().layout(Layout::Verbatim);
    let name = format!("{}/stock/7", scene.namespace);
    exclude_each_other(&scene, config, &name, &name).await;
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn etcdctl_reaches_the_default_layout_by_its_prefix() {
    let lock = format!("test-{:032x}", rand::random::<u128>());
    let scene = Scene::at(format!("portunus/{lock}")).await;
    let config = EtcdConfig::new(scene.cluster.endpoints()).unwrap();
    exclude_each_other(&scene, config, &lock, &format!("portunus/{lock}")).await;
    scene.end().await;
}
