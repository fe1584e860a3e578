//! The suite on five real masters.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod harness;

portunus_testkit::conformance! {
    #[ignore = "needs a cluster: `cargo xtask test`"]
    harness::RedlockHarness::open => [
        exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many,
    ]
}
