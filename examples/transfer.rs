//! Two accounts and many transfers both ways: nobody waits for ever, and no money comes or goes.
//!
//! ```text
//! cargo run -p portunus-examples --example transfer
//! cargo run -p portunus-examples --features etcd --example transfer -- etcd://127.0.0.1:2379
//! ```
//!
//! One direction names the accounts in one order, the other in the other. Locks taken one by one in
//! these orders would wait for each other; `acquire_all` takes them in the order of their names.

use std::cmp::Ordering;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portunus::{Error, FencingToken, LockManager, Ran};

/// A resource that checks tokens: it keeps the highest that it has seen, and refuses a lower one.
struct Account {
    name: &'static str,
    state: Mutex<(i64, Option<FencingToken>)>,
}

impl Account {
    fn new(name: &'static str) -> Self {
        Self { name, state: Mutex::new((START, None)) }
    }

    /// Notes the token before the first read, so that nobody older writes after it.
    fn open(&self, token: &FencingToken) -> Result<i64, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (balance, highest) = &mut *state;
        // Tokens of two origins are not ordered, and then this refuses too.
        let is_lower = |highest: &_| token.partial_cmp(highest).is_none_or(Ordering::is_lt);
        if highest.as_ref().is_some_and(is_lower) {
            return Err(format!("{}: token {token} is stale", self.name));
        }
        *highest = Some(token.clone());
        Ok(*balance)
    }

    fn write(&self, token: &FencingToken, balance: i64) -> Result<(), String> {
        self.open(token)?;
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = balance;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let manager = portunus::builder(url)?.app("transfer").open().await?;
    let anna = Arc::new(Account::new("examples/account/anna"));
    let ben = Arc::new(Account::new("examples/account/ben"));
    let tellers = (0..TELLERS).map(|teller| {
        let manager = manager.clone();
        let (from, to) = if teller % 2 == 0 { (&anna, &ben) } else { (&ben, &anna) };
        let (from, to) = (Arc::clone(from), Arc::clone(to));
        tokio::spawn(async move {
            let mut done = 0;
            for amount in 1..=TRANSFERS {
                done += i64::from(transfer(&manager, &from, &to, amount).await?);
            }
            Ok::<_, Error>(done)
        })
    });
    let mut done = 0;
    for teller in tellers.collect::<Vec<_>>() {
        done += teller.await.expect("BUG: a teller panicked")?;
    }
    let left = manager.shutdown(Duration::from_secs(5)).await?;
    let balance = |account: &Account| account.state.lock().map(|state| state.0).unwrap_or_default();
    let (anna, ben) = (balance(&anna), balance(&ben));
    println!("{done} transfers, {anna} + {ben} = {}, still held {left}", anna + ben);
    let as_told = done == TELLERS * TRANSFERS && anna + ben == 2 * START && left == 0;
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the money was moved; if a lock was lost on the way, nothing is written any more.
async fn transfer(
    manager: &LockManager,
    from: &Account,
    to: &Account,
    amount: i64,
) -> Result<bool, Error> {
    let guards = manager.acquire_all_timeout([from.name, to.name], PATIENCE).await?;
    let guards = guards.expect("nobody waits for ever");
    // Each account's writes carry the token of its own lock.
    let token = |account: &Account| guards.token(account.name).expect("BUG: it is one of them");
    let (from_token, to_token) = (token(from), token(to));
    let work = async {
        let (had, has) = (from.open(&from_token)?, to.open(&to_token)?);
        tokio::time::sleep(WORK).await;
        from.write(&from_token, had - amount)?;
        to.write(&to_token, has + amount)
    };
    let moved = guards.run(work).await;
    println!("{amount} from {}: {moved:?}", from.name);
    guards.release().await?;
    Ok(moved == Ran::Finished(Ok(())))
}

const START: i64 = 1_000;
/// An odd number, so that one account ends with less.
const TELLERS: i64 = 5;
const TRANSFERS: i64 = 8;
const PATIENCE: Duration = Duration::from_secs(60);
const WORK: Duration = Duration::from_millis(5);
