//! A process beside the test that is told a command a line and answers a line; killed when dropped.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{self, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// A running process.
pub(crate) struct Child {
    child: process::Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts one of this package's programs.
    pub(crate) fn start(program: &str, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdin, stdout }
    }

    pub(crate) async fn tell(&mut self, command: &str) {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    pub(crate) async fn line(&mut self) -> String {
        self.last_line().await.expect("the process lives")
    }

    /// The next line, or `None` when the process has ended.
    pub(crate) async fn last_line(&mut self) -> Option<String> {
        timeout(LIMIT, self.stdout.next_line()).await.expect("the process answers").unwrap()
    }

    pub(crate) async fn ask(&mut self, command: &str, answer: &str) {
        self.tell(command).await;
        assert_eq!(self.line().await, answer);
    }

    pub(crate) async fn token(&mut self) -> u64 {
        self.line().await.strip_prefix("token ").expect("a token").parse().unwrap()
    }

    pub(crate) async fn acquire(&mut self) -> u64 {
        self.tell("acquire").await;
        self.token().await
    }

    /// Closes its stdin and waits for its end.
    pub(crate) async fn end(mut self) {
        drop(self.stdin);
        let ended = timeout(LIMIT, self.child.wait()).await;
        assert!(ended.expect("the process ends").unwrap().success());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it was not awaited").try_into().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Kills it, and waits until it is gone.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Twice what a lock may take to be free after its holder's end.
const LIMIT: Duration = Duration::from_secs(15);
