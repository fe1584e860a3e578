//! The suite on a real ensemble of three nodes.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod harness;

portunus_testkit::conformance! {
    #[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
    harness::ZooKeeperHarness::open => [
        exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many, shared,
        permits,
    ]
}
