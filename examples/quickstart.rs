//! Eight workers count together under one lock; start it in two terminals, and sixteen do.
//!
//! ```text
//! cargo run -p portunus-examples --example quickstart
//! cargo run -p portunus-examples --features etcd --example quickstart -- \
//!     etcd://127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379 --rounds 20
//! cargo run -p portunus-examples --features zookeeper --example quickstart -- \
//!     zookeeper://127.0.0.1:2181,127.0.0.1:22181,127.0.0.1:32181 --rounds 20
//! ```
//!
//! Without a URL the locks are in a file of yours, `~/.local/state/portunus/locks.db`, and the count
//! beside it. With `--rounds 20` it runs for about half a minute: time to kill one of two
//! (`kill -9`, whose lock goes to the next when its time to live is over, ten seconds), or a node of a cluster.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portunus::sqlite::SqliteConfig;
use portunus::{Error, ErrorKind, FencingToken, LockManager};
use tokio::time::Instant;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// What the lock guards: a file with a number. Reading and writing it are two steps, and without the lock
/// counts get lost.
struct Ledger {
    path: PathBuf,
    disorders: AtomicU64,
}

impl Ledger {
    /// Beside the user's own locks. One for each kind of store: a lock in one excludes nobody in another.
    fn of_user(store: &str) -> Result<Self> {
        let path =
            SqliteConfig::of_user()?.path().with_file_name(format!("quickstart-{store}.count"));
        Ok(Self { path, disorders: AtomicU64::new(0) })
    }

    /// The count, and the token with which it was written.
    fn read(&self) -> Result<(u64, Option<FencingToken>)> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => {
                let (count, token) = text.trim_end().split_once(' ').ok_or("no count")?;
                Ok((count.parse()?, Some(token.parse()?)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((0, None)),
            Err(error) => Err(error.into()),
        }
    }

    async fn add_one(&self, token: &FencingToken) -> Result<u64> {
        let before = self.read()?;
        tokio::time::sleep(WORK).await;
        // Nobody wrote since, and all who wrote before had a lower token, of this life of the store.
        let is_older =
            before.1.as_ref().is_none_or(|last| last < token || last.origin() != token.origin());
        if self.read()? != before || !is_older {
            self.disorders.fetch_add(1, Ordering::SeqCst);
        }
        // At once, for whoever is killed in the middle of it.
        let new = self.path.with_extension("new");
        std::fs::create_dir_all(self.path.parent().ok_or("no directory")?)?;
        std::fs::write(&new, format!("{} {token}\n", before.0 + 1))?;
        std::fs::rename(&new, &self.path)?;
        Ok(before.0 + 1)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some((url, rounds)) = arguments() else {
        eprintln!("usage: quickstart [URL] [--rounds N]     (default: sqlite: --rounds 3)");
        return ExitCode::FAILURE;
    };
    match contend(&url, rounds).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            match error.downcast_ref::<Error>() {
                Some(error) => eprintln!("{error:#}"),
                None => eprintln!("{error}"),
            }
            if error.downcast_ref().map(Error::kind) == Some(ErrorKind::Unsupported) {
                let feature = if scheme(&url) == "etcds" { "etcd" } else { scheme(&url) };
                eprintln!(
                    "run: cargo run -p portunus-examples --features {feature} \
                     --example quickstart -- {feature}://…"
                );
            }
            ExitCode::FAILURE
        }
    }
}

async fn contend(url: &str, rounds: u64) -> Result<bool> {
    let manager = portunus::builder(url)?.app("quickstart").open().await?;
    let ledger = Arc::new(Ledger::of_user(scheme(url))?);
    let before = ledger.read()?.0;
    // Not the URL: there may be a password in it.
    let locks = match url {
        "sqlite:" => SqliteConfig::of_user()?.path().display().to_string(),
        url => scheme(url).to_owned(),
    };
    println!("locks in {locks}; counting in {}, from {before}", ledger.path.display());
    let others = manager.contenders(LOCK).await?.len();
    if others > 0 {
        println!("{others} of another process hold the lock or wait for it: ours come behind them");
    }
    let work = (1..=WORKERS).map(|worker| {
        let (manager, ledger) = (manager.clone(), Arc::clone(&ledger));
        tokio::spawn(async move { work(&manager, &ledger, worker, rounds).await })
    });
    let mut done = 0;
    for worker in work.collect::<Vec<_>>() {
        done += worker.await.expect("BUG: a worker panicked")?;
    }
    let left = manager.shutdown(Duration::from_secs(5)).await?;
    let counted = ledger.read()?.0.saturating_sub(before);
    let disorders = ledger.disorders.load(Ordering::SeqCst);
    println!(
        "{done} turns here, {} of others meanwhile, counter {}, disorders {disorders}, still held {left}",
        counted.saturating_sub(done),
        before + counted
    );
    Ok(counted >= done && done == WORKERS * rounds && disorders == 0 && left == 0)
}

async fn work(manager: &LockManager, ledger: &Ledger, worker: u64, rounds: u64) -> Result<u64> {
    let lock = manager.lock(LOCK)?;
    for round in 1..=rounds {
        let began = Instant::now();
        let guard = lock.acquire().await?;
        let waited = began.elapsed();
        let token = guard.token();
        let count = ledger.add_one(&token).await?;
        println!(
            "worker {worker}, round {round}: count {count}, token {}, waited {waited:.1?}",
            token.value()
        );
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
    Some((url.unwrap_or_else(|| "sqlite:".to_owned()), rounds))
}

fn scheme(url: &str) -> &str {
    url.split(':').next().unwrap_or_default()
}

const LOCK: &str = "quickstart/counter";
const WORKERS: u64 = 8;
const WORK: Duration = Duration::from_millis(150);
