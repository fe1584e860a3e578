//! Many who wait.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use portunus_core::backend::LockBackend;
use portunus_core::manager::LockManager;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{LONG, Scene, attempt};

const WAITERS: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn ten_thousand_waiters_share_three_connections() {
    let scene = Scene::new().await;
    let manager = LockManager::builder(scene.backend())
        .ttl(Duration::from_secs(20))
        .max_waiters(WAITERS)
        .open()
        .await
        .unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..WAITERS {
        let lock = manager.lock("a").unwrap();
        waiting.spawn(async move { lock.acquire().await.unwrap() });
    }
    let raw = Arc::new(scene.raw().await);
    let entries = "SELECT count(*) FROM portunus_entry";
    let all = async {
        let wanted = i64::try_from(WAITERS + 1).unwrap();
        while raw.query_one(entries, &[]).await.unwrap().get::<_, i64>(0) < wanted {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(300), all).await.unwrap();
    let connections = "SELECT count(*) FROM pg_stat_activity \
         WHERE application_name = 'portunus' AND datname = current_database()";
    let connections: i64 = raw.query_one(connections, &[]).await.unwrap().get(0);
    assert!(connections <= 3, "{connections}");
    // The first hundred have their turns, in time.
    guard.release().await.unwrap();
    let turns = async {
        for _ in 0..100 {
            waiting.join_next().await.unwrap().unwrap().release().await.unwrap();
        }
    };
    timeout(Duration::from_secs(60), turns).await.unwrap();
}

/// Of the one something is said all the time, and of the other nothing ever is.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn news_of_one_lock_keeps_nobody_from_another() {
    let scene = Scene::new().await;
    let (holder, waiter) = (scene.client(LONG).await, scene.client(LONG).await);
    let (busy, quiet) = (attempt("busy", false), attempt("quiet", false));
    holder.hold("busy").await;
    holder.hold("quiet").await;
    let ((busy_entry, busy_turn), (entry, turn)) =
        (waiter.enter(&busy).await, waiter.enter(&quiet).await);
    let mut news = JoinSet::new();
    for _ in 0..4 {
        let raw = scene.raw().await;
        news.spawn(async move {
            let tell = raw.prepare("SELECT pg_notify('portunus', 'portunus/busy')").await.unwrap();
            loop {
                join_all((0..16).map(|_| raw.query(&tell, &[]))).await;
            }
        });
    }
    let waits = async |attempt, entry, turn| {
        waiter.backend.changed(&waiter.session, attempt, entry, turn).await.unwrap();
    };
    let untold = "DELETE FROM portunus_entry WHERE key = 'portunus/quiet' AND session = $1";
    let untold = async {
        assert_eq!(scene.raw().await.execute(untold, &[&holder.row()]).await.unwrap(), 1);
        std::future::pending().await
    };
    let turned = async {
        tokio::select! {
            () = waits(&quiet, &entry, &turn) => {}
            () = waits(&busy, &busy_entry, &busy_turn) => panic!("nobody left it"),
            () = untold => {}
        }
    };
    timeout(Duration::from_secs(30), turned).await.unwrap();
}
