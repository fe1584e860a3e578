//! A customer clicks twice on *Pay*, and is charged once.
//!
//! ```text
//! cargo run -p portunus-examples --features sqlite --example payment
//! cargo run -p portunus-examples --features sqlite,etcd --example payment -- etcd://127.0.0.1:2379
//! ```
//!
//! Three things together make one charge of two clicks, on any hosts, with any pauses:
//!
//! - a lock with the order's number: the second click waits for the first, and finds the order paid;
//! - a fenced row: a host that stood still can't write over what happened after it;
//! - an idempotency key, which goes to the payment provider: it can't look at our token, and charges
//!   once for each key. The lock spares it the second request, but only the key rules it out.

use std::collections::HashSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portunus::{FencingToken, LockManager};
use portunus_fence::{ErrorKind, sqlite};
use rusqlite::Connection;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The provider on the other side of the network.
#[derive(Default)]
struct Provider {
    charged: Mutex<HashSet<String>>,
}

impl Provider {
    /// Charges once for each key, and says the same to each request with it.
    async fn charge(&self, key: &str) -> String {
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.charged.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned());
        format!("receipt for {key}")
    }
}

/// How a click ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Click {
    Charged,
    PaidBefore,
    /// The fence refused it: another click has the order by now.
    TooLate,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let manager = portunus::builder(url)?.app("payment").open().await?;
    let directory = tempfile::tempdir()?;
    let shop = directory.path().join("shop.db");
    open_shop(&shop)?;
    let provider = Arc::new(Provider::default());

    // The host of the first click asks the provider, and stands still before it writes that down: its
    // lock goes to the next click.
    let mut paused = Connection::open(&shop)?;
    let guard = manager.lock(ORDER)?.acquire().await?;
    let token = guard.token();
    assert_eq!(begin(&mut paused, &token)?, None);
    let receipt = provider.charge(ORDER).await;
    drop(guard);

    let clicks = (0..CLICKS)
        .map(|_| tokio::spawn(pay(manager.clone(), shop.clone(), Arc::clone(&provider))));
    let mut ends = Vec::new();
    for click in clicks.collect::<Vec<_>>() {
        ends.push(click.await??);
    }
    ends.push(end(&mut paused, &token, &receipt)?);

    let count = |end| ends.iter().filter(|ended| **ended == end).count();
    let charges = provider.charged.lock().unwrap_or_else(PoisonError::into_inner).len();
    let paid: u32 = paused.query_row("SELECT count(*) FROM payment", [], |row| row.get(0))?;
    manager.shutdown(Duration::from_secs(5)).await?;
    println!("{} clicks: {ends:?}", ends.len());
    println!("the provider charged {charges} time(s), and the order was paid {paid} time(s)");
    let as_told = (charges, paid) == (1, 1)
        && count(Click::Charged) == 1
        && count(Click::PaidBefore) == CLICKS - 1
        && count(Click::TooLate) == 1;
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn pay(manager: LockManager, shop: PathBuf, provider: Arc<Provider>) -> Result<Click> {
    let mut database = Connection::open(shop)?;
    let guard = manager.lock(ORDER)?.acquire().await?;
    if let Some(receipt) = begin(&mut database, &guard.token())? {
        println!("paid before: {receipt}");
        return Ok(Click::PaidBefore);
    }
    // The order's number is the key: every click has the same.
    let receipt = provider.charge(ORDER).await;
    let ended = end(&mut database, &guard.token(), &receipt)?;
    guard.release().await?;
    Ok(ended)
}

/// Raises the order's mark, and returns its receipt if it is paid.
fn begin(database: &mut Connection, token: &FencingToken) -> Result<Option<String>> {
    let mut transaction = database.transaction()?;
    let receipt = sqlite::update(&mut transaction, ORDER, token, |transaction| -> Result<_> {
        let mut paid = transaction.prepare("SELECT receipt FROM payment WHERE order_id = ?1")?;
        let receipt = paid.query_map([ORDER], |row| row.get(0))?.next().transpose()?;
        Ok(receipt)
    })?;
    transaction.commit()?;
    Ok(receipt)
}

/// Writes the payment down, unless another click has opened the order since.
fn end(database: &mut Connection, token: &FencingToken, receipt: &str) -> Result<Click> {
    let mut transaction = database.transaction()?;
    let written = sqlite::update(&mut transaction, ORDER, token, |transaction| -> Result<()> {
        transaction.execute("INSERT INTO payment VALUES (?1, ?2)", (ORDER, receipt))?;
        Ok(())
    });
    match written {
        Ok(()) => transaction.commit().map(|()| Click::Charged).map_err(Into::into),
        Err(error) => match error.downcast_ref().map(portunus::Error::kind) {
            Some(ErrorKind::Stale) => Ok(Click::TooLate),
            _ => Err(error),
        },
    }
}

fn open_shop(shop: &Path) -> Result<()> {
    let mut database = Connection::open(shop)?;
    sqlite::create_table(&mut database)?;
    // No unique key saves this example: the fence does.
    database
        .execute_batch("CREATE TABLE payment (order_id TEXT NOT NULL, receipt TEXT NOT NULL)")?;
    Ok(())
}

const ORDER: &str = "examples/order/1001";
const CLICKS: usize = 5;
