//! One schedule of its own: a permit goes to the next waiter when the first of its holders goes, long
//! before a sweep.

use portunus_core::clock::TokioClock;
use portunus_core::manager::ManagerBuilder;
use portunus_core::memory::Memory;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::client::{LIMIT, text};
use crate::world::TTL;

/// `limit` hold, `limit` + 3 wait, and then those who hold go, the first one first.
pub fn handed_over() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().start_paused(true).build().map_err(text)?;
    let outcome = runtime.block_on(hand_over());
    runtime.shutdown_background();
    outcome
}

async fn hand_over() -> Result<(), String> {
    let clock = Arc::new(TokioClock::start());
    let backend = Arc::new(Memory::with_clock(clock.clone()));
    let builder = ManagerBuilder::new(backend).clock(clock).seed(1).inline().ttl(TTL);
    let manager = builder.open().await.map_err(text)?;
    let semaphore = manager.semaphore("permits", LIMIT).map_err(text)?;
    let mut holding = Vec::new();
    for _ in 0..LIMIT {
        holding.push(semaphore.acquire().await.map_err(text)?);
    }
    let (tell, mut granted) = mpsc::unbounded_channel();
    let waiters = LIMIT + 3;
    for _ in 0..waiters {
        let (semaphore, tell) = (semaphore.clone(), tell.clone());
        tokio::spawn(async move { tell.send(semaphore.acquire().await) });
    }
    while manager.stats().waiting < usize::try_from(waiters).map_err(text)? {
        tokio::task::yield_now().await;
    }
    for at in 0..waiters {
        holding.remove(0).release().await.map_err(text)?;
        let next = timeout(Duration::from_millis(100), granted.recv()).await;
        let next = next.map_err(|_| format!("release {at} let nobody in"))?;
        holding.push(next.ok_or("they are gone")?.map_err(text)?);
    }
    Ok(())
}
