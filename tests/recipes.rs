//! Readers and writers, permits, leaders and many locks at once go on while nodes of their store fail.

#![cfg(unix)]

mod stage;

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portunus::backend::{BootClock, Clock, Mode, Moment};
use portunus::{CancellationToken, ErrorKind, Guard, LockManager, Status};
use portunus_testkit::history::History;
use tokio::task::JoinSet;
use tokio::time::sleep;

use stage::{PROMPT, Scene, eventually, on_every_store};

on_every_store! {
    they_go_on_while_the_leading_node_is_killed
    they_go_on_while_the_leading_node_is_paused
}

/// At least twice the time that the stores here take to replace a node.
const TTL: &str = "6s";
/// Longer than that.
const PAUSE: Duration = Duration::from_secs(8);
const LIMIT: Duration = Duration::from_secs(2);
/// Enough of each kind to show that it goes on.
const GRANTS: usize = 5;
const KINDS: [&str; 5] = ["readers", "writers", "permits", "leaders", "many"];

async fn they_go_on_while_the_leading_node_is_killed(scene: Scene) {
    let world = World::begin(&scene).await;
    let leader = scene.cluster().leader().await.unwrap();
    scene.cluster().kill(leader).await.unwrap();
    world.goes_on("with a node less").await;
    scene.cluster().restart(leader).await.unwrap();
    scene.cluster().wait_healthy().await.unwrap();
    world.goes_on("with all of them").await;
    let history = world.end().await;
    history.check().unwrap();
    scene.end().await;
}

async fn they_go_on_while_the_leading_node_is_paused(scene: Scene) {
    let world = World::begin(&scene).await;
    let leader = scene.cluster().leader().await.unwrap();
    scene.cluster().pause(leader).await.unwrap();
    sleep(PAUSE).await;
    world.goes_on("with a node less").await;
    scene.cluster().unpause(leader).await.unwrap();
    scene.cluster().wait_healthy().await.unwrap();
    world.goes_on("with all of them").await;
    // Servers up to 3.5.16 at least sometimes revoke leases that live when such a leader wakes up
    // (etcd #15247), and then only tokens can be trusted.
    let history = world.end().await;
    history.check_tokens().unwrap();
    scene.end().await;
}

/// Three managers with a few clients of each kind, and one who observes the leaders.
struct World {
    shared: Arc<Shared>,
    managers: Vec<LockManager>,
    clients: JoinSet<()>,
}

struct Shared {
    clock: BootClock,
    history: History,
    grants: Mutex<BTreeMap<&'static str, usize>>,
    stop: CancellationToken,
}

impl World {
    async fn begin(scene: &Scene) -> Self {
        let shared = Arc::new(Shared {
            clock: BootClock::new(),
            history: History::default(),
            grants: Mutex::default(),
            stop: CancellationToken::new(),
        });
        let (mut managers, mut clients) = (Vec::new(), JoinSet::new());
        for number in 0..3 {
            let manager = portunus::connect(scene.url(TTL)).await.unwrap();
            live(&mut clients, &shared, &manager, number);
            managers.push(manager);
        }
        clients.spawn(observe(Arc::clone(&shared), managers[0].clone()));
        let world = Self { shared, managers, clients };
        world.goes_on("at first").await;
        world
    }

    /// Completes when each kind was granted a few times more.
    async fn goes_on(&self, when: &str) {
        let before = self.shared.grants.lock().unwrap().clone();
        eventually(&format!("each kind goes on {when}"), async || {
            let grants = self.shared.grants.lock().unwrap().clone();
            let count = |of: &BTreeMap<_, _>, kind| of.get(kind).copied().unwrap_or(0);
            let enough = |kind| count(&grants, kind) >= count(&before, kind) + GRANTS;
            if KINDS.into_iter().all(enough) { Ok(()) } else { Err(grants) }
        })
        .await;
    }

    async fn end(mut self) -> History {
        self.shared.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        for manager in self.managers {
            manager.shutdown(PROMPT).await.unwrap();
        }
        self.shared.history.clone()
    }
}

fn live(clients: &mut JoinSet<()>, shared: &Arc<Shared>, manager: &LockManager, number: usize) {
    let table = manager.rwlock("table").unwrap();
    let permits = manager.semaphore("permits", 2).unwrap();
    for client in 0..2 {
        let (holder, lock) = (format!("reader {number}.{client}"), table.clone());
        let read = move || {
            let lock = lock.clone();
            async move { lock.read_timeout(LIMIT).await }
        };
        let number_of = |guard: &portunus::SharedGuard| guard.token().value();
        let of = ("readers", "table", Mode::Shared);
        clients.spawn(take_turns(Arc::clone(shared), of, holder, read, number_of));
        let (holder, lock) = (format!("permit {number}.{client}"), permits.clone());
        let acquire = move || {
            let lock = lock.clone();
            async move { lock.acquire_timeout(LIMIT).await }
        };
        let of = ("permits", "permits", Mode::Permit { limit: 2 });
        clients.spawn(take_turns(Arc::clone(shared), of, holder, acquire, |_| 0));
    }
    let (holder, lock) = (format!("writer {number}"), table);
    let write = move || {
        let lock = lock.clone();
        async move { lock.write_timeout(LIMIT).await }
    };
    let of = ("writers", "table", Mode::Exclusive);
    let number_of = |guard: &Guard| guard.token().value();
    clients.spawn(take_turns(Arc::clone(shared), of, holder, write, number_of));
    clients.spawn(take_many(Arc::clone(shared), manager.clone(), format!("many {number}")));
    clients.spawn(lead(Arc::clone(shared), manager.clone(), format!("leader {number}")));
}

/// Acquires and releases, again and again.
async fn take_turns<M, F>(
    shared: Arc<Shared>,
    (kind, lock, mode): (&'static str, &'static str, Mode),
    holder: String,
    mut acquire: impl FnMut() -> F + Send,
    number_of: impl Fn(&Guard<M>) -> u64 + Send,
) where
    F: Future<Output = portunus::Result<Option<Guard<M>>>> + Send,
{
    while !shared.stop.is_cancelled() {
        let asked = shared.clock.now();
        let Some(guard) = granted(acquire().await) else { continue };
        let token = number_of(&guard);
        shared.believe(lock, &holder, mode, (token, asked), || guard.is_held()).await;
        shared.count(kind);
        drop(guard.release().await);
    }
}

async fn take_many(shared: Arc<Shared>, manager: LockManager, holder: String) {
    while !shared.stop.is_cancelled() {
        let asked = shared.clock.now();
        let taken = manager.acquire_all_timeout(["x", "y"], LIMIT).await;
        let Some(guards) = granted(taken) else { continue };
        for guard in guards.iter() {
            let (name, token) = (guard.name().as_str(), guard.token().value());
            let held = || guard.is_held();
            shared.believe(name, &holder, Mode::Exclusive, (token, asked), held).await;
        }
        shared.count("many");
        drop(guards.release().await);
    }
}

/// Leads for a moment each time.
async fn lead(shared: Arc<Shared>, manager: LockManager, holder: String) {
    let election = manager.election("leader").unwrap();
    let asked = Mutex::new(shared.clock.now());
    let run = election.run(&*holder, |leadership| {
        let (shared, holder) = (Arc::clone(&shared), holder.clone());
        let asked = *asked.lock().unwrap();
        async move {
            let (now, term) = (shared.clock.now(), leadership.term().value());
            let mut belief = shared.history.granted("leader", &holder, term, asked, now);
            let until = now.after(Duration::from_millis(50));
            while shared.clock.now() < until {
                let status: Status = leadership.status();
                belief.worked(status, shared.clock.now()).unwrap();
                sleep(Duration::from_millis(5)).await;
            }
            belief.worked(leadership.status(), shared.clock.now()).unwrap();
            belief.ended(shared.clock.now());
            shared.count("leaders");
        }
    });
    // It campaigns again only after this.
    let told = |_| *asked.lock().unwrap() = shared.clock.now();
    run.on_transition(told).until(shared.stop.clone()).into_future().await.unwrap();
}

/// Sees leaders whose terms grow; an error would say that they did not.
async fn observe(shared: Arc<Shared>, manager: LockManager) {
    let mut seen = manager.election("leader").unwrap().observe();
    let mut last = 0;
    while let Some(Some(leader)) = shared.stop.run_until_cancelled(seen.next()).await {
        if let Some(leader) = leader.unwrap() {
            assert!(leader.term.value() >= last);
            last = leader.term.value();
        }
    }
    assert!(last > 0, "nobody was seen to lead");
}

/// The grant, if there is one; a store in trouble may say so.
fn granted<G>(answer: portunus::Result<Option<G>>) -> Option<G> {
    match answer {
        Ok(granted) => granted,
        Err(error) => {
            use ErrorKind::{Lost, Unavailable, Unconfirmed};
            assert!(matches!(error.kind(), Lost | Unavailable | Unconfirmed), "{error:#}");
            None
        }
    }
}

impl Shared {
    /// Believes in a grant for a moment, and looks at it.
    async fn believe(
        &self,
        lock: &str,
        holder: &str,
        mode: Mode,
        (token, asked): (u64, Moment),
        is_held: impl Fn() -> bool + Send,
    ) {
        let now = || self.clock.now();
        let mut belief = self.history.granted(lock, holder, token, asked, now()).held_as(mode);
        for _ in 0..3 {
            sleep(Duration::from_millis(5)).await;
            belief.looked(is_held(), now()).unwrap();
        }
        belief.ended(now());
    }

    fn count(&self, kind: &'static str) {
        *self.grants.lock().unwrap().entry(kind).or_default() += 1;
    }
}
