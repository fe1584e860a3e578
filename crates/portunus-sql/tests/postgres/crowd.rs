//! Many who wait.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::manager::LockManager;
use tokio::time::timeout;

use crate::Scene;

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
