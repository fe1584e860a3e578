//! A process is killed somewhere between the comparison and the effect of a fence: both are there
//! afterwards, or neither.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod child;
mod fence_at;

use std::time::Duration;

use nix::sys::signal::Signal;
use portunus_fence::{ErrorKind, Fence};
use portunus_testkit::cluster::{Etcd, MariaDb, Postgres, Redis, ZooKeeper};
use tokio::time::timeout;

use child::Child;
use fence_at::{fence_at, token};

#[tokio::test]
async fn at_a_file() {
    let directory = tempfile::tempdir().unwrap();
    leave_both_or_neither(&format!("file:{}", directory.path().display())).await;
}

#[tokio::test]
async fn at_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("marks.db");
    leave_both_or_neither(&format!("sqlite:{}", file.display())).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn at_postgres() {
    leave_both_or_neither(&Postgres::shared().await.unwrap().url()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn at_mariadb() {
    leave_both_or_neither(&MariaDb::shared().await.unwrap().url()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn at_redis() {
    leave_both_or_neither(&Redis::shared().await.unwrap().url()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn at_etcd() {
    let etcd = Etcd::shared().await.unwrap();
    leave_both_or_neither(&format!("etcd://{}", etcd.endpoints().join(","))).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn at_zookeeper() {
    let zookeeper = ZooKeeper::shared().await.unwrap();
    leave_both_or_neither(&format!("zookeeper://{}", zookeeper.endpoints().join(","))).await;
}

async fn leave_both_or_neither(url: &str) {
    let fence = fence_at(url).await;
    let mut unacknowledged = 0;
    for kill in 0..KILLS {
        let mut writer = Child::start(env!("CARGO_BIN_EXE_portunus-test-writer"), &[url, "killed"]);
        let mut acknowledged = writer.line().await;
        // A different moment each time, and whatever the writer does then.
        let moment = Duration::from_micros(1_700 * kill);
        let lines = async {
            loop {
                acknowledged = writer.line().await;
            }
        };
        assert!(timeout(moment, lines).await.is_err());
        writer.signal(Signal::SIGKILL);
        while let Some(line) = writer.last_line().await {
            acknowledged = line;
        }
        writer.kill().await;
        // What the server still does for its dead client it does before or after these, in one step.
        let acknowledged: u64 = acknowledged.parse().unwrap();
        let (mark, value) = both(&*fence).await;
        assert_eq!(value, mark, "the one is there without the other");
        assert!((acknowledged..=acknowledged + 1).contains(&mark), "{mark}, {acknowledged}");
        // Above what may be under way.
        fence.open("killed", &token(mark + 2)).await.unwrap();
        let late = fence.admit("killed", &token(mark + 1), b"late").await;
        assert_eq!(late.unwrap_err().kind(), ErrorKind::Stale);
        let next = token(mark + 2);
        fence.admit("killed", &next, (mark + 2).to_string().as_bytes()).await.unwrap();
        unacknowledged += value - acknowledged;
    }
    println!("{KILLS} kills, {unacknowledged} of them between the effect and its acknowledgement");
}

/// The mark and the value of one moment.
async fn both(fence: &dyn Fence) -> (u64, u64) {
    let reader = format!("{};shared", token(i64::MAX.unsigned_abs())).parse().unwrap();
    loop {
        let mark = fence.mark("killed").await.unwrap();
        let value = fence.check("killed", &reader).await.unwrap().unwrap();
        // Not raised in between: marks never go back.
        if fence.mark("killed").await.unwrap() == mark {
            return (mark.unwrap().value(), String::from_utf8(value).unwrap().parse().unwrap());
        }
    }
}

const KILLS: u64 = 20;
