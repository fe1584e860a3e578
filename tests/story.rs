//! The story of the paused holder, told by real processes: a resource that compares tokens keeps every
//! acknowledged update, and its twin that does not loses some.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![cfg(unix)]

mod child;
mod stage;

use nix::sys::signal::Signal;
use portunus_testkit::proxy::{Direction, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use child::Child;
use stage::{Scene, on_every_store};

on_every_store! {
    a_holder_stopped_between_its_check_and_its_write_is_refused
    a_write_on_its_way_until_the_next_holder_has_read_is_refused
}

/// Twenty times: the first holder has looked at its guard, and is stopped; another acquires, reads,
/// writes; the first one wakes up and writes.
async fn a_holder_stopped_between_its_check_and_its_write_is_refused(scene: Scene) {
    let vault = Vault::start().await;
    let stories = (0..PAUSES).map(async |number| {
        let name = format!("stopped{number}");
        let mut first = scene.teller("2s", &name, &vault.address).await;
        let token = first.acquire().await;
        first.ask("read", "read").await;
        first.ask("check", "checked true").await;
        first.signal(Signal::SIGSTOP);
        let mut second = scene.teller("30s", &name, &vault.address).await;
        assert!(second.acquire().await > token);
        second.ask("read", "read").await;
        second.ask("write", "wrote 200 200 200").await;
        // The command lies there when it wakes up: it looks at nothing before it writes.
        first.tell("write").await;
        first.signal(Signal::SIGCONT);
        assert_eq!(first.line().await, "wrote 409 409 200");
        second.ask("release", "released").await;
        second.end().await;
        first.ask("release", "released").await;
        first.end().await;
        name
    });
    let names = futures_util::future::join_all(stories).await;
    let log = vault.log().await;
    for name in &names {
        // Each counted to 1 where it should be 2.
        assert_eq!(acknowledged(&log, "plain", name), (2, 1), "nothing was lost: no proof\n{log}");
        assert_eq!(acknowledged(&log, "guarded", name), (1, 1), "{log}");
    }
    let told = names.iter().map(|name| acknowledged(&log, "guarded", name).0).sum::<u64>();
    println!(
        "{PAUSES} pauses: {PAUSES} refused and {told} of {told} kept; unguarded, {PAUSES} lost"
    );
    vault.process.end().await;
    scene.end().await;
}

/// The first holder's write is on the network until after the next holder's first read; those to the
/// unguarded twins follow it. Comparing when it is written does not help: the next holder has not
/// written yet.
async fn a_write_on_its_way_until_the_next_holder_has_read_is_refused(scene: Scene) {
    let vault = Vault::start().await;
    let proxy = Proxy::start(vault.address.clone()).await.unwrap();
    let mut first = scene.teller("2s", "held", &proxy.address().to_string()).await;
    let token = first.acquire().await;
    first.ask("read", "read").await;
    proxy.hold_requests();
    first.tell("write").await;
    proxy.wait_held(Direction::Requests).await;
    first.signal(Signal::SIGSTOP);

    let mut second = scene.teller("30s", "held", &vault.address).await;
    assert!(second.acquire().await > token);
    second.ask("read", "read").await;
    proxy.pass();
    first.signal(Signal::SIGCONT);
    // Where reading did not raise the mark, it gets through: the next holder's own write is to come.
    assert_eq!(first.line().await, "wrote 409 200 200");
    second.ask("write", "wrote 200 200 200").await;
    second.ask("release", "released").await;
    second.end().await;
    first.ask("release", "released").await;
    first.end().await;

    let log = vault.log().await;
    assert_eq!(acknowledged(&log, "guarded", "held"), (1, 1), "{log}");
    assert_eq!(acknowledged(&log, "unopened", "held"), (2, 1), "nothing was lost: no proof\n{log}");
    assert_eq!(acknowledged(&log, "plain", "held"), (2, 1), "nothing was lost: no proof\n{log}");
    vault.process.end().await;
    scene.end().await;
}

impl Scene {
    async fn teller(&self, ttl: &str, name: &str, vault: &str) -> Child {
        let program = env!("CARGO_BIN_EXE_portunus-test-teller");
        let mut teller = Child::start(program, &[&self.url(ttl), name, vault]);
        assert_eq!(teller.line().await, "ready");
        teller
    }
}

/// A process that runs `vault.rs`.
struct Vault {
    process: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Vault {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("vault.db");
        let program = env!("CARGO_BIN_EXE_portunus-test-vault");
        let mut process = Child::start(program, &[file.to_str().unwrap()]);
        let address = process.line().await;
        Self { process, address, _directory: directory }
    }

    async fn log(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(b"GET /log HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
}

/// How many increments of a counter were acknowledged, and what it says in the end.
fn acknowledged(log: &str, kind: &str, name: &str) -> (u64, u64) {
    let counter = format!("{kind}/{name}");
    let (mut count, mut last, mut highest) = (0, 0, 0);
    for entry in log.lines() {
        let [written, token, value] = entry.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{entry}")
        };
        if written == counter {
            (count, last) = (count + 1, value.parse().unwrap());
            let token: u64 = token.parse().unwrap();
            assert!(kind != "guarded" || token >= highest, "an old token was accepted: {entry}");
            highest = token;
        }
    }
    (count, last)
}

/// All at once: each waits for a lock to expire.
const PAUSES: u64 = 20;
