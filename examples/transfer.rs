//! Two accounts and many transfers both ways: nobody waits for ever, and no money comes or goes.
//!
//! ```text
//! cargo run -p portunus-examples --features sqlite --example transfer
//! cargo run -p portunus-examples --features sqlite,etcd --example transfer -- etcd://127.0.0.1:2379
//! ```
//!
//! One direction names the accounts in one order, the other in the other. Locks taken one by one in
//! these orders would wait for each other; `acquire_all` takes them in the order of their names. Both
//! balances change in one transaction, which each account's own token has to pass.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use portunus::{Guards, LockManager};
use portunus_fence::sqlite;
use rusqlite::{Connection, Transaction};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let manager = portunus::builder(url)?.app("transfer").open().await?;
    let directory = tempfile::tempdir()?;
    let bank = directory.path().join("bank.db");
    open_bank(&bank)?;
    let tellers = (0..TELLERS).map(|teller| {
        let (from, to) = if teller % 2 == 0 { (ANNA, BEN) } else { (BEN, ANNA) };
        tokio::spawn(serve(manager.clone(), bank.clone(), from, to))
    });
    let mut done = 0;
    for teller in tellers.collect::<Vec<_>>() {
        done += teller.await??;
    }
    let left = manager.shutdown(Duration::from_secs(5)).await?;
    let bank = Connection::open(&bank)?;
    let total: i64 = bank.query_row("SELECT sum(balance) FROM account", [], |row| row.get(0))?;
    println!("{done} transfers, {total} in all, still held {left}");
    let as_told = done == TELLERS * TRANSFERS && total == 2 * START && left == 0;
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn serve(
    manager: LockManager,
    bank: PathBuf,
    from: &'static str,
    to: &'static str,
) -> Result<i64> {
    let mut bank = Connection::open(bank)?;
    for amount in 1..=TRANSFERS {
        let guards = manager.acquire_all_timeout([from, to], PATIENCE).await?;
        let guards = guards.ok_or("nobody waits for ever")?;
        move_money(&mut bank, &guards, [(from, -amount), (to, amount)])?;
        println!("{amount} from {from}");
        guards.release().await?;
    }
    Ok(TRANSFERS)
}

/// All of it or nothing: a token that does not pass rolls both changes back.
fn move_money(bank: &mut Connection, guards: &Guards, mut changes: [(&str, i64); 2]) -> Result<()> {
    let transaction = bank.transaction()?;
    // In one order, as everybody who opens several accounts in one transaction.
    changes.sort();
    for (account, _) in changes {
        let token = guards.token(account).ok_or("it is one of them")?;
        sqlite::open(&transaction, account, &token)?;
    }
    for (account, amount) in changes {
        change(&transaction, account, amount)?;
    }
    Ok(transaction.commit()?)
}

fn change(transaction: &Transaction<'_>, account: &str, amount: i64) -> Result<()> {
    let read = "SELECT balance FROM account WHERE name = ?1";
    let balance: i64 = transaction.query_row(read, [account], |row| row.get(0))?;
    let write = "UPDATE account SET balance = ?1 WHERE name = ?2";
    transaction.execute(write, (balance + amount, account))?;
    Ok(())
}

fn open_bank(bank: &Path) -> Result<()> {
    let mut bank = Connection::open(bank)?;
    sqlite::create_table(&mut bank)?;
    bank.execute_batch("CREATE TABLE account (name TEXT PRIMARY KEY, balance INTEGER NOT NULL)")?;
    for account in [ANNA, BEN] {
        bank.execute("INSERT INTO account VALUES (?1, ?2)", (account, START))?;
    }
    Ok(())
}

const ANNA: &str = "examples/account/anna";
const BEN: &str = "examples/account/ben";
const START: i64 = 1_000;
/// An odd number, so that one account ends with less.
const TELLERS: i64 = 5;
const TRANSFERS: i64 = 8;
const PATIENCE: Duration = Duration::from_secs(60);
