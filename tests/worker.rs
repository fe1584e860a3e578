//! A process with one lock, for tests that stop and kill it: `worker URL NAME`, then a command a line
//! on stdin (`acquire`, `look`, `release`) and an answer a line
//! on stdout. It ends with its stdin.

use std::io::{BufRead, stdin};
use std::time::Duration;

use tokio::runtime::Builder;

fn main() {
    let mut args = std::env::args().skip(1);
    let (url, name) = (args.next().expect("a URL"), args.next().expect("a name"));
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let manager = runtime.block_on(portunus::connect(url)).expect("a manager");
    let lock = manager.lock(name).expect("a lock");
    let mut guard = None;
    println!("ready");
    for command in stdin().lock().lines() {
        let command = command.expect("a line");
        match (command.as_str(), guard.take()) {
            ("acquire", None) => {
                let acquired = runtime.block_on(lock.acquire()).expect("a guard");
                println!("token {}", acquired.token().value());
                guard = Some(acquired);
            }
            ("look", Some(held)) => {
                println!("held {}", held.is_held());
                guard = Some(held);
            }
            ("release", Some(held)) => {
                println!("released {:?}", runtime.block_on(held.release()).expect("an answer"));
            }
            (other, _) => panic!("`{other}` makes no sense here"),
        }
    }
    drop(guard);
    runtime.block_on(manager.shutdown(Duration::from_secs(1))).expect("a clean end");
}
