//! A master that is found by Sentinels, or in a cluster: the suite, and what becomes of locks when
//! another server takes over.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod group;
mod guides;
#[path = "../harness/mod.rs"]
mod harness;
mod slots;
mod stories;

mod sentinel {
    portunus_testkit::conformance! {
        #[ignore = "needs a cluster: `cargo xtask test`"]
        crate::group::GroupHarness::sentinels => [
            exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many,
        ]
    }
}

mod cluster {
    portunus_testkit::conformance! {
        #[ignore = "needs a cluster: `cargo xtask test`"]
        crate::group::GroupHarness::cluster => [
            exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many,
        ]
    }
}
