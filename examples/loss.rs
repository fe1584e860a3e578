//! A lock is taken away under a running job, and the job stops at once.
//!
//! ```text
//! cargo run -p portunus-examples --example loss
//! ```
//!
//! Two managers on one store: the worker, and an operator who removes the worker's entry, as one
//! does with a stuck holder. A cut network or an ended session looks the same to the job.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use portunus::backend::LockObserver;
use portunus::{Error, LockManager, LossReason, Memory, Ran};

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let store = Memory::new();
    let manager = LockManager::builder(store.clone()).app("worker").open().await?;
    let guard = manager.lock("nightly/report")?.acquire().await?;
    println!("holding with token {}", guard.token().value());

    let name = guard.name().clone();
    let operator = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let contenders = store.contenders(&name).await?;
        let holder = contenders.into_iter().find(|contender| contender.holds);
        let holder = holder.expect("BUG: nobody holds the lock");
        println!("operator: evicting {:?}", holder.record.holder.unwrap_or_default());
        store.evict(&name, &holder.entry).await
    });

    let steps = AtomicU32::new(0);
    let job = async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            println!("step {} done", steps.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    let ran: Ran<()> = guard.run(job).await;
    println!("the job was stopped after {} steps: {ran:?}", steps.into_inner());
    println!("is_held: {}, released: {:?}", guard.is_held(), guard.release().await?);
    let evicted = operator.await.expect("BUG: the operator panicked")?;
    manager.shutdown(Duration::from_secs(5)).await?;
    let as_told = evicted && ran == Ran::Lost(LossReason::Evicted);
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
