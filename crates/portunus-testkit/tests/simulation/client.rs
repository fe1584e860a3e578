//! One client: it acquires, cancels, holds, stalls, looks, releases, and records what it believes.

use portunus_core::clock::Clock;
use portunus_core::error::ErrorKind;
use portunus_core::guard::Guard;
use portunus_core::manager::LockManager;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{sleep, timeout};

use crate::world::{LOCKS, TTL, World};

const ROUNDS: usize = 8;

/// Lives through its rounds.
pub async fn live(
    world: Arc<World>,
    manager: LockManager,
    name: String,
    seed: u64,
) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..ROUNDS {
        sleep(rng.random_range(Duration::ZERO..Duration::from_millis(300))).await;
        let lock_name = LOCKS[rng.random_range(0..LOCKS.len())];
        let lock = manager.lock(lock_name).map_err(|error| error.to_string())?;
        let asked = world.clock.now();
        let patience = rng.random_range(Duration::ZERO..2 * TTL);
        let found = match rng.random_range(0..4) {
            0 => lock.try_acquire().await,
            1 => lock.acquire_timeout(patience).await,
            // Dropped wherever it stands.
            2 => match timeout(patience / 8, lock.acquire()).await {
                Ok(found) => found.map(Some),
                Err(_) => {
                    world.cancelled.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            },
            _ => lock.acquire().await.map(Some),
        };
        match found {
            Ok(Some(guard)) => {
                let granted = world.clock.now();
                let token = guard.token().value();
                let belief = world.history.granted(lock_name, &name, token, asked, granted);
                world.judge_grant(lock_name, token).await?;
                hold(&world, guard, belief, &mut rng).await?;
            }
            Ok(None) => {}
            Err(error) => match error.kind() {
                ErrorKind::Lost | ErrorKind::Unavailable | ErrorKind::Unconfirmed => {}
                _ => return Err(format!("{name}: {error:#}")),
            },
        }
    }
    Ok(())
}

async fn hold(
    world: &World,
    guard: Guard,
    mut belief: portunus_testkit::history::Believing,
    rng: &mut StdRng,
) -> Result<(), String> {
    let now = || world.clock.now();
    let span = match rng.random_range(0..6) {
        0 => 2 * TTL,
        1 => Duration::ZERO,
        _ => rng.random_range(Duration::ZERO..Duration::from_millis(500)),
    };
    let until = now().after(span);
    let stalls = rng.random_bool(0.3);
    while now() < until {
        let step = until.since(now()).min(if stalls { span } else { Duration::from_millis(37) });
        tokio::select! {
            biased;
            () = sleep(step) => {}
            _ = guard.lost() => {
                belief.looked(false, now()).map_err(|violation| violation.to_string())?;
                if guard.is_held() {
                    return Err("the loss signal fired on a lock that is held".to_owned());
                }
                sleep(step).await;
            }
        }
        belief.looked(guard.is_held(), now()).map_err(|violation| violation.to_string())?;
    }
    belief.ended(now());
    if rng.random_bool(0.5) {
        drop(guard);
    } else {
        // Whatever the answer, the belief is over and the clean-up goes on.
        drop(guard.release().await);
    }
    Ok(())
}
