//! One client: it acquires, cancels, holds, stalls, looks, releases, and records what it believes.

use portunus_core::backend::Mode;
use portunus_core::clock::{Clock, Moment};
use portunus_core::error::{Error, ErrorKind, Result as LockResult};
use portunus_core::guard::Guard;
use portunus_core::manager::LockManager;
use portunus_testkit::history::Believing;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{sleep, timeout};

use crate::kind::Kind;
use crate::leaders;
use crate::world::{TTL, World};

const ROUNDS: usize = 8;
pub const LIMIT: u32 = 2;

/// A client, and what it draws its steps from.
pub struct Client {
    pub world: Arc<World>,
    pub manager: LockManager,
    pub name: String,
    pub rng: StdRng,
}

/// Lives through its rounds.
pub async fn live(
    world: Arc<World>,
    manager: LockManager,
    name: String,
    seed: u64,
) -> Result<(), String> {
    let mut client = Client { world, manager, name, rng: StdRng::seed_from_u64(seed) };
    for _ in 0..ROUNDS {
        sleep(client.rng.random_range(Duration::ZERO..Duration::from_millis(300))).await;
        match client.world.kind {
            Kind::Locks => client.lock().await?,
            Kind::Readers => client.read_or_write().await?,
            Kind::Permits => client.permit().await?,
            Kind::Leaders => leaders::lead(&mut client).await?,
            Kind::Many => client.many().await?,
        }
    }
    Ok(())
}

/// Acquires a lock of that kind and gives it up.
pub async fn acquire(kind: Kind, manager: &LockManager, name: &str) -> LockResult<()> {
    match kind {
        Kind::Locks | Kind::Many => drop(manager.lock(name)?.acquire().await?),
        Kind::Readers => drop(manager.rwlock(name)?.write().await?),
        Kind::Permits => drop(manager.semaphore(name, LIMIT)?.acquire().await?),
        Kind::Leaders => drop(manager.election(name)?.campaign("after").await?),
    }
    Ok(())
}

impl Client {
    async fn lock(&mut self) -> Result<(), String> {
        let names = self.world.kind.names();
        let name = names[self.rng.random_range(0..names.len())];
        let lock = self.manager.lock(name).map_err(text)?;
        let (asked, patience) = self.asks();
        let ways = (lock.try_acquire(), lock.acquire_timeout(patience), lock.acquire());
        if let Some(guard) = self.seek(patience, ways).await? {
            let belief = self.believe(name, guard.token().value(), asked).await?;
            self.hold(guard, belief).await?;
        }
        Ok(())
    }

    async fn read_or_write(&mut self) -> Result<(), String> {
        let name = self.world.kind.names()[0];
        let lock = self.manager.rwlock(name).map_err(text)?;
        let (asked, patience) = self.asks();
        if self.rng.random_bool(0.6) {
            let ways = (lock.try_read(), lock.read_timeout(patience), lock.read());
            if let Some(guard) = self.seek(patience, ways).await? {
                let belief = self.believe(name, guard.token().value(), asked).await?;
                self.hold(guard, belief.held_as(Mode::Shared)).await?;
            }
            return Ok(());
        }
        let ways = (lock.try_write(), lock.write_timeout(patience), lock.write());
        let Some(guard) = self.seek(patience, ways).await? else { return Ok(()) };
        let token = guard.token().value();
        let mut belief = self.believe(name, token, asked).await?;
        if self.rng.random_bool(0.5) {
            return self.hold(guard, belief).await;
        }
        self.look(&guard, &mut belief).await?;
        // From here on readers may come in.
        belief.ended(self.world.clock.now());
        match guard.downgrade().await {
            Ok(reader) => {
                let belief = self.believe(name, token, asked).await?;
                self.hold(reader, belief.held_as(Mode::Shared)).await
            }
            Err(failed) => tolerate(failed.into()),
        }
    }

    async fn permit(&mut self) -> Result<(), String> {
        let name = self.world.kind.names()[0];
        let semaphore = self.manager.semaphore(name, LIMIT).map_err(text)?;
        let (asked, patience) = self.asks();
        let ways =
            (semaphore.try_acquire(), semaphore.acquire_timeout(patience), semaphore.acquire());
        if let Some(permit) = self.seek(patience, ways).await? {
            let now = self.world.clock.now();
            let belief = self.world.history.granted(name, &self.name, 0, asked, now);
            self.hold(permit, belief.held_as(Mode::Permit { limit: LIMIT })).await?;
        }
        Ok(())
    }

    /// Two of the three locks, in either order, so that the sets of clients overlap in part.
    async fn many(&mut self) -> Result<(), String> {
        let mut names = self.world.kind.names().to_vec();
        names.remove(self.rng.random_range(0..names.len()));
        if self.rng.random_bool(0.5) {
            names.reverse();
        }
        let manager = self.manager.clone();
        let (asked, patience) = self.asks();
        let ways = (
            manager.try_acquire_all(&names),
            manager.acquire_all_timeout(&names, patience),
            manager.acquire_all(&names),
        );
        let Some(guards) = self.seek(patience, ways).await? else { return Ok(()) };
        let mut beliefs = Vec::new();
        for guard in guards.iter() {
            let (name, token) = (guard.name().as_str(), guard.token().value());
            beliefs.push(self.believe(name, token, asked).await?);
        }
        let span = self.span();
        tokio::select! {
            biased;
            () = sleep(span) => {}
            _ = guards.lost() => {
                if guards.are_held() {
                    return Err("the loss of a set was told, and all are held".to_owned());
                }
            }
        }
        let now = self.world.clock.now();
        for (guard, mut belief) in guards.iter().zip(beliefs) {
            belief.looked(guard.is_held(), now).map_err(text)?;
            belief.ended(now);
        }
        if self.rng.random_bool(0.5) {
            drop(guards.release().await);
        }
        Ok(())
    }

    /// When it asks, and how long it will wait at most.
    pub fn asks(&mut self) -> (Moment, Duration) {
        let asked = self.world.clock.now();
        (asked, self.rng.random_range(Duration::ZERO..2 * TTL))
    }

    /// Asks in one of the ways: a try, a wait with a limit, one without, one that is dropped.
    pub async fn seek<G>(
        &mut self,
        patience: Duration,
        (trying, limited, patient): (
            impl Future<Output = LockResult<Option<G>>>,
            impl Future<Output = LockResult<Option<G>>>,
            impl Future<Output = LockResult<G>>,
        ),
    ) -> Result<Option<G>, String> {
        let found = match self.rng.random_range(0..4) {
            0 => trying.await,
            1 => limited.await,
            // Dropped wherever it stands.
            2 => match timeout(patience / 8, patient).await {
                Ok(found) => found.map(Some),
                Err(_) => {
                    self.world.cancelled.fetch_add(1, Ordering::Relaxed);
                    return Ok(None);
                }
            },
            _ => patient.await.map(Some),
        };
        match found {
            Ok(found) => Ok(found),
            Err(error) => tolerate(error).map(|()| None),
        }
    }

    /// Begins to believe in a grant, which has to be possible.
    pub async fn believe(
        &self,
        name: &str,
        token: u64,
        asked: Moment,
    ) -> Result<Believing, String> {
        let now = self.world.clock.now();
        let belief = self.world.history.granted(name, &self.name, token, asked, now);
        self.world.judge_grant(name, token).await?;
        Ok(belief)
    }

    async fn hold<M>(&mut self, guard: Guard<M>, mut belief: Believing) -> Result<(), String> {
        self.look(&guard, &mut belief).await?;
        belief.ended(self.world.clock.now());
        if self.rng.random_bool(0.5) {
            drop(guard);
        } else {
            // Whatever the answer, the belief is over and the clean-up goes on.
            drop(guard.release().await);
        }
        Ok(())
    }

    /// Looks at a guard, often or seldom, for as long as it is to be held.
    pub async fn look<M>(
        &mut self,
        guard: &Guard<M>,
        belief: &mut Believing,
    ) -> Result<(), String> {
        let world = Arc::clone(&self.world);
        let now = || world.clock.now();
        let span = self.span();
        let until = now().after(span);
        let stalls = self.rng.random_bool(0.3);
        while now() < until {
            let step =
                until.since(now()).min(if stalls { span } else { Duration::from_millis(37) });
            tokio::select! {
                biased;
                () = sleep(step) => {}
                _ = guard.lost() => {
                    belief.looked(false, now()).map_err(text)?;
                    if guard.is_held() {
                        return Err("the loss signal fired on a lock that is held".to_owned());
                    }
                    sleep(step).await;
                }
            }
            belief.looked(guard.is_held(), now()).map_err(text)?;
        }
        Ok(())
    }

    fn span(&mut self) -> Duration {
        match self.rng.random_range(0..6) {
            0 => 2 * TTL,
            1 => Duration::ZERO,
            _ => self.rng.random_range(Duration::ZERO..Duration::from_millis(500)),
        }
    }
}

/// Takes an error that faults explain.
pub fn tolerate(error: Error) -> Result<(), String> {
    match error.kind() {
        ErrorKind::Lost | ErrorKind::Unavailable | ErrorKind::Unconfirmed => Ok(()),
        _ => Err(format!("{error:#}")),
    }
}

pub fn text(error: impl ToString) -> String {
    error.to_string()
}
