//! Eight workers contend for one lock and count together.
//!
//! ```text
//! cargo run -p portunus-examples --example quickstart
//! cargo run -p portunus-examples --features etcd --example quickstart -- \
//!     etcd://127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379 --rounds 20
//! cargo run -p portunus-examples --features zookeeper --example quickstart -- \
//!     zookeeper://127.0.0.1:2181,127.0.0.1:22181,127.0.0.1:32181 --rounds 20
//! ```
//!
//! With `--rounds 20` it runs for about half a minute: time to kill a node of a cluster meanwhile.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portunus::{Error, ErrorKind, FencingToken, LockManager};

/// What the lock guards. Reading and writing are two steps: without the lock, counts get lost.
#[derive(Default)]
struct Ledger {
    count: AtomicU64,
    highest_token: AtomicU64,
    disorders: AtomicU64,
}

impl Ledger {
    async fn add_one(&self, token: &FencingToken) {
        let highest = self.highest_token.swap(token.value(), Ordering::SeqCst);
        if token.value() <= highest {
            self.disorders.fetch_add(1, Ordering::SeqCst);
        }
        let count = self.count.load(Ordering::SeqCst);
        tokio::time::sleep(WORK).await;
        self.count.store(count + 1, Ordering::SeqCst);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some((url, rounds)) = arguments() else {
        eprintln!("usage: quickstart [URL] [--rounds N]     (default: memory: --rounds 3)");
        return ExitCode::FAILURE;
    };
    match contend(&url, rounds).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            if error.kind() == ErrorKind::Unsupported {
                let feature = url.split(':').next().unwrap_or_default().trim_end_matches('s');
                eprintln!(
                    "run: cargo run -p portunus-examples --features {feature} \
                     --example quickstart -- {feature}://…"
                );
            }
            ExitCode::FAILURE
        }
    }
}

async fn contend(url: &str, rounds: u64) -> Result<bool, Error> {
    let manager = portunus::builder(url)?.app("quickstart").open().await?;
    let ledger = Arc::new(Ledger::default());
    let work = (1..=WORKERS).map(|worker| {
        let (manager, ledger) = (manager.clone(), Arc::clone(&ledger));
        tokio::spawn(async move { work(&manager, &ledger, worker, rounds).await })
    });
    let mut done = 0;
    for worker in work.collect::<Vec<_>>() {
        done += worker.await.expect("BUG: a worker panicked")?;
    }
    let left = manager.shutdown(Duration::from_secs(5)).await?;
    let count = ledger.count.load(Ordering::SeqCst);
    let disorders = ledger.disorders.load(Ordering::SeqCst);
    println!("{done} turns, counter {count}, tokens out of order {disorders}, still held {left}");
    Ok(count == done && done == WORKERS * rounds && disorders == 0 && left == 0)
}

async fn work(
    manager: &LockManager,
    ledger: &Ledger,
    worker: u64,
    rounds: u64,
) -> Result<u64, Error> {
    let lock = manager.lock("quickstart/counter")?;
    for round in 1..=rounds {
        let guard = lock.acquire().await?;
        let token = guard.token();
        println!("worker {worker}, round {round}: token {}", token.value());
        ledger.add_one(&token).await;
        guard.release().await?;
    }
    Ok(rounds)
}

fn arguments() -> Option<(String, u64)> {
    let (mut url, mut rounds) = (None, 3);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => rounds = arguments.next()?.parse().ok()?,
            _ if argument.starts_with('-') || url.is_some() => return None,
            _ => url = Some(argument),
        }
    }
    Some((url.unwrap_or_else(|| "memory:".to_owned()), rounds))
}

const WORKERS: u64 = 8;
const WORK: Duration = Duration::from_millis(150);
