//! Readers of a price table, and one writer whom they do not starve.
//!
//! ```text
//! cargo run -p portunus-examples --example rwlock
//! cargo run -p portunus-examples --features etcd --example rwlock -- etcd://127.0.0.1:2379
//! ```
//!
//! The table lies in this process, to keep the example short. In a real one it lies in a database,
//! which keeps the highest token that a writer came with, and lets no reader with a lower one near.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portunus::{DowngradeError, Error, ErrorKind, RwLock, SharedGuard};

/// A price and what it is with tax. Writing them is two steps: a reader in between sees neither.
#[derive(Default)]
struct Prices {
    net: AtomicU64,
    gross: AtomicU64,
    readers: AtomicU64,
    most_readers: AtomicU64,
}

impl Prices {
    async fn write(&self, net: u64) {
        self.net.store(net, Ordering::SeqCst);
        tokio::time::sleep(STEP).await;
        self.gross.store(net * 119 / 100, Ordering::SeqCst);
    }

    async fn read(&self) -> (u64, u64) {
        let readers = self.readers.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_readers.fetch_max(readers, Ordering::SeqCst);
        let net = self.net.load(Ordering::SeqCst);
        tokio::time::sleep(STEP).await;
        let gross = self.gross.load(Ordering::SeqCst);
        self.readers.fetch_sub(1, Ordering::SeqCst);
        (net, gross)
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let manager = portunus::builder(url)?.app("rwlock").open().await?;
    let lock = manager.rwlock("examples/prices")?;
    let prices = Arc::new(Prices::default());
    let readers = (0..READERS).map(|_| tokio::spawn(read(lock.clone(), Arc::clone(&prices))));
    let readers: Vec<_> = readers.collect();

    let mut kept_in_place = 0;
    for round in 1..=ROUNDS {
        let writer = lock.write().await?;
        println!("round {round}: writing with token {}", writer.token().value());
        prices.write(100 * round).await;
        // From here on others may read, and no other writer comes before we have looked again.
        let (reader, in_place) = match writer.downgrade().await {
            Ok(reader) => (reader, true),
            Err(failed) => (read_again(&lock, failed).await?, false),
        };
        let (net, gross) = prices.read().await;
        // After a downgrade in place nobody can have written meanwhile.
        assert!(!in_place || net == 100 * round);
        assert_eq!(gross, net * 119 / 100);
        kept_in_place += u64::from(in_place);
        reader.release().await?;
    }

    let mut reads = 0;
    for reader in readers {
        reads += reader.await.expect("BUG: a reader panicked")?;
    }
    let left = manager.shutdown(Duration::from_secs(5)).await?;
    let together = prices.most_readers.load(Ordering::SeqCst);
    println!("{reads} reads, none of a half-written price; up to {together} at a time");
    println!("{ROUNDS} writes, {kept_in_place} downgraded in place, still held {left}");
    let as_told = reads == READERS * ROUNDS && together > 1 && left == 0;
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn read(lock: RwLock, prices: Arc<Prices>) -> Result<u64, Error> {
    for _ in 0..ROUNDS {
        let guard = lock.read().await?;
        let (net, gross) = prices.read().await;
        assert_eq!(gross, net * 119 / 100, "with token {}", guard.token());
        guard.release().await?;
    }
    Ok(ROUNDS)
}

/// Where the store can't downgrade, the writer lets go and queues as a reader. Another may write in
/// between, so what was read before has to be read again.
async fn read_again(lock: &RwLock, failed: DowngradeError) -> Result<SharedGuard, Error> {
    match failed {
        DowngradeError { error, guard: Some(writer) } if error.kind() == ErrorKind::Unsupported => {
            writer.release().await?;
            lock.read().await
        }
        failed => Err(failed.into()),
    }
}

const READERS: u64 = 6;
const ROUNDS: u64 = 5;
const STEP: Duration = Duration::from_millis(20);
