//! The suite on one real server.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod harness;

portunus_testkit::conformance! {
    #[ignore = "needs a server: `cargo xtask test`"]
    harness::RedisHarness::open => [
        exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many,
    ]
}
