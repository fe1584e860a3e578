//! Five masters of which some fail.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Entered, LockBackend, Turn};
use portunus_core::error::ErrorKind;
use portunus_testkit::cluster::RedisMasters;

use super::{attempt, hold, is_taken, namespace};
use crate::harness::client;

const TTL: Duration = Duration::from_secs(6);

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_minority_may_hang_and_a_majority_may_not() {
    let masters: &RedisMasters = &RedisMasters::exclusive().await.unwrap();
    let redis = client(&masters.url(), &namespace());
    let session = redis.open_session(TTL).await.unwrap();
    let (kept, entry, token) = hold(&redis, &session, "kept").await;
    for node in [0, 1] {
        masters.pause(node).await.unwrap();
    }
    let (held, _, later) = hold(&redis, &session, "a").await;
    assert!(later > token);
    assert!(is_taken(&redis, &session, "a").await);
    let held = Arc::new(held);
    let renewal = redis.renew(&session, &[Arc::new(kept.clone()), Arc::clone(&held)]).await;
    assert_eq!(renewal.unwrap().lost, []);
    redis.leave(&session, &held, false).await.unwrap();
    masters.pause(2).await.unwrap();
    let refused = redis.renew(&session, &[Arc::new(kept.clone())]).await.unwrap_err();
    assert!(refused.is_retryable(), "the deadline is moved by a majority alone: {refused:#}");
    let refused = redis.enter(&session, &attempt("b", true)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unconfirmed, "{refused:#}");
    for node in [0, 1, 2] {
        masters.unpause(node).await.unwrap();
    }
    masters.wait_healthy().await.unwrap();
    let renewal = redis.renew(&session, &[Arc::new(kept.clone())]).await.unwrap();
    assert_eq!(renewal.lost, []);
    assert!(matches!(redis.look(&session, &kept, &entry).await.unwrap(), Turn::Held { .. }));
    redis.close_session(&session).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_wiped_master_has_no_vote_until_it_counts_above_the_others() {
    let masters: &RedisMasters = &RedisMasters::exclusive().await.unwrap();
    let namespace = namespace();
    let redis = client(&masters.url(), &namespace);
    let short = Duration::from_secs(4);
    let session = redis.open_session(short).await.unwrap();
    let mut highest = 0;
    for _ in 0..10 {
        let (held, _, token) = hold(&redis, &session, "a").await;
        redis.leave(&session, &held, false).await.unwrap();
        highest = token;
    }
    redis.close_session(&session).await.unwrap();
    masters.wipe(0).await.unwrap();
    let node = redis::Client::open(masters.node_url(0)).unwrap();
    let mut node = node.get_multiplexed_async_connection().await.unwrap();
    let mut counter = redis::cmd("HGET");
    counter.arg(format!("{namespace}:node")).arg("counter");
    // It is kept out for the longest time to live first; whoever opens a session asks again.
    let seeded = async {
        loop {
            let session = redis.open_session(short).await.unwrap();
            let (held, _, token) = hold(&redis, &session, "a").await;
            assert!(token > highest, "{token} after {highest}");
            highest = token;
            redis.leave(&session, &held, false).await.unwrap();
            redis.close_session(&session).await.unwrap();
            if let Some(counted) = counter.query_async::<Option<u64>>(&mut node).await.unwrap() {
                return counted;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let seeded = tokio::time::timeout(Duration::from_secs(60), seeded).await;
    let counted = seeded.expect("it is never seeded again");
    assert!(counted >= highest - 1, "{counted} is not above {highest}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn when_a_majority_is_wiped_nothing_is_granted() {
    let masters: &RedisMasters = &RedisMasters::exclusive().await.unwrap();
    let namespace = namespace();
    let redis = client(&masters.url(), &namespace);
    let session = redis.open_session(TTL).await.unwrap();
    hold(&redis, &session, "a").await;
    for node in [0, 1, 2] {
        masters.wipe(node).await.unwrap();
    }
    let refused = client(&masters.url(), &namespace).open_session(TTL).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Regression, "{refused:#}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn what_takes_a_failed_round_back_spares_the_later_one_that_was_granted() {
    let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
    let redis = client(&masters.url(), &namespace());
    let session = redis.open_session(TTL * 5).await.unwrap();
    let attempt = attempt("a", false);
    for node in [1, 2] {
        masters.kill(node).await.unwrap();
    }
    for _ in 0..3 {
        let refused = redis.enter(&session, &attempt).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unconfirmed, "{refused:#}");
    }
    for node in [1, 2] {
        masters.restart(node).await.unwrap();
    }
    masters.wait_healthy().await.unwrap();
    // As the engine does after an error: the same attempt.
    let granted = async {
        loop {
            let entered = redis.enter(&session, &attempt).await;
            if let Ok(Entered::Queued { entry, turn: Turn::Held { .. } }) = entered {
                return entry;
            }
        }
    };
    let entry = tokio::time::timeout(TTL, granted).await.expect("it is never granted");
    // Longer than the pauses of those who undo in the background.
    tokio::time::sleep(session.granted / 8 + Duration::from_secs(2)).await;
    let turn = redis.look(&session, &attempt, &entry).await.unwrap();
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    assert!(is_taken(&redis, &session, "a").await);
    redis.close_session(&session).await.unwrap();
}
