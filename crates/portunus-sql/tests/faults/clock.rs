//! A server's wall clock that somebody sets: no second owner, and nobody stuck.

use std::time::Duration;

use portunus_testkit::cluster::{Cluster, MariaDb, Postgres};
use portunus_testkit::proxy::Proxy;

use crate::scene::{PATIENCE, TTL, acquire, by, eventually, open, renewed, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn nobody_counts_by_the_clock_of_postgres() {
    let server = Postgres::builder().movable_clock().start().await.unwrap();
    nobody_counts_by_the_clock_of(&server, &server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn nobody_counts_by_the_clock_of_mariadb() {
    let server = MariaDb::builder().movable_clock().start().await.unwrap();
    nobody_counts_by_the_clock_of(&server, &server.url()).await;
}

async fn nobody_counts_by_the_clock_of(server: &Cluster, url: &str) {
    let (holder, waiter) = (open(url, TTL).await.unwrap(), open(url, TTL).await.unwrap());
    for step in [60, -60] {
        server.step_clock(0, 0).await.unwrap();
        let guard = holder.lock("held").unwrap().acquire().await.unwrap();
        let waits = acquire(&waiter, "held");
        eventually("both stand in the queue", async || {
            let found = waiter.contenders("held").await.unwrap();
            if found.len() == 2 { Ok(()) } else { Err(found) }
        })
        .await;
        server.step_clock(0, step).await.unwrap();
        // Longer than the waiter would have to see nothing of the holder.
        tokio::time::sleep(TTL + TTL / 2).await;
        renewed(&[&holder, &waiter]).await;
        assert!(guard.is_held(), "lost by a step of {step} s: {:?}", guard.status());
        assert!(!waits.is_finished(), "a second owner by a step of {step} s");
        guard.release().await.unwrap();
        let next = within(PATIENCE, "the waiter is served", waits).await.unwrap().unwrap();
        next.release().await.unwrap();

        // Of one who is gone, nobody waits longer than its time to live.
        server.step_clock(0, 0).await.unwrap();
        let proxy = Proxy::start(server.endpoint(0)).await.unwrap();
        let gone = open(&by(url, proxy.address()), TTL).await.unwrap();
        let guard = gone.lock("held").unwrap().acquire().await.unwrap();
        let waits = acquire(&waiter, "held");
        proxy.black_hole();
        server.step_clock(0, step).await.unwrap();
        let served = within(TTL + PATIENCE, "it is not stuck", waits).await.unwrap().unwrap();
        assert!(!guard.is_held());
        served.release().await.unwrap();
        drop(proxy);
        gone.shutdown(Duration::from_secs(1)).await.ok();
    }
}
