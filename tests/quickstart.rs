//! The README's first command in two terminals: they count together, and a killed one holds nobody up.

#![cfg(unix)]

mod child;

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::time::Instant;

use child::Child;

#[tokio::test]
async fn two_terminals_count_together() {
    let home = Home::new();
    let (mut one, mut other) = (home.start(&["--rounds", "2"]), home.start(&["--rounds", "2"]));
    let (first, second) = tokio::join!(turns(&mut one), turns(&mut other));
    one.end().await;
    other.end().await;
    let all = in_order([first.turns, second.turns].concat());
    assert_eq!(all.iter().map(|turn| turn.count).collect::<Vec<_>>(), (1..=32).collect::<Vec<_>>());
    // Each says of itself whether all was in order, and who ended last saw all.
    assert_eq!(first.counter.max(second.counter), Some(32));
    assert!(home.path().join("locks.db").is_file(), "the locks are in the user's own file");
}

#[tokio::test]
async fn a_killed_terminal_holds_up_the_other_for_its_time_to_live() {
    let home = Home::new();
    // Eight workers that go on and on: at each moment some of them hold and wait.
    let mut killed = home.start(&["sqlite:?ttl=2s", "--rounds", "1000"]);
    let mut before = vec![turn(&mut killed).await];
    let mut other = home.start(&["sqlite:?ttl=10s", "--rounds", "2"]);
    let after = vec![turn(&mut other).await];
    killed.signal(Signal::SIGKILL);
    let began = Instant::now();
    before.extend(turns(&mut killed).await.turns);
    let rest = turns(&mut other).await;
    println!("{} turns before the kill, all ended {:?} after it", before.len(), began.elapsed());
    other.end().await;
    assert!(began.elapsed() < TTL + SLACK, "after {:?}", began.elapsed());
    let counter = rest.counter.expect("it ended by itself");
    let all = in_order([before, after, rest.turns].concat());
    // The one who was killed may have counted and not said so.
    let said: u64 = all.len().try_into().unwrap();
    assert!(counter == said || counter == said + 1, "{counter} of {said}: {all:?}");
}

/// A user's own directory of state, which no other test has.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        // In memory, where there is such a place: a busy disk takes a large part of a time to live to sync.
        let memory = Path::new("/dev/shm");
        let home = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self(home.unwrap())
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let home = format!("XDG_STATE_HOME={}", self.0.path().display());
        let program = env!("CARGO_BIN_EXE_portunus-test-quickstart");
        Child::start("env", &[&[home.as_str(), program], arguments].concat())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("portunus")
    }
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    count: u64,
    token: u64,
}

/// What a terminal shows to its end.
struct Shown {
    turns: Vec<Turn>,
    /// What it says in the end, if it comes that far.
    counter: Option<u64>,
}

/// The next turn.
async fn turn(process: &mut Child) -> Turn {
    loop {
        if let Some(turn) = read(&process.line().await) {
            return turn;
        }
    }
}

/// All that there are.
async fn turns(process: &mut Child) -> Shown {
    let mut shown = Shown { turns: Vec::new(), counter: None };
    while let Some(line) = process.last_line().await {
        match read(&line) {
            Some(turn) => shown.turns.push(turn),
            None => shown.counter = number(&line, " counter ").or(shown.counter),
        }
    }
    shown
}

fn read(line: &str) -> Option<Turn> {
    Some(Turn { count: number(line, ": count ")?, token: number(line, ", token ")? })
}

fn number(line: &str, what: &str) -> Option<u64> {
    line.split_once(what)?.1.split(',').next()?.parse().ok()
}

/// In the order of their counts, of which no two are the same; their tokens have the same order.
fn in_order(mut turns: Vec<Turn>) -> Vec<Turn> {
    turns.sort_by_key(|turn| turn.count);
    let is_ordered = |two: &[Turn]| two[0].count < two[1].count && two[0].token < two[1].token;
    assert!(turns.windows(2).all(is_ordered), "{turns:?}");
    turns
}

/// Of the one who is killed.
const TTL: Duration = Duration::from_secs(2);
/// For what the other has still to do, on a busy machine: in peace it takes three seconds.
const SLACK: Duration = Duration::from_secs(7);
