//! Elections: services that work while they lead, candidates by hand, and those who look on.

use portunus_core::clock::{Clock, Moment};
use portunus_core::election::{Election, Leadership, Transition};
use portunus_core::error::Result;
use portunus_core::guard::{CancellationToken, Guard};
use portunus_core::manager::LockManager;
use portunus_testkit::history::Believing;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{sleep, timeout};

use crate::client::{Client, text, tolerate};
use crate::kind::Kind;
use crate::world::{TTL, World};

type Outcome = std::result::Result<(), String>;

/// One round: as a service, or a term by hand.
pub async fn lead(client: &mut Client) -> Outcome {
    let election = client.manager.election(client.world.kind.names()[0]).map_err(text)?;
    if client.rng.random_bool(0.7) {
        Box::pin(serve(client, election)).await
    } else {
        Box::pin(campaign(client, election)).await
    }
}

/// One term: campaigns, publishes, resigns.
async fn campaign(client: &mut Client, election: Election) -> Outcome {
    let (asked, limit) = client.asks();
    let name = client.name.clone();
    let campaign = || Box::pin(election.campaign(&*name));
    let (trying, limited, patient) = (campaign(), campaign(), campaign());
    let ways = (bounded(TTL / 4, trying), bounded(limit, limited), patient);
    let Some(leadership) = client.seek(limit, ways).await? else { return Ok(()) };
    let guard: &Guard = &leadership;
    let mut belief = client.believe(election.name().as_str(), guard.token().value(), asked).await?;
    for _ in 0..client.rng.random_range(0..3) {
        let (limit, value) = (client.rng.random_range(Duration::ZERO..TTL), client.name.clone());
        tokio::select! {
            biased;
            published = leadership.publish(value + "!") => {
                if let Err(error) = published {
                    tolerate(error)?;
                }
            }
            // Dropped wherever it stands.
            () = sleep(limit) => {}
        }
        belief.looked(guard.is_held(), client.world.clock.now()).map_err(text)?;
    }
    client.look(guard, &mut belief).await?;
    belief.ended(client.world.clock.now());
    if client.rng.random_bool(0.5) {
        drop(leadership.resign().await);
    }
    Ok(())
}

async fn bounded<G>(span: Duration, won: impl Future<Output = Result<G>>) -> Result<Option<G>> {
    timeout(span, won).await.map_or(Ok(None), |won| won.map(Some))
}

/// Several terms, until it shuts down or is dropped.
async fn serve(client: &mut Client, election: Election) -> Outcome {
    let shutdown = CancellationToken::new();
    let asked = Arc::new(Mutex::new(client.world.clock.now()));
    let failed = Arc::new(Mutex::new(None));
    let mut seeds = StdRng::seed_from_u64(client.rng.random());
    let work = |leadership: Arc<Leadership>| {
        let (client, asked) = (
            Client {
                world: Arc::clone(&client.world),
                manager: client.manager.clone(),
                name: client.name.clone(),
                rng: StdRng::seed_from_u64(seeds.random()),
            },
            *asked.lock().unwrap(),
        );
        let failed = Arc::clone(&failed);
        async move {
            if let Err(violation) = work(client, leadership, asked).await {
                failed.lock().unwrap().get_or_insert(violation);
            }
        }
    };
    let campaigns_again = |transition| {
        if let Transition::Resigned { .. } | Transition::Failed(_) = transition {
            *asked.lock().unwrap() = client.world.clock.now();
        }
    };
    let running =
        election.run(&*client.name, work).on_transition(campaigns_again).until(shutdown.clone());
    let (span, killed) =
        (client.rng.random_range(Duration::ZERO..2 * TTL), client.rng.random_bool(0.2));
    if killed {
        match timeout(span, running.into_future()).await {
            Ok(ended) => ended.map_err(text)?,
            Err(_) => drop(client.world.cancelled.fetch_add(1, Ordering::Relaxed)),
        }
    } else {
        tokio::spawn(async move {
            sleep(span).await;
            shutdown.cancel();
        });
        running.await.map_err(text)?;
    }
    let failed = failed.lock().unwrap().take();
    failed.map_or(Ok(()), Err)
}

/// The work of one term, which takes its time to stop.
async fn work(mut client: Client, leadership: Arc<Leadership>, asked: Moment) -> Outcome {
    let (span, slow) = (
        client.rng.random_range(Duration::ZERO..TTL),
        client.rng.random_range(Duration::ZERO..Duration::from_millis(300)),
    );
    let (name, term) = (leadership.name().as_str(), leadership.term().value());
    let world = Arc::clone(&client.world);
    let belief = world.history.granted(name, &client.name, term, asked, world.clock.now());
    let mut working = Working { world, leadership: Arc::clone(&leadership), belief: Some(belief) };
    client.world.judge_grant(name, term).await?;
    let stop = leadership.cancellation_token();
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = sleep(span) => return Ok(()),
    }
    let until = client.world.clock.now().after(slow);
    working.look()?;
    tokio::select! {
        biased;
        _ = leadership.lost() => working.look()?,
        () = client.world.clock.sleep_until(until) => {}
    }
    client.world.clock.sleep_until(until).await;
    Ok(())
}

/// Work under way; it has ended when this is gone.
struct Working {
    world: Arc<World>,
    leadership: Arc<Leadership>,
    belief: Option<Believing>,
}

impl Working {
    fn look(&mut self) -> Outcome {
        let (status, now) = (self.leadership.status(), self.world.clock.now());
        self.belief.as_mut().map_or(Ok(()), |belief| belief.worked(status, now)).map_err(text)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        // A violation would be one of the looks before.
        let _ = self.look();
        if let Some(belief) = self.belief.take() {
            belief.ended(self.world.clock.now());
        }
    }
}

/// Those who look on, one in each manager.
pub struct Observers(Vec<Arc<Mutex<Seen>>>);

#[derive(Default)]
struct Seen {
    /// Who led each term.
    leaders: HashMap<u64, String>,
    leads: bool,
    violation: Option<String>,
}

impl Observers {
    pub fn start(world: &World, managers: &[LockManager]) -> Self {
        let managers = if world.kind == Kind::Leaders { managers } else { &[] };
        Self(managers.iter().map(|manager| observe(manager, world.kind.names()[0])).collect())
    }

    /// All saw the same leaders, and see that nobody leads any more.
    pub fn judge(self) -> Outcome {
        let mut leaders = HashMap::new();
        for seen in self.0 {
            let seen = std::mem::take(&mut *seen.lock().unwrap());
            seen.violation.map_or(Ok(()), Err)?;
            if seen.leads || seen.leaders.is_empty() {
                return Err("an observer was left behind".to_owned());
            }
            for (term, leader) in seen.leaders {
                let other = leaders.insert(term, leader.clone());
                if other.as_ref().is_some_and(|other| *other != leader) {
                    return Err(format!("two led in term {term}: {leader} and {other:?}"));
                }
            }
        }
        Ok(())
    }
}

fn observe(manager: &LockManager, name: &str) -> Arc<Mutex<Seen>> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let telling = Arc::clone(&seen);
    let mut observed = manager.election(name).expect("BUG: the name").observe();
    tokio::spawn(async move {
        let mut highest = 0;
        while let Some(item) = observed.next().await {
            let mut seen = telling.lock().unwrap();
            match item {
                Ok(leader) => {
                    seen.leads = leader.is_some();
                    let Some(leader) = leader else { continue };
                    let (term, leader) = (leader.term.value(), leader.value.replace('!', ""));
                    if term < highest {
                        seen.violation = Some(format!("term {term} after {highest}"));
                    }
                    highest = highest.max(term);
                    let other = seen.leaders.insert(term, leader.clone());
                    if other.as_ref().is_some_and(|other| *other != leader) {
                        seen.violation = Some(format!("two led in term {term}"));
                    }
                }
                Err(error) => seen.violation = Some(format!("an observer: {error:#}")),
            }
        }
    });
    seen
}
