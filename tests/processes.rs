//! What befalls whole processes: stopped, killed, blocked. Each test has the cluster alone.

#![cfg(unix)]

mod child;
mod stage;

use nix::sys::signal::Signal;
use portunus::LockManager;
use tokio::time::{Instant, timeout};

use child::Child;
use stage::{PROMPT, SLACK, Scene, TTL, on_every_store};

on_every_store! {
    a_holder_stopped_past_its_ttl_sees_the_loss_at_its_first_look
    a_killed_holders_lock_is_free_within_its_ttl
    a_killed_leaders_term_ends_within_its_ttl
    a_waiter_killed_in_mid_queue_holds_up_nobody
    an_executor_blocked_for_twice_the_ttl_keeps_its_lock
}

async fn a_holder_stopped_past_its_ttl_sees_the_loss_at_its_first_look(scene: Scene) {
    let (mut stopped, mut other) = (scene.worker("2s", "a").await, scene.worker("30s", "a").await);
    let first = stopped.acquire().await;
    stopped.ask("look", "held true").await;
    other.tell("acquire").await;
    scene.queued("a", 2).await;
    stopped.signal(Signal::SIGSTOP);
    let second = other.token().await;
    assert!(second > first, "{second} after {first}");
    // The command lies there when it wakes up.
    stopped.tell("look").await;
    stopped.signal(Signal::SIGCONT);
    assert_eq!(stopped.line().await, "held false");
    stopped.ask("release", "released AlreadyLost(Expired)").await;
    other.ask("look", "held true").await;
    other.ask("release", "released Clean").await;
    // It goes on with a new session.
    assert!(stopped.acquire().await > second);
    stopped.ask("release", "released Clean").await;
    stopped.end().await;
    other.end().await;
    scene.end().await;
}

async fn a_killed_holders_lock_is_free_within_its_ttl(scene: Scene) {
    let manager = scene.manager("30s").await;
    let mut last = [0; 5];
    for round in 0..rounds() {
        let mut holders = Vec::new();
        for (number, last) in last.iter().enumerate() {
            let name = format!("a{number}");
            let mut holder = scene.worker("2s", &name).await;
            let token = holder.acquire().await;
            assert!(token > *last);
            let lock = manager.lock(&name).unwrap();
            let waiter = tokio::spawn(async move { lock.acquire().await });
            scene.queued(&name, 2).await;
            holders.push((holder, token, waiter));
        }
        for (number, (holder, token, waiter)) in holders.into_iter().enumerate() {
            let killed = Instant::now();
            holder.signal(Signal::SIGKILL);
            let waited = timeout(TTL + SLACK, waiter).await.expect("the lock is free in time");
            let guard = waited.unwrap().unwrap();
            println!("round {round}: free after {:?}", killed.elapsed());
            last[number] = guard.token().value();
            assert!(last[number] > token);
            guard.release().await.unwrap();
        }
    }
    manager.shutdown(PROMPT).await.unwrap();
    scene.end().await;
}

/// Another is elected, in a later term, and observers see it.
async fn a_killed_leaders_term_ends_within_its_ttl(scene: Scene) {
    let manager = scene.manager("30s").await;
    for round in 0..rounds() {
        let mut leaders = Vec::new();
        for name in ["a0", "a1", "a2", "a3", "a4"] {
            let mut leader = scene.worker("2s", name).await;
            leader.tell("campaign").await;
            let term = leader.token().await;
            let election = manager.election(name).unwrap();
            let mut seen = election.observe();
            let next = tokio::spawn(async move { election.campaign("next").await });
            scene.queued(name, 2).await;
            let first = seen.next().await.unwrap().unwrap().unwrap();
            assert_eq!((first.term.value(), &*first.value), (term, "worker"));
            leaders.push((leader, next, seen));
        }
        for (leader, next, mut seen) in leaders {
            let killed = Instant::now();
            leader.signal(Signal::SIGKILL);
            let elected = timeout(TTL + SLACK, next).await.expect("another is elected in time");
            let leadership = elected.unwrap().unwrap();
            println!("round {round}: another leads after {:?}", killed.elapsed());
            let told = async {
                loop {
                    let leader = seen.next().await.unwrap().unwrap();
                    if let Some(leader) = leader.filter(|leader| leader.value == "next") {
                        return leader;
                    }
                }
            };
            let told = timeout(PROMPT, told).await.expect("observers are told");
            assert_eq!(told.term, leadership.term());
            leadership.resign().await.unwrap();
        }
    }
    manager.shutdown(PROMPT).await.unwrap();
    scene.end().await;
}

async fn a_waiter_killed_in_mid_queue_holds_up_nobody(scene: Scene) {
    let manager = scene.manager("30s").await;
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let mut killed = scene.worker("2s", "a").await;
    killed.tell("acquire").await;
    scene.queued("a", 2).await;
    let lock = manager.lock("a").unwrap();
    let successor = tokio::spawn(async move { lock.acquire().await });
    scene.queued("a", 3).await;
    killed.signal(Signal::SIGKILL);
    let first = guard.token().value();
    guard.release().await.unwrap();
    let served = timeout(TTL + SLACK, successor).await.expect("the successor is served in time");
    let guard = served.unwrap().unwrap();
    assert!(guard.token().value() > first);
    guard.release().await.unwrap();
    manager.shutdown(PROMPT).await.unwrap();
    scene.end().await;
}

/// On a current-thread runtime: nothing of the user's runs meanwhile.
async fn an_executor_blocked_for_twice_the_ttl_keeps_its_lock(scene: Scene) {
    let mut other = scene.worker("30s", "a").await;
    let manager = scene.manager("2s").await;
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let token = guard.token().value();
    other.tell("acquire").await;
    scene.queued("a", 2).await;
    std::thread::sleep(2 * TTL);
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), portunus::Released::Clean);
    assert!(other.token().await > token);
    other.ask("release", "released Clean").await;
    manager.shutdown(PROMPT).await.unwrap();
    other.end().await;
    scene.end().await;
}

impl Scene {
    async fn manager(&self, ttl: &str) -> LockManager {
        portunus::connect(self.url(ttl)).await.unwrap()
    }

    /// A process that runs `worker.rs`.
    async fn worker(&self, ttl: &str, name: &str) -> Child {
        let program = env!("CARGO_BIN_EXE_portunus-test-worker");
        let mut worker = Child::start(program, &[self.url(ttl).as_str(), name]);
        assert_eq!(worker.line().await, "ready");
        worker
    }
}

/// How often to kill five holders: once, or as often as `PORTUNUS_KILLS` says.
fn rounds() -> u32 {
    std::env::var("PORTUNUS_KILLS").map_or(1, |rounds| rounds.parse().unwrap())
}
