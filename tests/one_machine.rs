//! Processes of one machine that share an SQLite file: they exclude each other, and are killed.

#![cfg(unix)]

mod child;

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use portunus::LockManager;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use child::Child;

#[tokio::test]
async fn two_processes_exclude_each_other_and_a_killed_one_s_lock_is_free_within_its_ttl() {
    let scene = Scene::new();
    let mut last = 0;
    for round in 0..3 {
        let (mut one, mut other) = (scene.worker("2s", "a").await, scene.worker("2s", "a").await);
        let first = one.acquire().await;
        assert!(first > last);
        other.tell("acquire").await;
        let manager = scene.manager().await;
        scene.queued(&manager, "a", 2).await;
        let lock = manager.lock("a").unwrap();
        assert!(lock.try_acquire().await.unwrap().is_none());
        let killed = Instant::now();
        one.signal(Signal::SIGKILL);
        last = other.token().await;
        println!("round {round}: free after {:?}", killed.elapsed());
        assert!(killed.elapsed() < TTL + SLACK, "after {:?}", killed.elapsed());
        assert!(last > first);
        // Nobody waits for this one, and no server notices: who comes next does.
        other.kill().await;
        let next = timeout(TTL + SLACK, lock.acquire()).await.expect("the lock is free in time");
        last = next.unwrap().token().value();
        manager.shutdown(PROMPT).await.unwrap();
    }
    scene.end();
}

#[tokio::test]
async fn a_process_stopped_past_its_ttl_sees_the_loss_at_its_first_look() {
    let scene = Scene::new();
    let (mut stopped, mut other) = (scene.worker("2s", "a").await, scene.worker("30s", "a").await);
    let first = stopped.acquire().await;
    stopped.signal(Signal::SIGSTOP);
    // In the middle of a renewal it would take the file's lock along, and nobody could do anything.
    while !scene.is_writable() {
        stopped.signal(Signal::SIGCONT);
        stopped.signal(Signal::SIGSTOP);
    }
    assert!(other.acquire().await > first);
    // The command lies there when it wakes up.
    stopped.tell("look").await;
    stopped.signal(Signal::SIGCONT);
    assert_eq!(stopped.line().await, "held false");
    stopped.tell("release").await;
    // Whoever of its own comes first when it wakes up says why.
    let released = stopped.line().await;
    let reasons = ["Expired", "SessionEnded"].map(|why| format!("released AlreadyLost({why})"));
    assert!(reasons.contains(&released), "{released}");
    other.ask("look", "held true").await;
    other.ask("release", "released Clean").await;
    stopped.end().await;
    other.end().await;
    scene.end();
}

/// Whatever they were writing: the file stays sound, tokens grow, and nothing is left of the dead.
#[tokio::test]
async fn processes_killed_while_they_write_leave_a_sound_file() {
    let scene = Scene::new();
    let (mut last, manager) = (0, scene.manager().await);
    for round in 0..12 {
        let mut busy = scene.worker("2s", "a").await;
        for _ in 0..20 {
            busy.tell("acquire\nrelease").await;
        }
        let token = busy.token().await;
        assert!(token > last, "{token} after {last}");
        sleep(Duration::from_millis(3 * round)).await;
        busy.kill().await;
        let lock = manager.lock("a").unwrap();
        let next = timeout(TTL + SLACK, lock.acquire()).await.expect("the lock is free in time");
        let next = next.unwrap();
        assert!(next.token().value() > token);
        last = next.token().value();
        next.release().await.unwrap();
    }
    // Who died without an entry was in nobody's way; who looks finds that one as well.
    let buried = async {
        while scene.count("portunus_session") > 1 {
            manager.contenders("a").await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TTL + SLACK, buried).await.expect("the dead are found");
    manager.shutdown(PROMPT).await.unwrap();
    scene.end();
}

/// Two terminals, and no word about a path.
#[tokio::test]
async fn without_a_path_the_processes_of_a_user_exclude_each_other() {
    use std::os::unix::fs::PermissionsExt;

    let home = tempfile::tempdir().unwrap();
    let state = format!("XDG_STATE_HOME={}", home.path().display());
    let start = async || {
        let program = env!("CARGO_BIN_EXE_portunus-test-worker");
        let mut child = Child::start("env", &[&state, program, "sqlite:?ttl=10s", "a"]);
        assert_eq!(child.line().await, "ready");
        child
    };
    let (mut one, mut other) = (start().await, start().await);
    let first = one.acquire().await;
    other.tell("acquire").await;
    let directory = home.path().join("portunus");
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let file = Connection::open(directory.join("locks.db")).unwrap();
    let queued = async {
        let count = "SELECT count(*) FROM portunus_entry";
        while file.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PROMPT, queued).await.expect("they queue in the one file");
    one.ask("release", "released Clean").await;
    assert!(other.token().await > first);
    other.ask("release", "released Clean").await;
    one.end().await;
    other.end().await;
}

/// A directory with a file of locks.
struct Scene {
    home: TempDir,
}

impl Scene {
    fn new() -> Self {
        // In memory, where there is such a place: a busy disk takes a large part of a time to live to sync.
        let memory = Path::new("/dev/shm");
        let home = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self { home: home.unwrap() }
    }

    fn url(&self, ttl: &str) -> String {
        format!("sqlite:{}?ttl={ttl}", self.home.path().join("locks.db").display())
    }

    async fn manager(&self) -> LockManager {
        portunus::connect(self.url("30s")).await.unwrap()
    }

    /// A process that runs `worker.rs`.
    async fn worker(&self, ttl: &str, name: &str) -> Child {
        let program = env!("CARGO_BIN_EXE_portunus-test-worker");
        let mut child = Child::start(program, &[&self.url(ttl), name]);
        assert_eq!(child.line().await, "ready");
        child
    }

    /// Waits until `count` entries stand in the queue of a lock.
    async fn queued(&self, manager: &LockManager, name: &str, count: usize) {
        let standing = async {
            while manager.contenders(name).await.unwrap().len() != count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PROMPT, standing).await.expect("they queue");
    }

    fn count(&self, table: &str) -> i64 {
        let file = Connection::open(self.home.path().join("locks.db")).unwrap();
        file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }

    /// Whether somebody can write now, or soon.
    fn is_writable(&self) -> bool {
        let file = Connection::open(self.home.path().join("locks.db")).unwrap();
        file.busy_timeout(Duration::from_millis(200)).unwrap();
        file.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok()
    }

    /// Fails when the file is damaged, or has a row of anybody.
    fn end(self) {
        let file = Connection::open(self.home.path().join("locks.db")).unwrap();
        let check = "PRAGMA integrity_check";
        let found: String = file.query_row(check, [], |row| row.get(0)).unwrap();
        assert_eq!(found, "ok");
        for table in ["portunus_entry", "portunus_session"] {
            assert_eq!(self.count(table), 0, "rows in {table}");
        }
    }
}

/// Of those who are killed.
const TTL: Duration = Duration::from_secs(2);
/// For a busy machine.
const SLACK: Duration = Duration::from_secs(3);
/// How long that may take which needs a few commits.
const PROMPT: Duration = Duration::from_secs(5);
