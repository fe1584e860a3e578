//! Eight workers export reports, and at most three at a time, however many processes they run in.
//!
//! ```text
//! cargo run -p portunus-examples --example workers
//! cargo run -p portunus-examples --features etcd --example workers -- etcd://127.0.0.1:2379
//! ```
//!
//! On a store that processes share, start it twice: together they export three at a time.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use portunus::{Error, Ran, Semaphore};

/// What must not be loaded with more than three exports: it counts those that run in this process.
#[derive(Default)]
struct Database {
    running: AtomicU32,
    most: AtomicU32,
}

impl Database {
    async fn export(&self) {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        tokio::time::sleep(WORK).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let manager = portunus::builder(url)?.app("workers").open().await?;
    // Every process names the same limit; one that differs is refused.
    let exports = manager.semaphore("examples/exports", LIMIT)?;
    let database = Arc::new(Database::default());
    let workers = (1..=WORKERS)
        .map(|worker| tokio::spawn(work(exports.clone(), Arc::clone(&database), worker)));
    let mut done = 0;
    for worker in workers.collect::<Vec<_>>() {
        done += worker.await.expect("BUG: a worker panicked")?;
    }
    let left = manager.shutdown(Duration::from_secs(5)).await?;
    let most = database.most.load(Ordering::SeqCst);
    println!("{done} exports, at most {most} at a time in this process, still held {left}");
    let as_told = done == WORKERS * ROUNDS && (1..=LIMIT).contains(&most) && left == 0;
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn work(exports: Semaphore, database: Arc<Database>, worker: u32) -> Result<u32, Error> {
    let mut done = 0;
    for round in 1..=ROUNDS {
        let permit = exports.acquire().await?;
        // A permit that is lost no longer counts: another worker may have its place.
        match permit.run(database.export()).await {
            Ran::Finished(()) => done += 1,
            lost => eprintln!("worker {worker}, round {round}: {lost:?}"),
        }
        println!("worker {worker}, round {round}: {:?}", permit.release().await?);
    }
    Ok(done)
}

const WORKERS: u32 = 8;
const LIMIT: u32 = 3;
const ROUNDS: u32 = 3;
const WORK: Duration = Duration::from_millis(100);
