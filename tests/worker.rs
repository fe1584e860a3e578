//! A process with one lock, for tests that stop and kill it: `worker URL NAME`, then a command a line
//! on stdin (`acquire`, `campaign`, `look`, `release`, `overrun`) and an answer a line on stdout. It
//! ends with its stdin.

use std::io::{BufRead, stdin};
use std::time::Duration;

use portunus::{CancellationToken, Election, Guard, Leadership, Released};
use tokio::runtime::Builder;

/// What the process holds.
enum Held {
    Lock(Guard),
    Term(Leadership),
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (url, name) = (args.next().expect("a URL"), args.next().expect("a name"));
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let manager = runtime.block_on(portunus::connect(url)).expect("a manager");
    let lock = manager.lock(&name).expect("a lock");
    let election = manager.election(&name).expect("an election");
    let mut held = None;
    println!("ready");
    for command in stdin().lock().lines() {
        let command = command.expect("a line");
        match (command.as_str(), held.take()) {
            ("acquire", None) => {
                let guard = runtime.block_on(lock.acquire()).expect("a guard");
                println!("token {}", guard.token().value());
                held = Some(Held::Lock(guard));
            }
            ("campaign", None) => {
                let leadership = runtime.block_on(election.campaign("worker")).expect("a term");
                println!("token {}", leadership.term().value());
                held = Some(Held::Term(leadership));
            }
            ("look", Some(holding)) => {
                println!("held {}", holding.is_held());
                held = Some(holding);
            }
            ("release", Some(held)) => {
                println!("released {:?}", runtime.block_on(held.release()));
            }
            ("overrun", None) => runtime.block_on(overrun(&election)),
            (other, _) => panic!("`{other}` makes no sense here"),
        }
    }
    drop(held);
    runtime.block_on(manager.shutdown(Duration::from_secs(1))).expect("a clean end");
}

/// Leads, is told to stop, and blocks its thread.
async fn overrun(election: &Election) {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let run = election.run("worker", move |_| {
        stop.cancel();
        std::thread::sleep(Duration::from_secs(30));
        std::future::ready(())
    });
    let run = run.stop_grace(Duration::from_millis(50)).exit_process_on_overrun(42);
    run.until(shutdown).await.expect("a clean end");
}

impl Held {
    fn is_held(&self) -> bool {
        match self {
            Self::Lock(guard) => guard.is_held(),
            Self::Term(leadership) => leadership.is_held(),
        }
    }

    async fn release(self) -> Released {
        let released = match self {
            Self::Lock(guard) => guard.release().await,
            Self::Term(leadership) => leadership.resign().await,
        };
        released.expect("an answer")
    }
}
