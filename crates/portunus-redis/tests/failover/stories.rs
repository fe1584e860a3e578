//! The master is killed, or hangs, and another server takes over.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Entered, LockBackend, LockObserver, Session};
use portunus_core::error::{ErrorKind, Result};
use portunus_core::guard::Guard;
use portunus_core::manager::LockManager;
use portunus_redis::Redis;
use portunus_testkit::cluster::RedisGroup;
use tokio::time::{Instant, sleep, timeout};

use crate::group::{attempt, hold, namespace};
use crate::harness::client;

/// Long enough that what is told is not told by a deadline.
const TTL: Duration = Duration::from_secs(40);

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn when_sentinels_promote_a_replica_the_holder_is_told_and_who_connects_anew_acquires() {
    a_fail_over_is_told(&RedisGroup::sentinels().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn when_a_cluster_promotes_a_replica_the_holder_is_told_and_who_connects_anew_acquires() {
    a_fail_over_is_told(&RedisGroup::cluster().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_master_that_hangs_is_left_though_nobody_waits_for_its_answer() {
    let group = RedisGroup::sentinels().await.unwrap();
    let redis = client(&group.url(), &namespace());
    let session = redis.open_session(TTL).await.unwrap();
    let (held, ..) = hold(&redis, &session, "a").await;
    group.cli(0, &["wait", "2", "5000"]).await.unwrap();
    group.signal(0, "STOP").await.unwrap();
    let all = [Arc::new(held)];
    let told = until(|| redis.renew(&session, &all)).await;
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Lost);
    // By the other connection, too.
    until(|| redis.close_session(&session)).await.unwrap();
    let next = until(|| redis.open_session(TTL)).await.unwrap();
    assert!(!is_taken(&redis, &next).await);
}

async fn a_fail_over_is_told(group: &RedisGroup) {
    let namespace = namespace();
    let open = async || {
        LockManager::builder(client(&group.url(), &namespace)).ttl(TTL).open().await.unwrap()
    };
    let (one, other) = (open().await, open().await);
    let held = one.lock("a").unwrap().acquire().await.unwrap();
    let before = held.token();
    let waiter = other.lock("a").unwrap();
    let mut waiting = tokio::spawn(async move { waiter.acquire().await });
    until_one_waits(&one).await;
    let master = group.master(&format!("{{{namespace}}}:node")).await.unwrap();
    // The replica has the lock, the place and the sessions: that alone is not to keep them.
    group.cli(master, &["wait", "1", "5000"]).await.unwrap();
    let began = Instant::now();
    group.signal(master, "KILL").await.unwrap();

    timeout(TTL, held.lost()).await.expect("the holder is not told");
    assert!(!held.is_held());
    assert!(began.elapsed() < TTL * 8 / 10, "it is told by its deadline alone");
    let refused: Result<Guard> = timeout(TTL, &mut waiting).await.expect("it hangs").unwrap();
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Regression, "{refused:#}");

    let later = open().await;
    let acquired = timeout(TTL, later.lock("a").unwrap().acquire()).await;
    let acquired = acquired.expect("the lock is never free").unwrap();
    // A fence that saw one of them refuses the other: they are of two lives of the store.
    assert_eq!(acquired.token().partial_cmp(&before), None);
    acquired.release().await.unwrap();
}

async fn until_one_waits(manager: &LockManager) {
    let waits = async {
        while manager.contenders("a").await.unwrap().len() < 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TTL, waits).await.expect("nobody waits");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn what_was_copied_to_the_promoted_server_counts_for_nothing() {
    let group = RedisGroup::sentinels().await.unwrap();
    let redis = client(&group.url(), &namespace());
    let session = redis.open_session(TTL).await.unwrap();
    let (held, entry, _) = hold(&redis, &session, "a").await;
    let (held, spare) = (Arc::new(held), attempt("b", true));

    // Another connection to the same master is no fail-over.
    group.cli(0, &["client", "kill", "type", "normal"]).await.unwrap();
    let all = [Arc::clone(&held)];
    let told = until(|| redis.renew(&session, &all)).await.unwrap();
    assert_eq!(told.lost, []);
    let again = until(|| redis.open_session(TTL)).await.unwrap();
    assert_eq!(again.incarnation, session.incarnation);

    // The replica has everything; it is a fail-over all the same.
    group.signal(0, "KILL").await.unwrap();
    let told = until(|| redis.renew(&session, &all)).await;
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Lost);
    let refused = until(|| redis.enter(&session, &spare)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Regression, "{refused:#}");
    let next = until(|| redis.open_session(TTL)).await.unwrap();
    assert_ne!(next.incarnation, session.incarnation);
    // What is left of the session before is cleaned up by it, as always.
    assert!(is_taken(&redis, &next).await);
    let listed = redis.contenders(&held.name).await.unwrap();
    assert_eq!(listed.iter().map(|one| &one.entry).collect::<Vec<_>>(), [&entry]);
    redis.close_session(&session).await.unwrap();
    assert!(!is_taken(&redis, &next).await);

    // The server of before comes back as a replica, and is left alone.
    group.begin(0).await.unwrap();
    let (held, ..) = hold(&redis, &next, "a").await;
    let all = [Arc::new(held)];
    assert_eq!(until(|| redis.renew(&next, &all)).await.unwrap().lost, []);
    redis.close_session(&next).await.unwrap();
}

async fn is_taken(redis: &Redis, session: &Session) -> bool {
    let attempt = attempt("a", true);
    match redis.enter(session, &attempt).await.unwrap() {
        Entered::Refused => true,
        _ => {
            redis.leave(session, &attempt, false).await.unwrap();
            false
        }
    }
}

/// As the engine does: what may pass is tried again, and nothing is waited for for long.
async fn until<T, F>(ask: impl Fn() -> F + Send + Sync) -> Result<T>
where
    T: Send,
    F: Future<Output = Result<T>> + Send,
{
    let asking = async {
        loop {
            match timeout(Duration::from_secs(1), ask()).await {
                Ok(Err(error)) if error.is_retryable() => sleep(Duration::from_millis(100)).await,
                Ok(told) => return told,
                Err(_) => {}
            }
        }
    };
    timeout(TTL, asking).await.expect("no server takes over")
}
