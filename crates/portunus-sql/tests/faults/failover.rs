//! The primary of PostgreSQL dies, and its standby is promoted.

use std::time::Duration;

use portunus_core::error::ErrorKind;
use portunus_testkit::cluster::{Postgres, Standby};

use crate::scene::{PATIENCE, TTL, by, eventually, kind, open, renewed, within};
use crate::workers::Workers;

/// Both nodes, as one who expects a fail-over names them.
fn both(postgres: &Postgres) -> String {
    by(&postgres.url(), postgres.endpoints().join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_synchronous_standby_is_promoted_under_load() {
    let postgres = Postgres::builder().standby(Standby::Synchronous).start().await.unwrap();
    let url = both(&postgres);
    let workers = Workers::start(&url, 6);
    workers.progress("they work").await;
    let bystander = open(&url, TTL).await.unwrap();
    let held = bystander.lock("held").unwrap().acquire().await.unwrap();
    let (token, origin) = (held.token(), held.token().origin().clone());

    postgres.kill(0).await.unwrap();
    postgres.promote(1).await.unwrap();
    workers.progress("they work at the new primary").await;
    within(PATIENCE, "the holder is told", held.lost()).await;
    // Who knew the other life asks no more; who is new goes on above it.
    let (kind, error) = within(PATIENCE, "it fails closed", async {
        kind(bystander.lock("held").unwrap().acquire().await)
    })
    .await;
    assert_eq!(kind, ErrorKind::Regression, "{error:#}");
    let newcomer = open(&url, TTL).await.unwrap();
    let lock = newcomer.lock("held").unwrap();
    let next = within(TTL + PATIENCE, "the lock is free", lock.acquire()).await.unwrap();
    assert!(next.token().value() > token.value());
    assert_ne!(*next.token().origin(), origin);

    // The old primary comes back and takes itself for one; it has no standby that confirms.
    postgres.restart(0).await.unwrap();
    postgres.wait_healthy().await.unwrap();
    workers.progress("they work beside the old primary").await;
    renewed(&[&newcomer]).await;
    assert!(next.is_held());
    next.release().await.unwrap();
    workers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn an_asynchronous_standby_that_lost_rows_is_no_way_back() {
    let postgres = Postgres::builder().standby(Standby::Asynchronous).start().await.unwrap();
    let manager = open(&both(&postgres), TTL).await.unwrap();
    let lock = manager.lock("lost").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let reached = "SELECT pg_current_wal_lsn() = replay_lsn FROM pg_stat_replication";
    eventually("the standby has it", async || {
        let reached = postgres.psql(0, reached).await.unwrap();
        if reached == "t\n" { Ok(()) } else { Err(reached) }
    })
    .await;
    postgres.partition(0).await.unwrap();
    // Nobody has these but the primary.
    for _ in 0..5 {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    let held = lock.acquire().await.unwrap();
    postgres.kill(0).await.unwrap();
    postgres.promote(1).await.unwrap();

    within(PATIENCE, "the holder is told", held.lost()).await;
    let (kind, error) =
        within(PATIENCE, "it fails closed", async { kind(lock.acquire().await) }).await;
    assert_eq!(kind, ErrorKind::Regression, "{error:#}");
    // A lower token, and one that no fence of the other life accepts.
    let newcomer = open(&both(&postgres), TTL).await.unwrap();
    let lock = newcomer.lock("lost").unwrap();
    let next = within(TTL + PATIENCE, "the lock is free", lock.acquire()).await.unwrap();
    assert!(next.token().value() < held.token().value(), "the standby lost nothing");
    assert_ne!(next.token().origin(), held.token().origin());
    next.release().await.unwrap();
    manager.shutdown(Duration::from_secs(1)).await.ok();
}
