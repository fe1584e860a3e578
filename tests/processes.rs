//! What befalls whole processes: stopped, killed, blocked. Each test has the cluster alone.

#![cfg(unix)]

use std::fmt::Debug;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portunus::LockManager;
use portunus_testkit::cluster::{Access, Etcd};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

/// The shortest that etcd grants.
const TTL: Duration = Duration::from_secs(2);
/// etcd looks for expired leases each half second, at most; the rest is for a busy machine.
const SLACK: Duration = Duration::from_millis(1500);
/// How long that may take which needs a few round trips.
const PROMPT: Duration = Duration::from_secs(3);

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_holder_stopped_past_its_ttl_sees_the_loss_at_its_first_look() {
    let scene = Scene::open().await;
    let (mut stopped, mut other) = (scene.worker("2s", "a").await, scene.worker("30s", "a").await);
    let first = stopped.acquire().await;
    stopped.ask("look", "held true").await;
    other.tell("acquire").await;
    scene.queued("a", 2).await;
    stopped.signal(Signal::SIGSTOP);
    let second = other.token().await;
    assert!(second > first, "{second} after {first}");
    // The command lies there when it wakes up.
    stopped.tell("look").await;
    stopped.signal(Signal::SIGCONT);
    assert_eq!(stopped.line().await, "held false");
    stopped.ask("release", "released AlreadyLost(Expired)").await;
    other.ask("look", "held true").await;
    other.ask("release", "released Clean").await;
    // It goes on with a new session.
    assert!(stopped.acquire().await > second);
    stopped.ask("release", "released Clean").await;
    stopped.end().await;
    other.end().await;
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_killed_holders_lock_is_free_within_its_ttl() {
    let scene = Scene::open().await;
    let manager = scene.manager("30s").await;
    let mut last = 0;
    for _ in 0..5 {
        let mut holder = scene.worker("2s", "a").await;
        let token = holder.acquire().await;
        assert!(token > last);
        let lock = manager.lock("a").unwrap();
        let waiter = tokio::spawn(async move { lock.acquire().await });
        scene.queued("a", 2).await;
        let killed = Instant::now();
        holder.signal(Signal::SIGKILL);
        let waited = timeout(TTL + SLACK, waiter).await.expect("the lock is free in time");
        let guard = waited.unwrap().unwrap();
        println!("free after {:?}", killed.elapsed());
        last = guard.token().value();
        assert!(last > token);
        guard.release().await.unwrap();
    }
    manager.shutdown(PROMPT).await.unwrap();
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_waiter_killed_in_mid_queue_holds_up_nobody() {
    let scene = Scene::open().await;
    let manager = scene.manager("30s").await;
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let mut killed = scene.worker("2s", "a").await;
    killed.tell("acquire").await;
    scene.queued("a", 2).await;
    let lock = manager.lock("a").unwrap();
    let successor = tokio::spawn(async move { lock.acquire().await });
    scene.queued("a", 3).await;
    killed.signal(Signal::SIGKILL);
    let first = guard.token().value();
    guard.release().await.unwrap();
    let served = timeout(TTL + SLACK, successor).await.expect("the successor is served in time");
    let guard = served.unwrap().unwrap();
    assert!(guard.token().value() > first);
    guard.release().await.unwrap();
    manager.shutdown(PROMPT).await.unwrap();
    scene.end().await;
}

/// On a current-thread runtime: nothing of the user's runs meanwhile.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn an_executor_blocked_for_twice_the_ttl_keeps_its_lock() {
    let scene = Scene::open().await;
    let mut other = scene.worker("30s", "a").await;
    let manager = scene.manager("2s").await;
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let token = guard.token().value();
    other.tell("acquire").await;
    scene.queued("a", 2).await;
    std::thread::sleep(2 * TTL);
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), portunus::Released::Clean);
    assert!(other.token().await > token);
    other.ask("release", "released Clean").await;
    manager.shutdown(PROMPT).await.unwrap();
    other.end().await;
    scene.end().await;
}

struct Scene(Access);

impl Scene {
    async fn open() -> Self {
        Self(Etcd::exclusive().await.unwrap())
    }

    fn url(&self, ttl: &str) -> String {
        format!("etcd://{}?ttl={ttl}", self.0.endpoints().join(","))
    }

    async fn manager(&self, ttl: &str) -> LockManager {
        portunus::connect(self.url(ttl)).await.unwrap()
    }

    async fn worker(&self, ttl: &str, name: &str) -> Worker {
        let mut child = Command::new(env!("CARGO_BIN_EXE_portunus-test-worker"))
            .args([self.url(ttl).as_str(), name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut worker = Worker { child, stdin, stdout };
        assert_eq!(worker.line().await, "ready");
        worker
    }

    /// Waits until `count` entries stand in the queue of a lock.
    async fn queued(&self, name: &str, count: usize) {
        eventually(&format!("{count} entries"), async || {
            let found = self.keys(&format!("portunus/{name}/")).await;
            if found.len() == count { Ok(()) } else { Err(found) }
        })
        .await;
    }

    async fn keys(&self, prefix: &str) -> Vec<String> {
        let keys = self.0.etcdctl(0, &["get", "--prefix", "--keys-only", prefix]).await.unwrap();
        keys.stdout.lines().filter(|key| !key.is_empty()).map(str::to_owned).collect()
    }

    /// Fails when a key or a lease is left.
    async fn end(self) {
        eventually("nothing left", async || {
            let mut left = self.keys("").await;
            left.retain(|key| !key.ends_with("/.incarnation"));
            let leases = self.0.etcdctl(0, &["lease", "list"]).await.unwrap().stdout;
            let clean = left.is_empty() && leases.starts_with("found 0 leases");
            if clean { Ok(()) } else { Err((left, leases)) }
        })
        .await;
    }
}

/// A process that runs `worker.rs`; killed when dropped.
struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    async fn tell(&mut self, command: &str) {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let line = timeout(2 * (TTL + SLACK), self.stdout.next_line()).await;
        line.expect("the worker answers").unwrap().expect("the worker lives")
    }

    async fn token(&mut self) -> u64 {
        self.line().await.strip_prefix("token ").expect("a token").parse().unwrap()
    }

    async fn acquire(&mut self) -> u64 {
        self.tell("acquire").await;
        self.token().await
    }

    async fn ask(&mut self, command: &str, answer: &str) {
        self.tell(command).await;
        assert_eq!(self.line().await, answer);
    }

    async fn end(mut self) {
        drop(self.stdin);
        let ended = timeout(2 * (TTL + SLACK), self.child.wait()).await;
        assert!(ended.expect("the worker ends").unwrap().success());
    }

    fn signal(&mut self, signal: Signal) {
        let pid = self.child.id().expect("it was not awaited").try_into().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

/// Asks again and again until the answer is `Ok`; fails with the last `Err` after a while.
async fn eventually<E: Debug>(what: &str, mut ask: impl AsyncFnMut() -> Result<(), E>) {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(()) => return,
            Err(last) if began.elapsed() > Duration::from_secs(40) => {
                panic!("not in time: {what}; last seen: {last:?}")
            }
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}
