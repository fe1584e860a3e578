//! Servers whose wall clock is stepped: what the README says of it, and no more.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{LockBackend, Session};
use portunus_core::error::ErrorKind;
use portunus_redis::Redis;
use portunus_testkit::cluster::RedisMasters;

use super::{hold, hold_on_all, is_taken, namespace, open};
use crate::harness::client;

const TTL: Duration = Duration::from_secs(60);
/// Seconds, beyond any time to live here.
const STEP: i64 = 3_600;

async fn masters<const N: usize>() -> RedisMasters<N> {
    RedisMasters::builder().movable_clock().start().await.unwrap()
}

/// Two clients of the same servers, each with a session.
async fn two<const N: usize>(masters: &RedisMasters<N>) -> [(Redis, Session); 2] {
    two_in(masters, &namespace()).await
}

async fn two_in<const N: usize>(
    masters: &RedisMasters<N>,
    namespace: &str,
) -> [(Redis, Session); 2] {
    let one = client(&masters.url(), namespace);
    let other = client(&masters.url(), namespace);
    let first = open(&one, TTL).await;
    let second = open(&other, TTL).await;
    [(one, first), (other, second)]
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn one_server_that_is_set_forward_ends_the_lock_and_the_holder_is_told() {
    let server = masters::<1>().await;
    let [(one, first), (other, _)] = two(&server).await;
    let (held, _, token) = hold(&one, &first, "a").await;
    server.step_clock(0, STEP).await.unwrap();
    let lost = one.renew(&first, &[Arc::new(held)]).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Lost, "{lost:#}");
    let second = open(&other, TTL).await;
    let (_, _, later) = hold(&other, &second, "a").await;
    assert!(later > token, "{later} after {token}");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn one_server_that_is_set_back_frees_nothing_early() {
    let server = masters::<1>().await;
    let [(one, first), (other, second)] = two(&server).await;
    let (held, ..) = hold(&one, &first, "a").await;
    server.step_clock(0, -STEP).await.unwrap();
    assert!(is_taken(&other, &second, "a").await);
    let held = Arc::new(held);
    assert_eq!(one.renew(&first, &[Arc::clone(&held)]).await.unwrap().lost, []);
    assert!(is_taken(&other, &second, "a").await);
    one.leave(&first, &held, false).await.unwrap();
    assert!(!is_taken(&other, &second, "a").await);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_minority_that_is_set_forward_frees_nothing_and_of_a_majority_the_holder_is_told() {
    let masters = masters::<5>().await;
    let namespace = namespace();
    let [(one, first), (other, _)] = two_in(&masters, &namespace).await;
    let (held, _, token) = hold_on_all(&masters, &namespace, (&one, &first), "a").await;
    let held = Arc::new(held);
    for node in [0, 1] {
        masters.step_clock(node, STEP).await.unwrap();
    }
    // A session that begins now stands on all five, and finds the lock free on two.
    let second = open(&other, TTL).await;
    assert!(is_taken(&other, &second, "a").await);
    assert_eq!(one.renew(&first, &[Arc::clone(&held)]).await.unwrap().lost, []);
    assert!(is_taken(&other, &second, "a").await);
    // With the third of five two believe, until the first hears of it: the tokens are in order.
    masters.step_clock(2, STEP).await.unwrap();
    let third = open(&other, TTL).await;
    let (_, _, later) = hold(&other, &third, "a").await;
    assert!(later > token, "{later} after {token}");
    // Its session is back on the first two by now, or not: the loss is told either way.
    match one.renew(&first, &[Arc::clone(&held)]).await {
        Ok(renewal) => assert_eq!(renewal.lost, [held.id]),
        Err(lost) => assert_eq!(lost.kind(), ErrorKind::Lost, "{lost:#}"),
    }
}
