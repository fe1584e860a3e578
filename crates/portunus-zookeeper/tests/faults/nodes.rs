//! Nodes killed, paused, cut off and restarted under holders and waiters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use portunus_core::clock::{BootClock, Clock};
use portunus_core::guard::{Guard, LossReason, Released};
use portunus_core::manager::LockManager;
use portunus_testkit::cluster::NODES;
use portunus_testkit::history::History;
use portunus_testkit::proxy::{Direction, Proxy};
use tokio::time::Instant;

use crate::harness::scene::{LONG, PATIENCE, PROMPT, Scene, acquire, eventually, within};
use crate::harness::ways::Ways;

/// Half of it is at least twice the time that the ensemble takes to replace a frozen leader.
const TTL: Duration = Duration::from_secs(18);

/// Two managers begin at each node.
async fn holders(scene: &Scene) -> (Ways, Vec<LockManager>, Vec<Guard>) {
    let ways = Ways::open(scene).await;
    let mut managers = Vec::new();
    for n in 0..2 * NODES {
        managers.push(ways.manager_at(scene, n % NODES, TTL).await);
    }
    let guards = managers.iter().enumerate().map(|(n, manager)| {
        let lock = manager.lock(format!("held-{n}")).unwrap();
        async move { lock.acquire().await.unwrap() }
    });
    let guards = join_all(guards).await;
    (ways, managers, guards)
}

/// Fails when a lock is lost before `work` has ended.
async fn while_held<T>(guards: &[Guard], work: impl Future<Output = T>) -> T {
    let lost = guards.iter().map(|guard| Box::pin(guard.lost()));
    tokio::select! {
        (reason, which, _) = select_all(lost) => panic!("{:?}: {reason:?}", guards[which]),
        done = work => done,
    }
}

/// Waits until each manager renewed its session twice more.
async fn renewed(managers: &[LockManager]) {
    let goals: Vec<_> = managers.iter().map(|manager| manager.stats().renewals + 2).collect();
    eventually(PATIENCE, "renewals go on", async || {
        let late = managers.iter().zip(&goals).map(|(manager, goal)| (manager.stats(), *goal));
        let mut late = late.filter(|(stats, goal)| stats.renewals < *goal);
        late.next().map_or(Ok(()), Err)
    })
    .await;
}

/// Waits for a new leader, and until everybody who holds a lock acquired another one.
async fn failed_over(scene: &Scene, managers: &[LockManager], leader: usize, began: Instant) {
    let others = managers.iter().enumerate().map(|(n, manager)| async move {
        let guard = acquire(manager, &format!("other-{n}")).await.unwrap().unwrap();
        let after = began.elapsed();
        assert_eq!(guard.release().await.unwrap(), Released::Clean);
        after
    });
    let elected = async {
        assert_ne!(scene.cluster.leader().await.unwrap(), leader);
        began.elapsed()
    };
    let (elected, after) =
        within(PATIENCE, "they go on", async { tokio::join!(elected, join_all(others)) }).await;
    println!("another leader after {elected:?}, acquired after {after:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn the_leader_is_killed_while_locks_are_held_and_waited_for() {
    let scene = Scene::exclusive().await;
    let (_ways, managers, guards) = holders(&scene).await;
    let waiters: Vec<_> = (0..managers.len())
        .map(|n| acquire(&managers[(n + 1) % managers.len()], &format!("held-{n}")))
        .collect();
    for n in 0..managers.len() {
        scene.queued(&format!("held-{n}"), 2).await;
    }
    let leader = scene.cluster.leader().await.unwrap();
    let killed = Instant::now();
    scene.cluster.kill(leader).await.unwrap();
    while_held(&guards, async {
        failed_over(&scene, &managers, leader, killed).await;
        renewed(&managers).await;
    })
    .await;
    for guard in guards {
        let released = within(PATIENCE, "a release", guard.release()).await;
        assert_eq!(released.unwrap(), Released::Clean);
    }
    let served = within(PATIENCE, "every waiter is served", join_all(waiters)).await;
    for guard in served {
        guard.unwrap().unwrap().release().await.unwrap();
    }
    assert!(managers.iter().all(|manager| manager.stats().lost == 0));
    scene.end().await;
}

/// Paused for longer than every session lives.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_paused_leader_costs_no_lock_while_paused_and_none_when_it_wakes_up() {
    let scene = Scene::exclusive().await;
    let (_ways, managers, guards) = holders(&scene).await;
    let leader = scene.cluster.leader().await.unwrap();
    let paused = Instant::now();
    scene.cluster.pause(leader).await.unwrap();
    while_held(&guards, async {
        failed_over(&scene, &managers, leader, paused).await;
        tokio::time::sleep_until(paused + TTL + Duration::from_secs(1)).await;
        renewed(&managers).await;
        for (n, guard) in guards.iter().enumerate() {
            let other = managers[(n + 1) % managers.len()].lock(guard.name()).unwrap();
            assert!(other.try_acquire().await.unwrap().is_none(), "two hold {}", guard.name());
        }
        scene.cluster.unpause(leader).await.unwrap();
        scene.cluster.wait_healthy().await.unwrap();
        renewed(&managers).await;
    })
    .await;
    for guard in guards {
        let released = within(PATIENCE, "a release", guard.release()).await;
        assert_eq!(released.unwrap(), Released::Clean);
    }
    assert!(managers.iter().all(|manager| manager.stats().sessions == 1));
    scene.end().await;
}

/// The follower answers pings and reads until it gives its leader up, after 2 s: that is worth
/// nothing. A session of 2 s is over at about that time, one of 4 s later.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn behind_a_follower_that_lost_its_leader_the_loss_is_told_before_another_is_granted() {
    for ttl in [2, 4].map(Duration::from_secs) {
        behind_a_follower_that_lost_its_leader(ttl).await;
    }
}

async fn behind_a_follower_that_lost_its_leader(ttl: Duration) {
    let scene = Scene::exclusive().await;
    let follower = (scene.cluster.leader().await.unwrap() + 1) % NODES;
    let config = scene.config([scene.cluster.endpoint(follower)]);
    let behind = scene.with(config, ttl).await;
    let others = (0..NODES).filter(|node| *node != follower);
    let others = scene.config(others.map(|node| scene.cluster.endpoint(node)));
    let other = scene.with(others, LONG).await;
    let guard = Arc::new(behind.lock("a").unwrap().acquire().await.unwrap());
    let waiter = acquire(&other, "a");
    scene.queued("a", 2).await;

    let cut = Instant::now();
    scene.cluster.partition(follower).await.unwrap();
    let lost = tokio::spawn({
        let guard = Arc::clone(&guard);
        async move { (guard.lost().await, cut.elapsed()) }
    });
    let granted = within(PATIENCE, "the other is served", waiter).await.unwrap().unwrap();
    let (granted_after, held) = (cut.elapsed(), guard.is_held());
    let (reason, lost_after) = within(PROMPT, "the loss is told", lost).await.unwrap();
    println!(
        "T = {ttl:?}: loss told after {lost_after:?}, the other granted after {granted_after:?}"
    );
    assert!(!held);
    assert_eq!(reason, LossReason::Expired);
    assert!(granted.token().value() > guard.token().value());
    granted.release().await.unwrap();
    scene.cluster.heal(follower).await.unwrap();
    let guard = within(PATIENCE, "it is served again", acquire(&behind, "a")).await.unwrap();
    guard.unwrap().release().await.unwrap();
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_session_leaves_a_follower_that_lost_its_leader() {
    let scene = Scene::exclusive().await;
    let follower = (scene.cluster.leader().await.unwrap() + 1) % NODES;
    let ways = Ways::open(&scene).await;
    let manager = ways.manager_at(&scene, follower, Duration::from_secs(10)).await;
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let session = scene.entries("a").await[0].session;
    assert_eq!(scene.seat(session).await, Some(follower));
    let guards = [guard];
    scene.cluster.partition(follower).await.unwrap();
    while_held(&guards, async {
        renewed(std::slice::from_ref(&manager)).await;
        renewed(std::slice::from_ref(&manager)).await;
        scene.cluster.heal(follower).await.unwrap();
        scene.cluster.wait_healthy().await.unwrap();
        renewed(std::slice::from_ref(&manager)).await;
    })
    .await;
    let seat = scene.seat(session).await;
    assert!(seat.is_some() && seat != Some(follower), "{seat:?}");
    let [guard] = guards;
    assert_eq!(guard.release().await.unwrap(), Released::Clean);
    assert_eq!(manager.stats().sessions, 1);
    scene.end().await;
}

/// Its socket has taken the request. A leader is frozen for longer than its followers wait for it.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_server_that_freezes_in_mid_create_makes_one_node() {
    let scene = Scene::exclusive().await;
    let leader = scene.cluster.leader().await.unwrap();
    for node in [(leader + 1) % NODES, leader] {
        let ways = Ways::open(&scene).await;
        let manager = ways.manager_at(&scene, node, TTL).await;
        manager.lock("a").unwrap().acquire().await.unwrap().release().await.unwrap();
        scene.cluster.pause(node).await.unwrap();
        let frozen = Instant::now();
        ways.all(Proxy::hold_requests);
        let acquiring = acquire(&manager, "a");
        within(PROMPT, "it is sent", ways.node(node).wait_held(Direction::Requests)).await;
        ways.all(Proxy::pass);
        let thaw = async {
            tokio::time::sleep_until(frozen + Duration::from_secs(3)).await;
            scene.cluster.unpause(node).await.unwrap();
            scene.cluster.wait_healthy().await.unwrap();
        };
        let acquired = async {
            let guard = within(PATIENCE, "another serves", acquiring).await.unwrap().unwrap();
            (guard, frozen.elapsed())
        };
        let ((), (guard, after)) = tokio::join!(thaw, acquired);
        println!("frozen for 3 s, leader: {}; acquired after {after:?}", node == leader);
        let entries = scene.entries("a").await;
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(guard.token().value(), entries[0].czxid);
        assert_eq!(guard.release().await.unwrap(), Released::Clean);
        scene.queued("a", 0).await;
        manager.shutdown(PROMPT).await.unwrap();
    }
    scene.end().await;
}
/// Eight workers count under one lock while every node goes down once.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_rolling_restart_under_contention() {
    let scene = Scene::exclusive().await;
    let (history, clock) = (History::default(), BootClock::new());
    let (counter, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let lock = scene.manager(TTL).await.lock("counter").unwrap();
        let (history, counter, stop) = (history.clone(), Arc::clone(&counter), Arc::clone(&stop));
        workers.spawn(async move {
            let mut done = 0_u64;
            while !stop.load(SeqCst) {
                let asked = clock.now();
                let guard = lock.acquire().await.unwrap();
                let token = guard.token().value();
                let belief = history.granted("counter", &n.to_string(), token, asked, clock.now());
                let seen = counter.load(SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                counter.store(seen + 1, SeqCst);
                assert!(guard.is_held());
                belief.ended(clock.now());
                // A release that no node confirmed in time is no fault: the entry goes later.
                drop(guard.release().await);
                done += 1;
            }
            done
        });
    }
    let progress = async |what: &str| {
        let goal = counter.load(SeqCst) + 8;
        eventually(PATIENCE, what, async || match counter.load(SeqCst) {
            seen if seen >= goal => Ok(()),
            seen => Err(seen),
        })
        .await;
    };
    progress("the workers count").await;
    for node in 0..NODES {
        scene.cluster.kill(node).await.unwrap();
        scene.cluster.leader().await.unwrap();
        progress("they count on without a node").await;
        scene.cluster.restart(node).await.unwrap();
        scene.cluster.wait_healthy().await.unwrap();
        progress("they count on with all nodes").await;
    }
    stop.store(true, SeqCst);
    let done = within(PATIENCE, "the workers end", workers.join_all()).await;
    assert_eq!(counter.load(SeqCst), done.iter().sum::<u64>(), "an update was lost");
    assert!(done.iter().all(|done| *done > 0), "a worker starved: {done:?}");
    let grants = history.check().unwrap();
    assert_eq!(u64::try_from(grants).unwrap(), counter.load(SeqCst));
    println!("{grants} grants: {done:?}");
    scene.queued("counter", 0).await;
    scene.end().await;
}
