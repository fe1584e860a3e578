//! Five masters of which some fail.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Entered, LockBackend, Turn};
use portunus_core::error::ErrorKind;
use portunus_testkit::cluster::RedisMasters;

use super::{attempt, hold, hold_on_all, is_taken, namespace, open};
use crate::harness::{client, raw};

const TTL: Duration = Duration::from_secs(12);

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_minority_may_hang_and_a_majority_may_not() {
    let masters: &RedisMasters = &RedisMasters::exclusive().await.unwrap();
    let namespace = namespace();
    let redis = client(&masters.url(), &namespace);
    let session = open(&redis, 5 * TTL).await;
    let (kept, entry, token) = hold_on_all(masters, &namespace, (&redis, &session), "kept").await;
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
    let short = TTL;
    let session = open(&redis, short).await;
    let mut highest = 0;
    for _ in 0..10 {
        let (held, _, token) = hold(&redis, &session, "a").await;
        redis.leave(&session, &held, false).await.unwrap();
        highest = token;
    }
    redis.close_session(&session).await.unwrap();
    masters.wipe(0).await.unwrap();
    let mut node = raw(masters.node_url(0)).await;
    let mut counter = redis::cmd("HGET");
    counter.arg(format!("{namespace}:node")).arg("counter");
    let mut other = raw(masters.node_url(1)).await;
    let mut epoch = redis::cmd("HGET");
    epoch.arg(format!("{namespace}:node")).arg("epoch");
    let began: u64 = epoch.query_async(&mut other).await.unwrap();
    let wiped = tokio::time::Instant::now();
    // It is kept out for the longest time to live first; whoever opens a session asks again.
    let seeded = async {
        loop {
            let session = open(&redis, short).await;
            let (held, _, token) = hold(&redis, &session, "a").await;
            assert!(token > highest, "{token} after {highest}");
            highest = token;
            redis.leave(&session, &held, false).await.unwrap();
            redis.close_session(&session).await.unwrap();
            let epoch: u64 = epoch.query_async(&mut other).await.unwrap();
            if let Some(counted) = counter.query_async::<Option<u64>>(&mut node).await.unwrap() {
                assert!(epoch > began, "its own rounds are ended");
                return counted;
            }
            // After that a seeding that is broken off ends them, and the next one does so again.
            assert!(epoch == began || wiped.elapsed() > short, "it keeps out and disturbs");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let seeded = tokio::time::timeout(Duration::from_secs(60), seeded).await;
    let counted = seeded.expect("it is never seeded again");
    assert!(counted >= highest - 1, "{counted} is not above {highest}");
    assert!(wiped.elapsed() >= short, "it is back after {:?}", wiped.elapsed());
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn when_a_majority_is_wiped_nothing_is_granted() {
    let masters: &RedisMasters = &RedisMasters::exclusive().await.unwrap();
    let namespace = namespace();
    let redis = client(&masters.url(), &namespace);
    let session = open(&redis, TTL).await;
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
    let session = open(&redis, TTL * 5).await;
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

/// A client that read the masters before another began their life goes on only after that: a master that was
/// wiped in between is seeded above the others, and not begun anew.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn who_read_before_another_began_does_not_begin_on_top() {
    let masters: &RedisMasters = &RedisMasters::exclusive().await.unwrap();
    let namespace = namespace();
    let many = (0..8).map(|_| client(&masters.url(), &namespace));
    let opening = many.map(async |redis| {
        // As the engine does: what is under way elsewhere is tried again.
        loop {
            match redis.open_session(TTL).await {
                Ok(session) => return session.incarnation,
                Err(error) => assert!(error.is_retryable(), "{error:#}"),
            }
        }
    });
    let lives = tokio::time::timeout(TTL * 5, futures_util::future::join_all(opening)).await;
    let lives = lives.expect("they never begin");
    assert!(lives.iter().all(|life| *life == lives[0]), "{lives:?}");
}
