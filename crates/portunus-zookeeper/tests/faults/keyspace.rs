//! What others do to the nodes, and what a crowd of waiters does to the servers.

use std::time::Duration;

use futures_util::future::join_all;
use portunus_core::error::ErrorKind;
use portunus_core::guard::Guard;
use portunus_core::manager::LockManager;
use portunus_testkit::cluster::NODES;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zookeeper_client::{Acls, CreateMode};

use crate::harness::scene::{LONG, PATIENCE, PROMPT, Scene, eventually, within};

/// The numbers of a lock's nodes start anew with its own node; its tokens do not.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_lock_whose_node_was_deleted_has_greater_tokens_after() {
    let scene = Scene::shared().await;
    let (first, second) = (scene.manager(LONG).await, scene.manager(LONG).await);
    let mut last = 0;
    for _ in 0..3 {
        for manager in [&first, &second] {
            let guard = manager.lock("a").unwrap().acquire().await.unwrap();
            assert!(guard.token().value() > last);
            last = guard.token().value();
            guard.release().await.unwrap();
        }
        let guard = first.lock("a").unwrap().acquire().await.unwrap();
        let entry = scene.entries("a").await.swap_remove(0);
        assert!(entry.path.ends_with("-0000000002"), "{entry:?}");
        guard.release().await.unwrap();
        scene.raw().await.delete(&scene.queue("a"), None).await.unwrap();
    }
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_node_of_no_session_is_a_conflict_that_names_it() {
    let scene = Scene::shared().await;
    let manager = scene.manager(LONG).await;
    let lock = manager.lock("a").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let (raw, options) = (scene.raw().await, CreateMode::Persistent.with_acls(Acls::anyone_all()));
    let path = format!("{}/lock-0000000000", scene.queue("a"));
    raw.create(&path, b"mine", &options).await.unwrap();
    let error = within(PROMPT, "acquire ends", lock.acquire()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:#}");
    assert!(error.to_string().contains(&path), "{error} does not name {path}");
    assert_eq!(scene.queued("a", 1).await[0].path, path, "ours was withdrawn, theirs was not");
    let tried = within(PROMPT, "it ends", lock.try_acquire()).await;
    assert_eq!(tried.unwrap_err().kind(), ErrorKind::Conflict);
    raw.delete(&path, None).await.unwrap();
    let guard = within(PROMPT, "all is well", lock.acquire()).await.unwrap();
    guard.release().await.unwrap();
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_release_with_500_waiters_of_one_manager_wakes_one() {
    a_release_wakes_one(1).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_release_with_500_waiters_of_five_managers_wakes_one() {
    a_release_wakes_one(5).await;
}

/// A herd would cost a request of each waiter for each release.
async fn a_release_wakes_one(managers: usize) {
    const RELEASES: u64 = 20;
    // Alone: the servers count the requests of everybody.
    let scene = Scene::exclusive().await;
    let mut crowd = Crowd::gather(&scene, managers).await;
    let before = crowd.requests().await;
    for _ in 0..RELEASES {
        crowd.pass_on().await;
    }
    let spent = crowd.requests().await - before;
    println!("{RELEASES} releases, {WAITERS} waiters, {managers} managers: {spent} requests");
    // A deletion; to look, a listing and a check, and a watch taken back; the rest is for renewals.
    assert!(spent <= 4 * RELEASES + 10, "{RELEASES} releases cost {spent} requests");
    assert!(spent >= 3 * RELEASES, "the counter does not count");

    // Those who go from the middle concern the one behind each of them.
    let before = crowd.requests().await;
    let going = crowd.waiters.iter().filter(|waiter| !waiter.is_finished()).skip(100).step_by(15);
    going.take(RELEASES.try_into().unwrap()).for_each(JoinHandle::abort);
    crowd.withdrawn(WAITERS - 2 * usize::try_from(RELEASES).unwrap()).await;
    let spent = crowd.requests().await - before;
    println!("{RELEASES} from the middle, {managers} managers: {spent} requests");
    // A deletion, and two watches taken back; behind it one taken back, a listing, a check, and two
    // watches set. Attempts of one manager share their watches.
    assert!(spent <= 8 * RELEASES + 10, "{RELEASES} withdrawals cost {spent} requests");
    assert!(crowd.grants.is_empty() && crowd.holder.as_ref().is_some_and(Guard::is_held));

    crowd.pass_on().await;
    crowd.disperse().await;
    scene.end().await;
}

/// A holder, and many who wait for it.
struct Crowd<'a> {
    scene: &'a Scene,
    managers: Vec<LockManager>,
    waiters: Vec<JoinHandle<()>>,
    holder: Option<Guard>,
    grants: mpsc::UnboundedReceiver<Guard>,
    /// How many of the requests that the servers counted were for the count.
    asked: u64,
}

impl<'a> Crowd<'a> {
    async fn gather(scene: &'a Scene, managers: usize) -> Self {
        let ttl = Duration::from_secs(60);
        let managers = join_all((0..managers).map(|_| scene.manager(ttl))).await;
        let holder = managers[0].lock("a").unwrap().acquire().await.unwrap();
        let (granted, grants) = mpsc::unbounded_channel();
        let waiters = managers.iter().cycle().take(WAITERS).map(|manager| {
            let (lock, granted) = (manager.lock("a").unwrap(), granted.clone());
            tokio::spawn(async move { granted.send(lock.acquire().await.unwrap()).unwrap() })
        });
        let waiters = waiters.collect();
        scene.queued("a", WAITERS + 1).await;
        Self { scene, managers, waiters, holder: Some(holder), grants, asked: 0 }
    }

    /// How many requests the servers have dealt with, once no more come.
    async fn requests(&mut self) -> u64 {
        let mut last = None;
        eventually(PATIENCE, "the servers are at rest", async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            // Each node counts that it is asked, before it answers.
            self.asked += u64::try_from(NODES).unwrap();
            let now = self.scene.counted("zk_packets_received").await - self.asked;
            if last.replace(now) == Some(now) { Ok(now) } else { Err(now) }
        })
        .await
    }

    /// Releases; exactly one is granted, with a greater token.
    async fn pass_on(&mut self) {
        let holder = self.holder.take().unwrap();
        let token = holder.token().value();
        holder.release().await.unwrap();
        let next = within(PROMPT, "the next is served", self.grants.recv()).await.unwrap();
        assert!(next.token().value() > token);
        assert!(self.grants.is_empty(), "a release woke two");
        self.holder = Some(next);
    }

    /// Waits until so many wait and all who do not are gone.
    async fn withdrawn(&self, waiting: usize) {
        eventually(PATIENCE, "they are withdrawn", async || {
            let stats = self.managers.iter().map(LockManager::stats);
            let (still, going) = stats.fold((0, 0), |(still, going), stats| {
                (still + stats.waiting, going + stats.reaping)
            });
            if (still, going) == (waiting, 0) { Ok(()) } else { Err((still, going)) }
        })
        .await;
    }

    async fn disperse(self) {
        self.waiters.iter().for_each(JoinHandle::abort);
        self.withdrawn(0).await;
        self.holder.unwrap().release().await.unwrap();
    }
}

const WAITERS: usize = 500;
