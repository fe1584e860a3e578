//! Writes that happen only while the lock's own entry stands, in the store of both.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use etcd_client::{Client as Etcd, Txn, TxnOp};
use portunus::{Guard, LockManager};
use portunus_fence::ErrorKind;
use portunus_fence::etcd::LockKey;
use portunus_fence::zookeeper::LockNode;
use portunus_testkit::cluster::{self, Access};
use zookeeper_client::{Acls, Client as ZooKeeper, CreateMode, Error, MultiWriteError};

macro_rules! on_every_store {
    ($($test:ident)+) => {
        mod etcd {
            $(
                #[tokio::test]
                #[ignore = "needs a cluster: `cargo xtask test etcd`"]
                async fn $test() {
                    super::$test(super::Scene::etcd().await).await;
                }
            )+
        }
        mod zookeeper {
            $(
                #[tokio::test]
                #[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
                async fn $test() {
                    super::$test(super::Scene::zookeeper().await).await;
                }
            )+
        }
    };
}

on_every_store! {
    a_write_happens_only_while_the_entry_stands
    every_kind_of_grant_has_an_entry
    a_released_entry_is_gone
}

/// From the moment on at which it is gone, though nobody else came; then the next holder writes, and
/// the one before does not.
async fn a_write_happens_only_while_the_entry_stands(scene: Scene) {
    let (first, second) = (scene.manager().await, scene.manager().await);
    for name in ["a", "a/b", "a}b", "{", ".", &"n".repeat(512)] {
        let evicted = first.lock(name).unwrap().acquire().await.unwrap();
        let held = scene.held(&evicted);
        assert!(scene.write(&held, "first").await, "{name}");
        scene.evict(&evicted).await;
        assert!(!scene.write(&held, "evicted").await, "{name}");
        let next = second.lock(name).unwrap().acquire().await.unwrap();
        assert!(!scene.write(&held, "late").await, "{name}");
        assert_eq!(scene.read().await, "first", "{name}");
        assert!(scene.write(&scene.held(&next), "second").await, "{name}");
        assert!(!scene.write(&held, "late").await, "{name}");
        assert_eq!(scene.read().await, "second", "{name}");
        next.release().await.unwrap();
    }
}

async fn every_kind_of_grant_has_an_entry(scene: Scene) {
    let manager = scene.manager().await;
    let lock = manager.rwlock("readers").unwrap();
    let (one, two) = (lock.read().await.unwrap(), lock.read().await.unwrap());
    let (first, second) = (scene.held(&one), scene.held(&two));
    assert!(scene.write(&first, "one").await && scene.write(&second, "two").await);
    scene.evict(&one).await;
    assert!(!scene.write(&first, "late").await && scene.write(&second, "two").await);
    let permit = manager.semaphore("permits", 2).unwrap().acquire().await.unwrap();
    let held = scene.held(&permit);
    assert!(scene.write(&held, "permit").await);
    scene.evict(&permit).await;
    assert!(!scene.write(&held, "late").await);
    assert_eq!(scene.read().await, "permit");
}

async fn a_released_entry_is_gone(scene: Scene) {
    let manager = scene.manager().await;
    let lock = manager.lock("a").unwrap();
    let guard = lock.acquire().await.unwrap();
    let held = scene.held(&guard);
    guard.release().await.unwrap();
    assert!(!scene.write(&held, "late").await);
    let again = lock.acquire().await.unwrap();
    assert!(!scene.write(&held, "late").await);
    assert!(scene.write(&scene.held(&again), "again").await);
}

/// Its keys are deleted with it, which nobody else did.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_session_that_ended_leaves_no_entry_in_etcd() {
    let scene = Scene::etcd().await;
    let Store::Etcd(client, _) = &scene.store else { unreachable!() };
    let manager = scene.manager().await;
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let held = scene.held(&guard);
    assert!(scene.write(&held, "held").await);
    let entry = client.clone().get(&*guard.entry().key, None).await.unwrap();
    client.clone().lease_revoke(entry.kvs()[0].lease()).await.unwrap();
    assert!(!scene.write(&held, "late").await);
}

/// The same entry, and the same token.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_downgrade_keeps_the_entry_in_etcd() {
    let scene = Scene::etcd().await;
    let manager = scene.manager().await;
    let guard = manager.rwlock("a").unwrap().write().await.unwrap();
    let held = scene.held(&guard);
    let guard = guard.downgrade().await.unwrap();
    assert!(scene.write(&held, "before").await);
    assert!(scene.write(&scene.held(&guard), "after").await);
}

/// It is refused, whatever number it has.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_lock_in_another_store_never_stands() {
    let (etcd, zookeeper) = (Scene::etcd().await, Scene::zookeeper().await);
    let manager = zookeeper.manager().await;
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    // As the first of its queue it has the number that etcd has for what is not there.
    assert_eq!(guard.entry().position, 0);
    assert!(!etcd.write(&etcd.held(&guard), "x").await);
    let manager = etcd.manager().await;
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let Store::ZooKeeper(client, _) = &zookeeper.store else { unreachable!() };
    assert_eq!(LockNode::of(&guard, client).unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_client_sees_the_lock_below_its_chroot() {
    let scene = Scene::zookeeper().await;
    let manager = scene.manager().await;
    let guard = manager.lock("a/b").unwrap().acquire().await.unwrap();
    let Store::ZooKeeper(client, _) = &scene.store else { unreachable!() };
    for (chroot, passes) in [(format!("/{}", scene.run), true), ("/elsewhere".to_owned(), false)] {
        let below = client.clone().chroot(chroot).unwrap();
        let held = LockNode::of(&guard, &below);
        assert_eq!(held.is_ok(), passes, "{held:?}");
        let Ok(held) = held else { continue };
        let mut step = below.new_multi_writer();
        held.check(&mut step).unwrap();
        step.commit().await.unwrap();
        scene.evict(&guard).await;
        held.check(&mut step).unwrap();
        let failed = MultiWriteError::OperationFailed { index: 0, source: Error::NoNode };
        assert_eq!(step.commit().await.unwrap_err(), failed);
    }
}

/// A namespace for the locks of one test, and one piece of data beside it.
struct Scene {
    store: Store,
    run: String,
}

enum Store {
    Etcd(Box<Etcd>, Access<cluster::Etcd>),
    ZooKeeper(ZooKeeper, Access<cluster::ZooKeeper>),
}

/// What a write is conditional on.
enum Held {
    Key(LockKey),
    Node(LockNode),
}

impl Scene {
    async fn etcd() -> Self {
        let access = cluster::Etcd::shared().await.unwrap();
        let client = Etcd::connect(access.endpoints(), None).await.unwrap();
        Self { store: Store::Etcd(Box::new(client), access), run: run() }
    }

    async fn zookeeper() -> Self {
        let access = cluster::ZooKeeper::shared().await.unwrap();
        let client = ZooKeeper::connect(&access.endpoints().join(",")).await.unwrap();
        let scene = Self { store: Store::ZooKeeper(client.clone(), access), run: run() };
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        client.mkdir(&scene.data(), &options).await.unwrap();
        scene
    }

    async fn manager(&self) -> LockManager {
        let (scheme, hosts) = match &self.store {
            Store::Etcd(_, access) => ("etcd", access.endpoints()),
            Store::ZooKeeper(_, access) => ("zookeeper", access.endpoints()),
        };
        let url = format!("{scheme}://{}?ttl=10s&namespace={}", hosts.join(","), self.run);
        portunus::connect(url).await.unwrap()
    }

    fn held<M>(&self, guard: &Guard<M>) -> Held {
        match &self.store {
            Store::Etcd(..) => Held::Key(LockKey::of(guard)),
            Store::ZooKeeper(client, _) => Held::Node(LockNode::of(guard, client).unwrap()),
        }
    }

    /// Whether it was written.
    async fn write(&self, held: &Held, text: &str) -> bool {
        match (&self.store, held) {
            (Store::Etcd(client, _), Held::Key(held)) => {
                let put = [TxnOp::put(self.data(), text, None)];
                let step = Txn::new().when([held.compare()]).and_then(put);
                client.clone().txn(step).await.unwrap().succeeded()
            }
            (Store::ZooKeeper(client, _), Held::Node(held)) => {
                let mut step = client.new_multi_writer();
                held.check(&mut step).unwrap();
                step.add_set_data(&self.data(), text.as_bytes(), None).unwrap();
                match step.commit().await {
                    Ok(_) => true,
                    Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => {
                        false
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            _ => unreachable!("a condition of another store"),
        }
    }

    async fn read(&self) -> String {
        let data = match &self.store {
            Store::Etcd(client, _) => {
                let answer = client.clone().get(self.data(), None).await.unwrap();
                answer.kvs()[0].value().to_vec()
            }
            Store::ZooKeeper(client, _) => client.get_data(&self.data()).await.unwrap().0,
        };
        String::from_utf8(data).unwrap()
    }

    /// What an operator does whose patience ends.
    async fn evict<M>(&self, guard: &Guard<M>) {
        let key = &*guard.entry().key;
        match &self.store {
            Store::Etcd(client, _) => {
                assert_eq!(client.clone().delete(key, None).await.unwrap().deleted(), 1);
            }
            Store::ZooKeeper(client, _) => client.delete(key, None).await.unwrap(),
        }
    }

    fn data(&self) -> String {
        format!("/{}-data", self.run)
    }
}

fn run() -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    format!("existence-{}-{now}", std::process::id())
}
