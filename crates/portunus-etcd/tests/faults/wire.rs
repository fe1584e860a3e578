//! The way to the servers: cut off, replies lost, requests late.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all, select_all};
use portunus_core::backend::{Attempt, AttemptId, Entered, LockBackend, LockObserver, Mode};
use portunus_core::error::ErrorKind;
use portunus_core::guard::LossReason;
use portunus_core::manager::LockManager;
use portunus_core::name::LockName;
use portunus_etcd::{Etcd, EtcdConfig};
use portunus_testkit::cluster::NODES;
use portunus_testkit::proxy::{Direction, Proxy};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::scene::{LONG, PATIENCE, PROMPT, Scene, acquire, eventually, within};

/// One proxy before each node.
struct Ways(Vec<Proxy>);

impl Ways {
    async fn open(scene: &Scene) -> Self {
        let proxies = scene.cluster.endpoints().into_iter().map(Proxy::start);
        Self(join_all(proxies).await.into_iter().map(Result::unwrap).collect())
    }

    async fn manager(&self, scene: &Scene, ttl: Duration) -> LockManager {
        self.manager_and_node(scene, ttl).await.0
    }

    fn config(&self, scene: &Scene) -> EtcdConfig {
        scene.config(self.0.iter().map(|proxy| proxy.address().to_string()))
    }

    /// A manager, and the node that it asks: its requests have a connection of their own, which
    /// the first of them opens.
    async fn manager_and_node(&self, scene: &Scene, ttl: Duration) -> (LockManager, usize) {
        let manager = scene.with(self.config(scene), ttl).await;
        let connections = || self.0.iter().map(Proxy::connections).collect::<Vec<_>>();
        let before = connections();
        manager.contenders("a").await.unwrap();
        let after = connections();
        (manager, (0..NODES).find(|node| after[*node] > before[*node]).unwrap())
    }

    fn all(&self, act: fn(&Proxy)) {
        self.0.iter().for_each(act);
    }

    /// The node on whose way something is held first.
    async fn held(&self, direction: Direction) -> usize {
        let held = self.0.iter().map(|proxy| Box::pin(proxy.wait_held(direction)));
        within(PROMPT, "something is held", select_all(held)).await.1
    }

    /// Lets everything flow but on one way.
    fn pass_but(&self, node: usize) {
        let others = self.0.iter().enumerate().filter(|(other, _)| *other != node);
        others.for_each(|(_, proxy)| proxy.pass());
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_client_cut_from_every_node_knows_before_another_is_granted() {
    let scene = Scene::shared().await;
    let ways = Ways::open(&scene).await;
    let cut_off = ways.manager(&scene, Duration::from_secs(3)).await;
    let other = scene.manager(LONG).await;
    let guard = Arc::new(cut_off.lock("a").unwrap().acquire().await.unwrap());
    let waiter = acquire(&other, "a");
    scene.queued("a", 2).await;

    ways.all(Proxy::black_hole);
    let lost = tokio::spawn({
        let guard = Arc::clone(&guard);
        async move { guard.lost().await }
    });
    let granted = tokio::spawn({
        let guard = Arc::clone(&guard);
        async move {
            let granted = waiter.await.unwrap().unwrap();
            (granted, guard.is_held())
        }
    });
    let reason = within(PATIENCE, "the loss is told", lost).await.unwrap();
    assert_eq!(reason, LossReason::Expired);
    assert!(!guard.is_held());
    let (second, still_held) = within(PATIENCE, "the other is served", granted).await.unwrap();
    assert!(!still_held);
    assert!(second.token().value() > guard.token().value());

    // It comes back, with nothing of the old grant.
    ways.all(Proxy::pass);
    let waiter = acquire(&cut_off, "a");
    second.release().await.unwrap();
    let third = within(PATIENCE, "it is served again", waiter).await.unwrap().unwrap();
    assert!(!guard.is_held());
    third.release().await.unwrap();
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_lost_reply_to_the_entering_transaction_makes_no_second_entry() {
    let scene = Scene::shared().await;
    let ways = Ways::open(&scene).await;
    let manager = ways.manager(&scene, LONG).await;
    ways.all(Proxy::hold_replies);
    let acquiring = acquire(&manager, "a");
    let node = ways.held(Direction::Replies).await;
    let entry = scene.queued("a", 1).await.swap_remove(0);
    assert!(!acquiring.is_finished());
    // The reply goes, and the node stays out of reach.
    ways.0[node].refuse();
    ways.0[node].cut();
    ways.pass_but(node);
    let guard = within(PROMPT, "another node says the same", acquiring).await.unwrap().unwrap();
    assert_eq!(guard.token().value(), u64::try_from(entry.create_revision()).unwrap());
    let entries = scene.entries("a").await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].key(), entry.key());
    guard.release().await.unwrap();
    scene.queued("a", 0).await;
    scene.end().await;
}

/// The request is applied after the withdrawal was confirmed, and does nothing.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn an_entering_transaction_that_arrives_after_the_clean_up_has_no_effect() {
    let scene = Scene::exclusive().await;
    let ways = Ways::open(&scene).await;
    let manager = ways.manager(&scene, LONG).await;
    let mut applied = 0;
    // What is held first can be a connection's own talk, and the request lost behind it.
    for _ in 0..10 {
        let before = join_all((0..NODES).map(|node| transactions(&scene, node))).await;
        ways.all(Proxy::hold_requests);
        let acquiring = acquire(&manager, "a");
        let node = ways.held(Direction::Requests).await;
        ways.pass_but(node);
        let release = async || ways.0[node].release();
        let late = late(&scene, &manager, acquiring, (node, before[node]), release).await;
        applied += u32::from(late);
        ways.all(Proxy::pass);
        if applied == 3 {
            break;
        }
    }
    assert_eq!(applied, 3, "too few requests arrived");
    scene.end().await;
}

/// The same with the follower itself frozen.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn an_entering_transaction_at_a_frozen_follower_has_no_effect_later() {
    let scene = Scene::exclusive().await;
    let leader = scene.cluster.leader().await.unwrap();
    // Kept open, so that the managers on them can close their sessions in the end.
    let mut others = Vec::new();
    let (ways, manager, follower) = loop {
        let ways = Ways::open(&scene).await;
        let (manager, asked) = ways.manager_and_node(&scene, LONG).await;
        if asked != leader {
            break (ways, manager, asked);
        }
        others.push(ways);
    };
    let before = transactions(&scene, follower).await;
    scene.cluster.pause(follower).await.unwrap();
    ways.0[follower].hold_requests();
    let acquiring = acquire(&manager, "a");
    within(PROMPT, "it is sent", ways.0[follower].wait_held(Direction::Requests)).await;
    ways.0[follower].release();
    let arrived = late(&scene, &manager, acquiring, (follower, before), async || {
        scene.cluster.unpause(follower).await.unwrap();
        scene.cluster.wait_healthy().await.unwrap();
    })
    .await;
    assert!(arrived, "the request did not arrive");
    scene.end().await;
}

/// One publishes, and the next value is there before its write arrives: that write is refused.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_publish_that_arrives_late_takes_back_no_newer_value() {
    let scene = Scene::exclusive().await;
    let ways = Ways::open(&scene).await;
    let backend = Etcd::new(ways.config(&scene)).unwrap();
    let session = backend.open_session(4 * LONG).await.unwrap();
    let attempt = Attempt {
        id: AttemptId(rand::random()),
        name: LockName::new("a").unwrap(),
        mode: Mode::Exclusive,
        try_only: false,
        value: "first".into(),
        holder: Arc::default(),
    };
    let entered = backend.enter(&session, &attempt).await.unwrap();
    let Entered::Queued { entry, .. } = entered else { panic!("the lock is free") };
    for round in 0..3 {
        let before = join_all((0..NODES).map(|node| transactions(&scene, node))).await;
        ways.all(Proxy::hold_replies);
        let (backend, newer) = (&backend, format!("newer {round}"));
        let older = backend.publish(&session, &attempt, &entry, "older");
        let overtaken = async {
            let node = ways.held(Direction::Replies).await;
            // What is held may be the connection's own talk.
            eventually(PATIENCE, "the first request is dealt with", async || {
                let begun = transactions(&scene, node).await;
                if begun > before[node] { Ok(()) } else { Err(begun) }
            })
            .await;
            let other = Etcd::new(scene.config(scene.cluster.endpoints())).unwrap();
            other.publish(&session, &attempt, &entry, &newer).await.unwrap();
            ways.all(Proxy::pass);
        };
        let (older, ()) = within(PATIENCE, "both answers", join(older, overtaken)).await;
        assert_eq!(older.unwrap_err().kind(), ErrorKind::Unavailable);
        let standing = backend.contenders(&attempt.name).await.unwrap();
        assert_eq!((&*standing[0].record.value, &standing[0].entry), (&*newer, &entry));
        backend.publish(&session, &attempt, &entry, "again").await.unwrap();
    }
    backend.close_session(&session).await.unwrap();
    scene.end().await;
}

/// Cancels an acquire whose request stands before `node`, waits for the withdrawal by another
/// way, lets the request arrive, and waits until the node has dealt with it; tells whether it did.
/// The node had begun `before` transactions when the acquire began.
async fn late<T>(
    scene: &Scene,
    manager: &LockManager,
    acquiring: JoinHandle<T>,
    (node, before): (usize, u64),
    arrive: impl AsyncFn(),
) -> bool {
    acquiring.abort();
    eventually(PATIENCE, "the withdrawal is confirmed", async || match manager.stats() {
        stats if stats.waiting + stats.reaping == 0 => Ok(()),
        stats => Err(stats),
    })
    .await;
    assert!(scene.entries("a").await.is_empty());
    arrive().await;
    let dealt_with = async {
        loop {
            let begun = transactions(scene, node).await;
            let ended = scene.counted(Some(node), &["grpc_server_handled_total", TXN]).await;
            if begun > before && ended == begun {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let arrived = timeout(PROMPT, dealt_with).await.is_ok();
    // Behind it on the same node.
    let barrier = format!("{}-barrier", scene.namespace);
    scene.cluster.etcdctl(node, &["put", &barrier, ""]).await.unwrap();
    scene.cluster.etcdctl(node, &["del", &barrier]).await.unwrap();
    assert!(scene.entries("a").await.is_empty(), "it came back to life");
    arrived
}

async fn transactions(scene: &Scene, node: usize) -> u64 {
    scene.counted(Some(node), &["grpc_server_started_total", TXN]).await
}

const TXN: &str = "grpc_method=\"Txn\"";
