//! The conformance suite: what every backend must do, one behaviour a test.
//!
//! [`conformance!`](crate::conformance!) makes the tests; the functions here say what they test.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test fails by a panic")]

use std::future::Future;
use std::time::Duration;

use portunus_core::backend::Capabilities;

mod crowd;
mod stage;
mod wait;

pub mod cancellation;
pub mod election;
pub mod exclusion;
pub mod expiry;
pub mod fencing;
pub mod many;
pub mod naming;
pub mod observing;
pub mod permits;
pub mod queue;
pub mod shared;

pub use self::stage::Stage;
use crate::harness::Harness;

/// One group of behaviours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Group {
    /// Its name in [`conformance!`](crate::conformance!), and that of its module here.
    pub name: &'static str,
    /// The behaviours: functions of the module, and names of the tests.
    pub behaviours: &'static [&'static str],
}

/// All groups. Every backend runs every one of them, `shared` and `permits` if its `Capabilities`
/// claim them, and only then.
pub const GROUPS: &[Group] = &[
    Group { name: "cancellation", behaviours: crate::__cancellation!([crate::__names]) },
    Group { name: "election", behaviours: crate::__election!([crate::__names]) },
    Group { name: "exclusion", behaviours: crate::__exclusion!([crate::__names]) },
    Group { name: "expiry", behaviours: crate::__expiry!([crate::__names]) },
    Group { name: "fencing", behaviours: crate::__fencing!([crate::__names]) },
    Group { name: "many", behaviours: crate::__many!([crate::__names]) },
    Group { name: "naming", behaviours: crate::__naming!([crate::__names]) },
    Group { name: "observing", behaviours: crate::__observing!([crate::__names]) },
    Group { name: "permits", behaviours: crate::__permits!([crate::__names]) },
    Group { name: "queue", behaviours: crate::__queue!([crate::__names]) },
    Group { name: "shared", behaviours: crate::__shared!([crate::__names]) },
];

/// Makes one `#[test]` for each behaviour of the listed groups, in a module for each group.
///
/// `open` is a function without arguments that returns a future of a [`Harness`]; attributes before
/// it are put on every test. One test more, in the module `groups`, fails when the list does not fit
/// what the store claims.
///
/// ```
/// # async fn open() -> MyHarness { unreachable!() }
/// # struct MyHarness;
/// # #[portunus_testkit::async_trait]
/// # impl portunus_testkit::Harness for MyHarness {
/// #     async fn backend(&self) -> std::sync::Arc<dyn portunus_core::backend::LockBackend> { unreachable!() }
/// #     fn ttl(&self) -> std::time::Duration { unreachable!() }
/// #     async fn end_session(&self, _: &portunus_core::backend::Session) {}
/// #     async fn audit(&self, _: &[portunus_core::backend::Session]) -> Vec<String> { Vec::new() }
/// # }
/// portunus_testkit::conformance! {
///     #[ignore = "needs a server"]
///     open => [
///         exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many,
///         shared, permits,
///     ]
/// }
/// ```
#[macro_export]
macro_rules! conformance {
    ($(#[$attribute:meta])* $open:path => [$($group:ident),+ $(,)?]) => {
        $crate::__groups! { [$(#[$attribute])*] $open; $($group)+ }

        mod groups {
            #[allow(unused_imports, reason = "the opener may be named by its whole path")]
            use super::*;

            #[test]
            $(#[$attribute])*
            fn are_those_that_the_store_claims() {
                $crate::conformance::run(
                    "groups::are_those_that_the_store_claims",
                    $open,
                    async |stage: &$crate::conformance::Stage| {
                        $crate::conformance::claims_are_run(stage, &[$(stringify!($group)),+]);
                    },
                );
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __groups {
    ($attributes:tt $open:path; $($group:ident)+) => {
        $($crate::__group! { $group $attributes $open })+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __group {
    (cancellation $($rest:tt)*) => { $crate::__cancellation! { [$crate::__tests] $($rest)* } };
    (election $($rest:tt)*) => { $crate::__election! { [$crate::__tests] $($rest)* } };
    (exclusion $($rest:tt)*) => { $crate::__exclusion! { [$crate::__tests] $($rest)* } };
    (expiry $($rest:tt)*) => { $crate::__expiry! { [$crate::__tests] $($rest)* } };
    (fencing $($rest:tt)*) => { $crate::__fencing! { [$crate::__tests] $($rest)* } };
    (many $($rest:tt)*) => { $crate::__many! { [$crate::__tests] $($rest)* } };
    (naming $($rest:tt)*) => { $crate::__naming! { [$crate::__tests] $($rest)* } };
    (observing $($rest:tt)*) => { $crate::__observing! { [$crate::__tests] $($rest)* } };
    (permits $($rest:tt)*) => { $crate::__permits! { [$crate::__tests] $($rest)* } };
    (queue $($rest:tt)*) => { $crate::__queue! { [$crate::__tests] $($rest)* } };
    (shared $($rest:tt)*) => { $crate::__shared! { [$crate::__tests] $($rest)* } };
    ($unknown:ident $($rest:tt)*) => {
        compile_error!(concat!(
            "unknown group `", stringify!($unknown), "`; known are: ",
            "cancellation, election, exclusion, expiry, fencing, many, naming, observing, permits, ",
            "queue, shared",
        ));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ($attributes:tt $open:path; $group:ident: $($behaviour:ident)+) => {
        mod $group {
            #[allow(unused_imports, reason = "the opener may be named by its whole path")]
            use super::*;
            $($crate::__test! { $attributes $open; $group $behaviour })+
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __test {
    ([$(#[$attribute:meta])*] $open:path; $group:ident $behaviour:ident) => {
        #[test]
        $(#[$attribute])*
        fn $behaviour() {
            $crate::conformance::run(
                concat!(stringify!($group), "::", stringify!($behaviour)),
                $open,
                $crate::conformance::$group::$behaviour,
            );
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __names {
    (; $group:ident: $($behaviour:ident)+) => { &[$(stringify!($behaviour)),+] };
}

/// Runs one behaviour on a runtime of its own, then the leak audit; bounded in time as a whole.
///
/// # Panics
///
/// Panics when the behaviour is not there, is not shown in time, or leaves something in the store.
pub fn run<H: Harness + 'static, F: Future<Output = H>>(
    name: &str,
    open: impl FnOnce() -> F,
    behaviour: impl AsyncFnOnce(&Stage),
) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(async {
        tokio::time::timeout(LIMIT, async {
            let stage = Stage::new(open().await).await;
            behaviour(&stage).await;
            stage.audit().await;
        })
        .await
    });
    // What a failed test left running must not keep it from being told.
    runtime.shutdown_background();
    assert!(done.is_ok(), "{name} was not done within {LIMIT:?}");
}

/// Fails unless `groups` are exactly those that the store has to run: `shared` and `permits` if it
/// claims such locks, and all the others.
///
/// # Panics
///
/// Panics when a group is missing, or is run and not claimed.
pub fn claims_are_run(stage: &Stage, groups: &[&str]) {
    let capabilities = stage.capabilities();
    let wrong = wrong(&capabilities, groups);
    assert!(wrong.is_empty(), "{}: run and claimed differ for {wrong:?}", capabilities.store);
}

/// The groups that are missing from a list, or should not be on it.
fn wrong(capabilities: &Capabilities, groups: &[&str]) -> Vec<&'static str> {
    let claimed = |group| match group {
        "shared" => capabilities.shared,
        "permits" => capabilities.permits,
        _ => true,
    };
    let names = GROUPS.iter().map(|group| group.name);
    names.filter(|name| groups.contains(name) != claimed(name)).collect()
}

/// How long one behaviour may take: many times what the slowest does.
const LIMIT: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use portunus_core::backend::{Capabilities, LockBackend};
    use portunus_core::memory::Memory;

    use super::{GROUPS, wrong};

    #[test]
    fn each_group_that_is_missing_or_not_claimed_is_found() {
        let all: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
        let claims_all = Memory::new().capabilities();
        assert_eq!(wrong(&claims_all, &all), [""; 0]);
        for missing in &all {
            let rest: Vec<_> = all.iter().copied().filter(|group| group != missing).collect();
            assert_eq!(wrong(&claims_all, &rest), [*missing]);
        }
        let neither = Capabilities { shared: false, permits: false, ..claims_all };
        assert_eq!(wrong(&neither, &all), ["permits", "shared"]);
    }

    #[test]
    fn no_behaviour_is_forgotten() {
        let sources = [
            ("cancellation", include_str!("cancellation.rs")),
            ("election", include_str!("election.rs")),
            ("exclusion", include_str!("exclusion.rs")),
            ("expiry", include_str!("expiry.rs")),
            ("fencing", include_str!("fencing.rs")),
            ("many", include_str!("many.rs")),
            ("naming", include_str!("naming.rs")),
            ("observing", include_str!("observing.rs")),
            ("permits", include_str!("permits.rs")),
            ("queue", include_str!("queue.rs")),
            ("shared", include_str!("shared.rs")),
        ];
        assert_eq!(GROUPS.len(), sources.len());
        for (group, (name, source)) in GROUPS.iter().zip(sources) {
            let written: Vec<_> = source
                .lines()
                .filter_map(|line| line.strip_prefix("pub async fn ")?.split('(').next())
                .collect();
            assert_eq!((group.name, group.behaviours), (name, &*written));
        }
    }
}
