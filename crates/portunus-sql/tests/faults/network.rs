//! Holders that freeze, networks that drop everything, and transactions that nobody ends.

use std::time::Duration;

use futures_util::StreamExt;
use portunus_core::error::ErrorKind;
use portunus_core::name::LockName;
use portunus_testkit::cluster::{Cluster, MariaDb, Postgres};
use portunus_testkit::proxy::{Direction, Proxy};
use tokio::time::{Instant, timeout};

use crate::scene::{PATIENCE, TTL, acquire, backend, by, open, within};

/// How long the engine would wait for an answer.
const SHORT: Duration = Duration::from_secs(3);

/// What a server shows of transactions that stand idle, `0` without any.
const IDLE_POSTGRES: &[&str] = &[
    "psql",
    "-U",
    "postgres",
    "-Atc",
    "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'",
];
const IDLE_MARIADB: &[&str] =
    &["mariadb", "-Ne", "SELECT count(*) FROM information_schema.innodb_trx"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_frozen_holder_keeps_no_lock_of_postgres() {
    let server = Postgres::shared().await.unwrap();
    a_frozen_holder_keeps_no_lock_of(&server, &server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_frozen_holder_keeps_no_lock_of_mariadb() {
    let server = MariaDb::shared().await.unwrap();
    a_frozen_holder_keeps_no_lock_of(&server, &server.url()).await;
}

/// Its connections stay open, and nothing comes by them.
async fn a_frozen_holder_keeps_no_lock_of(server: &Cluster, url: &str) {
    let proxy = Proxy::start(server.endpoint(0)).await.unwrap();
    let frozen = open(&by(url, proxy.address()), TTL).await.unwrap();
    let other = open(url, TTL).await.unwrap();
    let guard = frozen.lock("frozen").unwrap().acquire().await.unwrap();
    let waits = acquire(&other, "frozen");
    proxy.black_hole();
    let since = Instant::now();
    within(2 * TTL, "the deadline passes", guard.lost()).await;
    let next = within(TTL + PATIENCE, "the lock is free", waits).await.unwrap().unwrap();
    assert!(since.elapsed() > TTL / 2, "a live session was ended");
    assert!(next.token().value() > guard.token().value());

    // Thawed, it harms nobody: what it held is the other's.
    proxy.pass();
    let again = acquire(&frozen, "frozen");
    drop(guard.release().await);
    tokio::time::sleep(TTL).await;
    assert!(next.is_held() && !again.is_finished());
    next.release().await.unwrap();
    within(PATIENCE, "it gets its turn", again).await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_silent_network_of_postgres_is_a_loss_by_the_deadline() {
    let server = Postgres::exclusive().await.unwrap();
    a_silent_network_is_a_loss_by_the_deadline(&server, &server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_silent_network_of_mariadb_is_a_loss_by_the_deadline() {
    let server = MariaDb::exclusive().await.unwrap();
    a_silent_network_is_a_loss_by_the_deadline(&server, &server.url()).await;
}

/// Every packet is dropped: no connection is reset, and none can be made.
async fn a_silent_network_is_a_loss_by_the_deadline(server: &Cluster, url: &str) {
    let (holder, waiter) = (open(url, TTL).await.unwrap(), open(url, TTL).await.unwrap());
    let guard = holder.lock("silent").unwrap().acquire().await.unwrap();
    let waits = acquire(&waiter, "silent");
    server.cut_clients(0).await.unwrap();
    within(2 * TTL, "the deadline passes", guard.lost()).await;
    assert!(!guard.is_held());
    server.heal(0).await.unwrap();
    let next = within(TTL + PATIENCE, "the waiter is served", waits).await.unwrap().unwrap();
    assert!(next.token().value() > guard.token().value());
    next.release().await.unwrap();
    let again = within(TTL + PATIENCE, "the holder comes back", async {
        holder.lock("silent").unwrap().acquire().await.unwrap()
    })
    .await;
    again.release().await.unwrap();
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn who_follows_by_a_connection_of_postgres_that_fell_silent_is_told() {
    let server = Postgres::shared().await.unwrap();
    who_follows_by_a_connection_that_fell_silent_is_told(&server, &server.url()).await;
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn who_follows_by_a_connection_of_mariadb_that_fell_silent_is_told() {
    let server = MariaDb::shared().await.unwrap();
    who_follows_by_a_connection_that_fell_silent_is_told(&server, &server.url()).await;
}

/// No engine bounds its waiting. A firewall that lost its state drops what comes by the connections that it
/// knew, without a word.
async fn who_follows_by_a_connection_that_fell_silent_is_told(server: &Cluster, url: &str) {
    let proxy = Proxy::start(server.endpoint(0)).await.unwrap();
    let follower = backend(&by(url, proxy.address()));
    let name = LockName::new("followed").unwrap();
    let mut heads = follower.follow(&name, 0).await.unwrap();
    assert_eq!(heads.next().await.unwrap().unwrap().holder, None);
    // It watches by a connection of its own, which is there when it has told of something.
    let other = open(url, TTL).await.unwrap();
    let guard = other.lock("followed").unwrap().acquire().await.unwrap();
    let head = within(PATIENCE, "it is told of the holder", heads.next()).await.unwrap().unwrap();
    assert_eq!(head.as_of, guard.token().value());
    proxy.forget();
    let told = within(PATIENCE, "it is told of the silence", heads.next()).await.unwrap();
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Unavailable);
    let mut heads = within(PATIENCE, "the rest is given up", async {
        loop {
            let followed = timeout(SHORT, follower.follow(&name, 0)).await;
            if let Ok(Ok(heads)) = followed {
                return heads;
            }
        }
    })
    .await;
    assert!(heads.next().await.unwrap().unwrap().holder.is_some());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn an_enter_that_is_parked_before_its_commit_blocks_nobody_in_postgres() {
    let server = Postgres::exclusive().await.unwrap();
    an_enter_that_is_parked_blocks_nobody(&server, &server.url(), IDLE_POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn an_enter_that_is_parked_before_its_commit_blocks_nobody_in_mariadb() {
    let server = MariaDb::exclusive().await.unwrap();
    an_enter_that_is_parked_blocks_nobody(&server, &server.url(), IDLE_MARIADB).await;
}

async fn an_enter_that_is_parked_blocks_nobody(server: &Cluster, url: &str, idle: &[&str]) {
    /// Nothing expires meanwhile.
    const LONG: Duration = Duration::from_secs(120);
    let proxy = Proxy::start(server.endpoint(0)).await.unwrap();
    let parked = open(&by(url, proxy.address()), LONG).await.unwrap();
    let other = open(url, LONG).await.unwrap();
    // The row of the name is there from now on, and what MySQL prepares once is prepared.
    for manager in [&parked, &other] {
        manager.lock("parked").unwrap().acquire().await.unwrap().release().await.unwrap();
    }
    let count = async || {
        let shown = server.exec(0, idle).await.unwrap();
        shown.stdout.trim().parse::<u32>().unwrap_or_else(|_| panic!("{shown:?}"))
    };
    // Each answer goes on late, until one leaves its transaction open: the rest of entering is not
    // sent while it is held.
    proxy.hold_replies();
    let enters = acquire(&parked, "parked");
    let stands_idle = async {
        loop {
            proxy.wait_held(Direction::Replies).await;
            // What the server shows is up to 100 ms old.
            tokio::time::sleep(Duration::from_millis(300)).await;
            if count().await > 0 {
                return;
            }
            proxy.release();
        }
    };
    within(PATIENCE, "a transaction stands idle", stands_idle).await;
    // Nor is its end: a client that lives would close the connection, and so the transaction.
    proxy.black_hole();
    let lock = other.lock("parked").unwrap();
    let guard = within(PATIENCE, "the server ends it", lock.acquire()).await.unwrap();
    assert_eq!(count().await, 0);
    assert!(!enters.is_finished());

    proxy.pass();
    let token = guard.token().value();
    guard.release().await.unwrap();
    let next = within(PATIENCE, "it enters again", enters).await.unwrap().unwrap();
    assert!(next.token().value() > token);
    next.release().await.unwrap();
}
