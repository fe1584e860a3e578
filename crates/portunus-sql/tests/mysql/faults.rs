//! Connections and servers that end under holders and waiters.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use portunus_core::manager::LockManager;
use tokio::time::timeout;

use crate::{LONG, Scene};

async fn manager(scene: &Scene) -> LockManager {
    LockManager::builder(scene.backend()).ttl(Duration::from_secs(30)).open().await.unwrap()
}

/// Each of their connections, by the administrator: the holder holds on, the waiter gets its turn.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn connections_that_are_killed_lose_no_lock() {
    let scene = Scene::new().await;
    let (holder, waiter) = (manager(&scene).await, manager(&scene).await);
    let guard = holder.lock("a").unwrap().acquire().await.unwrap();
    let lock = waiter.lock("a").unwrap();
    let mut waiting = Box::pin(lock.acquire());
    let mut raw = scene.raw().await;
    let kill = async {
        while scene.count("entry").await < 2 {}
        let all = "SELECT id FROM information_schema.processlist \
                   WHERE db = database() AND id <> connection_id()";
        for _ in 0..3 {
            let ids: Vec<u64> = raw.query(all).await.unwrap();
            for id in ids {
                // It may have ended by itself.
                raw.query_drop(format!("KILL CONNECTION {id}")).await.ok();
            }
            // Till there are others: the watch looks again.
            while scene.connections("id <> connection_id()").await < 2 {}
        }
    };
    tokio::select! {
        got = &mut waiting => panic!("{got:?}"),
        () = kill => {}
    }
    assert!(guard.is_held());
    let token = guard.token();
    timeout(LONG, guard.release()).await.unwrap().unwrap();
    let next = timeout(LONG, waiting).await.unwrap().unwrap();
    assert!(next.token() > token);
}

/// Without a word, as by a loss of power.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_server_that_restarts_loses_no_lock() {
    let scene = Scene::alone().await;
    let (holder, waiter) = (manager(&scene).await, manager(&scene).await);
    let guard = holder.lock("a").unwrap().acquire().await.unwrap();
    let lock = waiter.lock("a").unwrap();
    let mut waiting = Box::pin(lock.acquire());
    let restart = async {
        while scene.count("entry").await < 2 {}
        scene.server.kill(0).await.unwrap();
        scene.server.restart(0).await.unwrap();
        scene.server.wait_healthy().await.unwrap();
    };
    tokio::select! {
        got = &mut waiting => panic!("{got:?}"),
        () = restart => {}
    }
    assert!(guard.is_held());
    let token = guard.token();
    timeout(LONG, guard.release()).await.unwrap().unwrap();
    let next = timeout(LONG, waiting).await.unwrap().unwrap();
    assert!(next.token() > token);
}
