//! One schedule: a store, managers behind faulty networks, clients, a nemesis, and the judgement.

use portunus_core::backend::{AttemptId, LockBackend, LockObserver};
use portunus_core::clock::{Clock, TokioClock};
use portunus_core::manager::{LockManager, ManagerBuilder};
use portunus_core::memory::Memory;
use portunus_core::name::LockName;
use portunus_testkit::faults::{Faults, Faulty};
use portunus_testkit::history::History;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashSet;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{sleep, timeout};

use crate::client;
use crate::kind::Kind;
use crate::leaders::Observers;

/// What the tasks of one schedule share.
pub struct World {
    pub clock: Arc<TokioClock>,
    pub store: Memory,
    pub history: History,
    pub cancelled: AtomicU64,
    /// What the clients contend for.
    pub kind: Kind,
    /// Whether the store ends sessions before their time, so that only tokens can be trusted.
    hasty: bool,
    evicted: Mutex<HashSet<Arc<str>>>,
}

/// What happened in one schedule, or in many.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    pub grants: u64,
    pub lost: u64,
    pub cancelled: u64,
    pub evicted: u64,
    pub retries: u64,
    /// Schedules in which there were grants, by kind.
    pub kinds: [u64; Kind::ALL.len()],
}

pub const TTL: Duration = Duration::from_secs(2);
const MANAGERS: u64 = 3;
const CLIENTS: u64 = 2;

impl World {
    /// Plays the schedule of `seed`.
    pub fn run(seed: u64) -> Result<Summary, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| error.to_string())?;
        // No schedule takes an hour of virtual time unless it hangs.
        let limit = Duration::from_secs(3600);
        let outcome = runtime
            .block_on(async { timeout(limit, Self::play(seed)).await })
            .unwrap_or_else(|_| Err("it never ends".to_owned()));
        // What a violation left running must not outlive it in its own runtime's shutdown.
        runtime.shutdown_background();
        outcome
    }

    async fn play(seed: u64) -> Result<Summary, String> {
        let clock = Arc::new(TokioClock::start());
        let world = Arc::new(Self {
            store: Memory::with_clock(clock.clone()),
            clock: clock.clone(),
            history: History::default(),
            cancelled: AtomicU64::new(0),
            kind: Kind::of(seed),
            hasty: seed.is_multiple_of(3),
            evicted: Mutex::default(),
        });
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut managers, mut networks, mut clients) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..MANAGERS {
            let network = Faulty::new(Arc::new(world.store.clone()), clock.clone(), rng.random());
            let manager = Self::manager(&network, clock.clone(), rng.random()).await?;
            network.set(faults(&mut rng, world.hasty));
            for _ in 0..CLIENTS {
                let name = format!("c{}", clients.len());
                let life = client::live(world.clone(), manager.clone(), name, rng.random());
                clients.push(tokio::spawn(life));
            }
            managers.push(manager);
            networks.push(network);
        }
        let observers = Observers::start(&world, &managers);
        let nemesis = tokio::spawn(world.clone().trouble(networks.clone(), rng.random()));
        for client in clients {
            client.await.map_err(|error| error.to_string())??;
        }
        nemesis.abort();
        for network in &networks {
            network.thaw();
            network.set(Faults::default());
        }
        world.after(&managers).await?;
        observers.judge()?;
        let mut summary = world.summary()?;
        for manager in managers {
            let stats = manager.stats();
            summary.lost += stats.lost;
            summary.retries += stats.retries;
            manager.shutdown(TTL).await.map_err(|error| error.to_string())?;
        }
        Ok(summary)
    }

    /// After the faults: everyone acquires within TTL + 10 s, and nothing is left behind.
    async fn after(&self, managers: &[LockManager]) -> Result<(), String> {
        let limit = TTL + Duration::from_secs(10);
        for (at, manager) in managers.iter().enumerate() {
            for name in self.kind.names() {
                let acquired = timeout(limit, client::acquire(self.kind, manager, name)).await;
                acquired
                    .map_err(|_| format!("manager {at} can't get {name} after the faults"))?
                    .map_err(|error| format!("after the faults: {error:#}"))?;
            }
        }
        // The sessions live on, so nothing below vanishes with one.
        sleep(2 * TTL).await;
        for name in self.kind.names() {
            let left = self.store.queue(&LockName::new(name).unwrap()).await.unwrap();
            if !left.is_empty() {
                return Err(format!("left in the queue of {name}: {left:?}"));
            }
        }
        Ok(())
    }

    fn summary(&self) -> Result<Summary, String> {
        let history = &self.history;
        let grants = if self.hasty { history.check_tokens() } else { history.check() };
        let grants = grants.map_err(|violation| violation.to_string())?;
        let mut kinds = [0; Kind::ALL.len()];
        kinds[self.kind as usize] = u64::from(grants > 0);
        Ok(Summary {
            kinds,
            grants: u64::try_from(grants).unwrap(),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            evicted: u64::try_from(self.evicted.lock().unwrap().len()).unwrap(),
            ..Summary::default()
        })
    }

    async fn manager(
        network: &Faulty,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Result<LockManager, String> {
        let backend: Arc<dyn LockBackend> = Arc::new(network.clone());
        let builder = ManagerBuilder::new(backend).clock(clock).seed(seed).inline().ttl(TTL);
        builder.open().await.map_err(|error| error.to_string())
    }

    /// Freezes networks and evicts waiters, until it is stopped.
    async fn trouble(self: Arc<Self>, networks: Vec<Faulty>, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        loop {
            sleep(rng.random_range(Duration::from_millis(50)..Duration::from_secs(2))).await;
            if rng.random_bool(0.3) {
                let network = networks[rng.random_range(0..networks.len())].clone();
                network.freeze();
                let span = rng.random_range(Duration::from_millis(50)..2 * TTL);
                tokio::spawn(async move {
                    sleep(span).await;
                    network.thaw();
                });
            } else {
                let names = self.kind.names();
                let name = LockName::new(names[rng.random_range(0..names.len())]).unwrap();
                // Only a waiter: to evict a holder lets the next one in by intent.
                let mut waiters = self.store.contenders(&name).await.unwrap();
                waiters.retain(|contender| !contender.holds);
                if !waiters.is_empty() {
                    let entry = &waiters[rng.random_range(0..waiters.len())].entry;
                    // Only one that its owner knows of: before that, `enter` may make it again.
                    let attempt = AttemptId(u128::from_str_radix(&entry.key, 16).unwrap());
                    if networks.iter().any(|network| network.has_answered(attempt))
                        && self.store.evict(&name, entry).await.unwrap()
                    {
                        self.evicted.lock().unwrap().insert(entry.key.clone());
                    }
                }
            }
        }
    }

    /// A waiter that was evicted is never granted: its entry is not made again.
    pub async fn judge_grant(&self, name: &str, token: u64) -> Result<(), String> {
        let queue = self.store.queue(&LockName::new(name).unwrap()).await.unwrap();
        let own = queue.iter().find(|entry| entry.id.position == token);
        match own.filter(|own| self.evicted.lock().unwrap().contains(&own.id.key)) {
            Some(own) => Err(format!("{name}: {:?} was granted after its eviction", own.id)),
            None => Ok(()),
        }
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.grants += other.grants;
        self.lost += other.lost;
        self.cancelled += other.cancelled;
        self.evicted += other.evicted;
        self.retries += other.retries;
        for (sum, more) in self.kinds.iter_mut().zip(other.kinds) {
            *sum += more;
        }
    }
}

/// One of the ways in which a network can be bad.
fn faults(rng: &mut StdRng, hasty: bool) -> Faults {
    let early = if hasty { 0.05 } else { 0.0 };
    let delay = Duration::from_millis(rng.random_range(0..150));
    let share = |rng: &mut StdRng, most: f64| rng.random_range(0.0..most);
    match rng.random_range(0..4) {
        0 => Faults { delay, ..Faults::default() },
        1 => Faults {
            delay,
            lateness: 2 * TTL,
            late: share(rng, 0.3),
            reply_lost: share(rng, 0.2),
            ..Faults::default()
        },
        2 => {
            Faults { delay, session_ended: early, wake_lost: share(rng, 0.5), ..Faults::default() }
        }
        _ => Faults {
            refused: share(rng, 0.2),
            request_lost: share(rng, 0.2),
            reply_lost: share(rng, 0.2),
            late: share(rng, 0.1),
            session_ended: early / 2.0,
            wake_lost: share(rng, 0.2),
            delay,
            lateness: 2 * TTL,
        },
    }
}
