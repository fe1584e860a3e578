//! The suite on one real Valkey, which runs the same scripts.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod harness;

use portunus_core::backend::LockObserver;

/// It tells two.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn the_version_is_its_own_and_not_the_one_of_redis_that_it_is_compatible_with() {
    let harness = harness::RedisHarness::on_valkey().await;
    let version = harness.redis().probe().await.unwrap().version;
    assert!(version.starts_with("8.1"), "{version}");
}

portunus_testkit::conformance! {
    #[ignore = "needs a server: `cargo xtask test`"]
    harness::RedisHarness::on_valkey => [
        exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many,
    ]
}
