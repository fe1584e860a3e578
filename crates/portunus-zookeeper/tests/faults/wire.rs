//! The way to the servers: cut off, replies lost, requests late.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use portunus_core::backend::{
    Attempt, AttemptId, Entered, LockBackend, LockObserver, Mode, Record,
};
use portunus_core::error::ErrorKind;
use portunus_core::guard::LossReason;
use portunus_core::manager::LockManager;
use portunus_core::name::LockName;
use portunus_testkit::cluster::NODES;
use portunus_testkit::proxy::{Direction, Proxy};
use portunus_zookeeper::ZooKeeper;
use zookeeper_client::{Acls, CreateMode};

use crate::harness::scene::{LONG, PATIENCE, PROMPT, Scene, acquire, eventually, within};
use crate::harness::session;
use crate::harness::ways::Ways;

/// The time from its last contact bounds how long a client that crashed keeps a lock.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_client_cut_from_every_node_knows_before_another_is_granted() {
    const TTL: Duration = Duration::from_secs(3);
    let scene = Scene::shared().await;
    let ways = Ways::open(&scene).await;
    let cut_off = ways.manager(&scene, TTL).await;
    let other = scene.manager(LONG).await;
    let guard = Arc::new(cut_off.lock("a").unwrap().acquire().await.unwrap());
    let waiter = acquire(&other, "a");
    scene.queued("a", 2).await;

    ways.all(Proxy::black_hole);
    // Its last contact was before this.
    assert!(guard.remaining() <= TTL / 2);
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
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_session_that_expires_under_a_waiter_costs_its_place_and_no_more() {
    let scene = Scene::shared().await;
    let ways = Ways::open(&scene).await;
    let (holding, behind) = (scene.manager(LONG).await, scene.manager(LONG).await);
    let cut_off = ways.manager(&scene, Duration::from_secs(2)).await;
    let guard = holding.lock("a").unwrap().acquire().await.unwrap();
    let waiter = acquire(&cut_off, "a");
    let lost = scene.queued("a", 2).await.swap_remove(1);
    let next = acquire(&behind, "a");
    scene.queued("a", 3).await;
    ways.all(Proxy::black_hole);
    let left = scene.queued("a", 2).await;
    assert!(left.iter().all(|entry| entry.session != lost.session));
    assert!(guard.is_held() && !waiter.is_finished() && !next.is_finished());
    ways.all(Proxy::pass);
    let back = scene.queued("a", 3).await.swap_remove(2);
    assert_ne!(back.session, lost.session);
    guard.release().await.unwrap();
    let second = within(PROMPT, "the one behind is served", next).await.unwrap().unwrap();
    assert!(!waiter.is_finished());
    second.release().await.unwrap();
    let third = within(PROMPT, "the waiter is served", waiter).await.unwrap().unwrap();
    assert_eq!(third.token().value(), back.czxid);
    assert_eq!(cut_off.stats().places_lost, 1);
    third.release().await.unwrap();
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_lost_reply_to_the_create_makes_no_second_node() {
    let scene = Scene::shared().await;
    let ways = Ways::open(&scene).await;
    let manager = ways.manager(&scene, LONG).await;
    known(&manager).await;
    ways.all(Proxy::hold_replies);
    let acquiring = acquire(&manager, "a");
    let node = ways.held(Direction::Replies).await;
    let entry = scene.queued("a", 1).await.swap_remove(0);
    assert!(!acquiring.is_finished());
    // The reply goes, and the node stays out of reach.
    ways.node(node).refuse();
    ways.node(node).cut();
    ways.pass_but(node);
    let guard = within(PROMPT, "another node says the same", acquiring).await.unwrap().unwrap();
    assert_eq!(guard.token().value(), entry.czxid);
    assert_eq!(scene.entries("a").await, [entry]);
    guard.release().await.unwrap();
    scene.queued("a", 0).await;
    scene.end().await;
}

/// The session moves while its request is under way: applied or not, there is one node.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_create_whose_connection_breaks_makes_one_node() {
    let scene = Scene::shared().await;
    let ways = Ways::open(&scene).await;
    let manager = ways.manager(&scene, LONG).await;
    known(&manager).await;
    let mut nodes = Vec::new();
    for pauses in 0..10 {
        ways.all(Proxy::black_hole);
        let acquiring = acquire(&manager, "a");
        let node = ways.held(Direction::Requests).await;
        ways.node(node).release();
        // From not forwarded to answered.
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
        ways.node(node).refuse();
        ways.node(node).cut();
        ways.pass_but(node);
        let guard = within(PROMPT, "another node serves", acquiring).await.unwrap().unwrap();
        let entries = scene.entries("a").await;
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(guard.token().value(), entries[0].czxid);
        nodes.push((node, scene.seat(entries[0].session).await));
        guard.release().await.unwrap();
        ways.all(Proxy::pass);
    }
    println!("from, to: {nodes:?}");
    scene.queued("a", 0).await;
    scene.end().await;
}

/// The request is dealt with after the withdrawal was confirmed, and does nothing.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_create_that_arrives_after_the_clean_up_has_no_effect() {
    let scene = Scene::shared().await;
    for _ in 0..6 {
        let late = Late::send(&scene, None).await;
        late.arrives(async || {}).await;
    }
    scene.end().await;
}

/// The same with the follower itself frozen, for less time than its leader waits for it.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_create_at_a_frozen_follower_has_no_effect_later() {
    let scene = Scene::exclusive().await;
    for _ in 0..6 {
        let follower = (scene.cluster.leader().await.unwrap() + 1) % NODES;
        let late = Late::send(&scene, Some(follower)).await;
        late.arrives(async || scene.cluster.unpause(follower).await.unwrap()).await;
    }
    scene.end().await;
}

/// A create that is under way while its acquire was given up and withdrawn by another way.
struct Late<'a> {
    scene: &'a Scene,
    ways: Ways,
    manager: LockManager,
    node: usize,
    /// What the node says of the connection on which the create comes.
    before: String,
}

impl<'a> Late<'a> {
    /// The create stands before a node; in the socket of `frozen`, if that is given.
    async fn send(scene: &'a Scene, frozen: Option<usize>) -> Self {
        let ways = Ways::open(scene).await;
        let node = frozen.unwrap_or(0);
        let manager = ways.manager_at(scene, node, LONG).await;
        known(&manager).await;
        let before = connection(scene, node).await.unwrap();
        if frozen.is_some() {
            scene.cluster.pause(node).await.unwrap();
        }
        ways.all(Proxy::hold_requests);
        let acquiring = acquire(&manager, "a");
        within(PROMPT, "it is sent", ways.node(node).wait_held(Direction::Requests)).await;
        ways.pass_but(node);
        if frozen.is_some() {
            ways.node(node).release();
        }
        acquiring.abort();
        withdrawn(&manager).await;
        Self { scene, ways, manager, node, before }
    }

    /// Waits until the node has dealt with it: a server closes a connection on which a session
    /// writes that has moved.
    async fn arrives(self, thaw: impl AsyncFnOnce()) {
        let Self { scene, ways, manager, node, before } = self;
        ways.node(node).release();
        thaw().await;
        eventually(PROMPT, "it arrives", async || match connection(scene, node).await {
            Some(after) if after == before => Err(after),
            _ => Ok(()),
        })
        .await;
        // Behind it on the same node.
        let barrier = format!("/{}-barrier", scene.namespace);
        let raw = scene.raw_at(node).await;
        raw.create(&barrier, b"", &CreateMode::Ephemeral.with_acls(Acls::anyone_all()))
            .await
            .unwrap();
        assert_eq!(scene.entries("a").await, [], "it came back to life");
        ways.all(Proxy::pass);
        manager.shutdown(PROMPT).await.unwrap();
    }
}

/// The connection of the scene's one session to this node: its number of requests in it.
async fn connection(scene: &Scene, node: usize) -> Option<String> {
    let session = scene.session().await;
    let connections = scene.cluster.ask(node, "cons").await.unwrap();
    let line = connections.lines().find(|line| line.contains(&format!("sid=0x{session:x},")))?;
    Some(line.split(',').find(|field| field.starts_with("lcxid=")).unwrap().to_owned())
}

/// From where the session was before, the servers take nothing anyway. From where it is now, they
/// refuse what was sent before the withdrawal for its age.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_create_from_before_the_clean_up_is_refused_wherever_it_comes_from() {
    let scene = Scene::shared().await;
    let Late { ways, manager, .. } = Late::send(&scene, None).await;
    let session = scene.session().await;
    let other = scene.manager(LONG).await;
    // The server removes a queue that is empty, and nothing can enter it then.
    let guard = other.lock("a").unwrap().acquire().await.unwrap();
    let held = scene.queued("a", 1).await;
    let path = format!("/{}/.sessions/{session:x}", scene.namespace);
    let raw = scene.raw().await;
    // This client's server may lag behind the withdrawal.
    raw.sync(&path).await.unwrap();
    let version = raw.check_stat(&path).await.unwrap().unwrap().version;
    assert!(version > 0, "nothing was barred");
    // Its client would take the session back.
    ways.all(Proxy::refuse);
    ways.all(Proxy::cut);
    let mut stream =
        session::take_over_id(&scene.cluster.endpoint(2), session, LONG).await.unwrap();
    let entry = format!("{}/late-lock-", scene.queue("a"));
    let mut send = async |version| {
        session::exchange(&mut stream, &session::checked_create(&path, version, &entry)).await
    };
    // As it was sent: nothing had been withdrawn in this session yet.
    send(0).await.unwrap();
    assert_eq!(scene.entries("a").await, held, "it came back to life");
    // What is sent after is taken: the other was refused for nothing but its age.
    send(version).await.unwrap();
    assert_eq!(scene.queued("a", 2).await[1].session, session);
    guard.release().await.unwrap();
    ways.all(Proxy::pass);
    manager.shutdown(PATIENCE).await.unwrap();
    scene.end().await;
}

/// One publishes, and the next value is there before its write arrives: that write is refused.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_publish_that_arrives_late_takes_back_no_newer_value() {
    let scene = Scene::shared().await;
    let ways = Ways::open(&scene).await;
    let backend = ZooKeeper::new(ways.config(&scene)).unwrap();
    let session = backend.open_session(LONG).await.unwrap();
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
        let node = scene.seat(scene.session().await).await.unwrap();
        let before = connection(&scene, node).await;
        ways.all(Proxy::hold_replies);
        let newer = Record { value: format!("newer {round}"), ..attempt.record() };
        let older = backend.publish(&session, &attempt, &entry, "older");
        let overtaken = async {
            // What is held may be the answer to a ping.
            eventually(PATIENCE, "the first request is dealt with", async || {
                let after = connection(&scene, node).await;
                if after == before { Err(after) } else { Ok(()) }
            })
            .await;
            let raw = scene.raw().await;
            raw.set_data(&entry.key, newer.to_json().as_bytes(), None).await.unwrap();
            ways.all(Proxy::pass);
        };
        let (older, ()) = within(PATIENCE, "both answers", join(older, overtaken)).await;
        assert_eq!(older.unwrap_err().kind(), ErrorKind::Unavailable);
        let standing = backend.contenders(&attempt.name).await.unwrap();
        assert_eq!((&standing[0].record, &standing[0].entry), (&newer, &entry));
        backend.publish(&session, &attempt, &entry, "again").await.unwrap();
    }
    backend.close_session(&session).await.unwrap();
    scene.end().await;
}

/// Makes the lock's node, so that the first request to enter creates.
async fn known(manager: &LockManager) {
    manager.lock("a").unwrap().acquire().await.unwrap().release().await.unwrap();
}

async fn withdrawn(manager: &LockManager) {
    eventually(PATIENCE, "the withdrawal is confirmed", async || match manager.stats() {
        stats if stats.waiting + stats.reaping == 0 => Ok(()),
        stats => Err(stats),
    })
    .await;
}
