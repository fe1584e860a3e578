//! Fifty hosts all start the nightly job, their clocks differ by minutes, one dies in the middle of it, and
//! the invoices of each night are sent once.
//!
//! ```text
//! cargo run -p portunus-examples --features sqlite --example nightly_job
//! cargo run -p portunus-examples --features sqlite,etcd --example nightly_job -- etcd://127.0.0.1:2379
//! ```
//!
//! With a lock alone, a host whose clock is late would find the lock free and do it again. `once` keeps
//! on record which night is done, in the database, in the same step that compares the token.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use portunus::Error;
use portunus_fence::sqlite::{self, SqliteFence};
use portunus_fence::{ErrorKind, Outcome, Period, once};
use rusqlite::Connection;
use tokio::sync::Notify;

/// What all hosts do, and what befell them.
#[derive(Default)]
struct Company {
    invoices: AtomicU32,
    died: AtomicBool,
    done_before: AtomicU32,
    late: AtomicU32,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let manager = portunus::builder(url)?.app("nightly_job").open().await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("jobs.db");
    sqlite::create_table(&mut Connection::open(&file)?)?;
    let company = Arc::new(Company::default());
    // In a real job: SystemTime::now(), on each host.
    let two_in_the_morning = SystemTime::UNIX_EPOCH + 20_778 * DAY + 2 * HOUR;
    // The night before was done, as always.
    company.died.store(true, Ordering::SeqCst);
    start(manager.clone(), file.clone(), Arc::clone(&company), two_in_the_morning - DAY).await?;
    company.died.store(false, Ordering::SeqCst);
    for night in 1..=NIGHTS {
        let now = two_in_the_morning + (night - 1) * DAY;
        let hosts = (0..HOSTS).map(|host| {
            // From five minutes behind to five ahead: some think that it is last night still.
            let clock = now - 5 * MINUTE + host * 10 * MINUTE / HOSTS;
            tokio::spawn(start(manager.clone(), file.clone(), Arc::clone(&company), clock))
        });
        for host in hosts.collect::<Vec<_>>() {
            host.await??;
        }
    }
    manager.shutdown(Duration::from_secs(5)).await?;
    let count = |number: &AtomicU32| number.load(Ordering::SeqCst);
    println!(
        "{} told that it was done, {} that their night is past",
        count(&company.done_before),
        count(&company.late)
    );
    let as_told = count(&company.invoices) == NIGHTS + 1 && company.died.load(Ordering::SeqCst);
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn start(
    manager: portunus::LockManager,
    file: PathBuf,
    company: Arc<Company>,
    clock: SystemTime,
) -> Result<(), Error> {
    let fence = SqliteFence::new(Connection::open(file).expect("a database"));
    let lock = manager.lock("examples/invoices")?;
    // Each night from 02:00 UTC.
    let night = Period::at(clock, DAY, 2 * HOUR)?;
    let killed = Notify::new();
    let job = once(&lock, &fence, night).run(async |_guard| {
        if !company.died.swap(true, Ordering::SeqCst) {
            killed.notify_one();
            std::future::pending::<()>().await;
        }
        company.invoices.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Error>(())
    });
    let ended = tokio::select! {
        ended = job => ended,
        // It has recorded nothing, and its lock goes to the next.
        () = killed.notified() => {
            println!("a host dies in the middle of {night}");
            return Ok(());
        }
    };
    match ended {
        Ok(Outcome::Ran(())) => println!("invoices sent for {night}"),
        Ok(Outcome::Done) => drop(company.done_before.fetch_add(1, Ordering::SeqCst)),
        Err(late) if late.kind() == ErrorKind::Stale => {
            company.late.fetch_add(1, Ordering::SeqCst);
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

const HOSTS: u32 = 50;
const NIGHTS: u32 = 3;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
