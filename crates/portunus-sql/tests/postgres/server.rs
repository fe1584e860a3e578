//! A server that ends connections, or itself, under holders and waiters.

use std::time::Duration;

use portunus_core::backend::LockBackend;
use portunus_core::error::ErrorKind;
use portunus_core::manager::LockManager;
use portunus_testkit::cluster;
use tokio::time::timeout;

use crate::{LONG, Scene, attempt};

const TTL: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(60);

async fn manager(scene: &Scene) -> LockManager {
    LockManager::builder(scene.backend()).ttl(TTL).connect_timeout(LIMIT).open().await.unwrap()
}

async fn waits(scene: &Scene) {
    while scene.count("entry").await < 2 {}
}

const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE application_name = 'portunus' AND datname = current_database()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn connections_that_are_ended_cost_nobody_his_lock() {
    let scene = Scene::new().await;
    let (holder, waiter) = (manager(&scene).await, manager(&scene).await);
    let guard = holder.lock("a").unwrap().acquire().await.unwrap();
    let lock = waiter.lock("a").unwrap();
    let waiting = tokio::spawn(async move { lock.acquire().await.unwrap() });
    waits(&scene).await;
    let ended = scene.raw().await.query(TERMINATE, &[]).await.unwrap().len();
    assert!((3..=6).contains(&ended), "{ended}");
    assert!(guard.is_held());
    let token = guard.token().value();
    timeout(LIMIT, guard.release()).await.unwrap().unwrap();
    let next = timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert!(next.is_held() && next.token().value() > token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_server_that_crashes_and_comes_back_keeps_holders_and_waiters() {
    let scene = Scene::on(cluster::Postgres::exclusive().await.unwrap()).await;
    let (holder, waiter) = (manager(&scene).await, manager(&scene).await);
    let guard = holder.lock("a").unwrap().acquire().await.unwrap();
    let lock = waiter.lock("a").unwrap();
    let waiting = tokio::spawn(async move { lock.acquire().await.unwrap() });
    waits(&scene).await;
    scene.server.kill(0).await.unwrap();
    scene.server.restart(0).await.unwrap();
    scene.server.wait_healthy().await.unwrap();
    assert!(guard.is_held());
    timeout(LIMIT, guard.release()).await.unwrap().unwrap();
    let next = timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert!(next.is_held());
}

/// Tables that were made anew, as from a dump, are of another life, whatever is in them.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn tables_that_were_made_anew_have_no_sessions_of_before() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let (held, _) = client.hold("a").await;
    let raw = scene.raw().await;
    raw.batch_execute(
        "BEGIN; ALTER TABLE portunus_meta RENAME TO old; \
         CREATE TABLE portunus_meta (LIKE old INCLUDING ALL); \
         INSERT INTO portunus_meta SELECT * FROM old; COMMIT",
    )
    .await
    .unwrap();
    // Each connection finds out by what it reads, and is made anew.
    for wanted in [ErrorKind::Unavailable, ErrorKind::Lost] {
        let error = client.backend.renew(&client.session, &[]).await.unwrap_err();
        assert_eq!(error.kind(), wanted, "{error}");
        let error = client.backend.enter(&client.session, &held).await.unwrap_err();
        assert_eq!(error.kind(), wanted, "{error}");
    }
    let anew = client.backend.open_session(LONG).await.unwrap();
    assert_ne!(anew.incarnation, client.session.incarnation);
}

/// What the server refuses for the sake of others is not applied, and the connection goes on.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_row_that_is_locked_for_long_is_no_loss() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let (held, _) = client.hold("a").await;
    let connections = "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity \
         WHERE application_name = 'portunus' AND datname = current_database()";
    let before: Vec<i32> = scene.one(connections).await.get(0);
    let raw = scene.raw().await;
    raw.batch_execute("BEGIN; SELECT 1 FROM portunus_key FOR UPDATE").await.unwrap();
    raw.batch_execute("SELECT 1 FROM portunus_session FOR UPDATE").await.unwrap();
    raw.batch_execute("SELECT 1 FROM portunus_entry FOR UPDATE").await.unwrap();
    let waiting = attempt("a", false);
    for refused in [
        client.backend.enter(&client.session, &waiting).await.map(drop),
        client.backend.renew(&client.session, &[]).await.map(drop),
        client.backend.leave(&client.session, &held, false).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert!(!client.tries("a").await);
    raw.batch_execute("ROLLBACK").await.unwrap();
    client.backend.renew(&client.session, &[]).await.unwrap();
    client.leave(&held).await;
    client.hold("a").await;
    assert_eq!(scene.one(connections).await.get::<_, Vec<i32>>(0), before);
}
