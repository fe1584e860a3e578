//! A shop sells what is in stock and never more, and a coupon counts once: the database refuses a till
//! that stood still, even in the middle of a sale.
//!
//! ```text
//! cargo run -p portunus-examples --features sqlite --example inventory
//! cargo run -p portunus-examples --features sqlite,etcd --example inventory -- etcd://127.0.0.1:2379
//! ```
//!
//! A sale reads the stock, does what takes its time, and writes what is left: without a lock two tills
//! would sell the same piece. The lock alone does not suffice: a till that stands still for longer than
//! its lock lasts wakes up and writes what it read before. So each sale raises the item's mark in the
//! database before it reads, and writes with its token.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use portunus::{FencingToken, LockManager};
use portunus_fence::{ErrorKind, sqlite};
use rusqlite::Connection;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let manager = portunus::builder(url)?.app("inventory").open().await?;
    let directory = tempfile::tempdir()?;
    let shop = directory.path().join("shop.db");
    open_shop(&shop)?;

    // One till has read the stock and stands still. Its lock goes to the next, as it would when its
    // lease ran out; it still has the token.
    let mut slow = Connection::open(&shop)?;
    let guard = manager.lock(ITEM)?.acquire().await?;
    let token = guard.token();
    let seen = look(&mut slow, &token)?;
    drop(guard);

    let tills = (0..TILLS).map(|_| tokio::spawn(sell(manager.clone(), shop.clone())));
    let mut sold = 0;
    for till in tills.collect::<Vec<_>>() {
        sold += till.await??;
    }
    let customers = (0..TILLS).map(|_| tokio::spawn(redeem(manager.clone(), shop.clone())));
    let mut redeemed = 0;
    for customer in customers.collect::<Vec<_>>() {
        redeemed += u32::from(customer.await??);
    }
    let refused = match write(&mut slow, &token, seen - 1) {
        Err(error) => error.downcast_ref().map(portunus::Error::kind) == Some(ErrorKind::Stale),
        Ok(()) => false,
    };
    let left = slow.query_row("SELECT left FROM stock", [], |row| row.get::<_, i64>(0))?;
    manager.shutdown(Duration::from_secs(5)).await?;
    println!("{sold} of {STOCK} sold, {left} left; the coupon was taken {redeemed} time(s)");
    println!("the till that stood still was refused: {refused}");
    let as_told = sold == STOCK && left == 0 && redeemed == 1 && refused;
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sells one piece after the other until none is left, and returns how many.
async fn sell(manager: LockManager, shop: PathBuf) -> Result<i64> {
    let mut database = Connection::open(shop)?;
    let item = manager.lock(ITEM)?;
    let mut sold = 0;
    loop {
        let guard = item.acquire().await?;
        let left = look(&mut database, &guard.token())?;
        if left == 0 {
            return Ok(sold);
        }
        // The customer pays.
        tokio::time::sleep(Duration::from_millis(5)).await;
        write(&mut database, &guard.token(), left - 1)?;
        guard.release().await?;
        sold += 1;
    }
}

/// Raises the item's mark, then reads: nobody older writes after this.
fn look(database: &mut Connection, token: &FencingToken) -> Result<i64> {
    let mut transaction = database.transaction()?;
    let left = sqlite::update(&mut transaction, ITEM, token, |transaction| -> Result<_> {
        let left = "SELECT left FROM stock WHERE item = ?1";
        Ok(transaction.query_row(left, [ITEM], |row| row.get(0))?)
    })?;
    transaction.commit()?;
    Ok(left)
}

/// Writes what is left, unless another till has opened the item since.
fn write(database: &mut Connection, token: &FencingToken, left: i64) -> Result<()> {
    let mut transaction = database.transaction()?;
    sqlite::update(&mut transaction, ITEM, token, |transaction| -> Result<()> {
        transaction.execute("UPDATE stock SET left = ?1 WHERE item = ?2", (left, ITEM))?;
        Ok(())
    })?;
    Ok(transaction.commit()?)
}

/// Whether this customer got the coupon.
async fn redeem(manager: LockManager, shop: PathBuf) -> Result<bool> {
    let mut database = Connection::open(shop)?;
    let guard = manager.lock(COUPON)?.acquire().await?;
    let taken = take(&mut database, &guard.token())?;
    guard.release().await?;
    Ok(taken)
}

/// The coupon is there once; here read and write are one transaction.
fn take(database: &mut Connection, token: &FencingToken) -> Result<bool> {
    let mut transaction = database.transaction()?;
    let taken = sqlite::update(&mut transaction, COUPON, token, |transaction| -> Result<_> {
        let free = "UPDATE coupon SET used = 1 WHERE code = ?1 AND used = 0";
        Ok(transaction.execute(free, [COUPON])? == 1)
    })?;
    transaction.commit()?;
    Ok(taken)
}

fn open_shop(shop: &Path) -> Result<()> {
    let mut database = Connection::open(shop)?;
    sqlite::create_table(&mut database)?;
    database.execute_batch(
        "CREATE TABLE stock (item TEXT PRIMARY KEY, left INTEGER CHECK (left >= 0));
         CREATE TABLE coupon (code TEXT PRIMARY KEY, used INTEGER NOT NULL);",
    )?;
    database.execute("INSERT INTO stock VALUES (?1, ?2)", (ITEM, STOCK))?;
    database.execute("INSERT INTO coupon VALUES (?1, 0)", [COUPON])?;
    Ok(())
}

const ITEM: &str = "examples/stock/42";
const COUPON: &str = "examples/coupon/HALF-OFF";
const STOCK: i64 = 30;
const TILLS: usize = 8;
