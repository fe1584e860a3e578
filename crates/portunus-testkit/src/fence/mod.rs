//! The conformance suite for fences: what each must do, one behaviour a test.
//!
//! [`fence_conformance!`](crate::fence_conformance!) makes the tests; the functions here say what
//! they test.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test fails by a panic")]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use portunus_fence::Fence;

mod stage;

pub mod durability;
pub mod inputs;
pub mod races;
pub mod rule;

pub use self::stage::FenceStage;

/// One fence for one test, and the one thing that only its author can do to it.
///
/// Each test opens a harness of its own, whose resources no other test uses. A harness that has to
/// fail (no server, say) panics with the reason.
#[async_trait]
pub trait FenceHarness: Send + Sync {
    /// Makes a new client of the same marks, which shares nothing with those before but the store.
    async fn fence(&self) -> Arc<dyn Fence>;

    /// Ends whatever keeps the marks, and starts it again with what it had made durable. Clients from
    /// before need not work any more. Where marks live as long as the process there is nothing to do.
    async fn restart(&self);
}

/// Makes one `#[test]` for each behaviour that a fence must show, in a module for each group.
///
/// `open` is a function without arguments that returns a future of a [`FenceHarness`]; attributes
/// before it are put on every test.
///
/// ```
/// # async fn open() -> MyHarness { unreachable!() }
/// # struct MyHarness;
/// # #[portunus_testkit::async_trait]
/// # impl portunus_testkit::FenceHarness for MyHarness {
/// #     async fn fence(&self) -> std::sync::Arc<dyn portunus_fence::Fence> { unreachable!() }
/// #     async fn restart(&self) {}
/// # }
/// portunus_testkit::fence_conformance! {
///     #[ignore = "needs a server"]
///     open
/// }
/// ```
#[macro_export]
macro_rules! fence_conformance {
    ($(#[$attribute:meta])* $open:path) => {
        $crate::__fence_group! { [$(#[$attribute])*] $open; rule:
            a_first_token_is_admitted
            an_older_token_is_refused_and_writes_nothing
            an_equal_token_passes_again
            opening_raises_the_mark_before_anything_is_written
            opening_returns_what_was_written_last
            a_refused_open_raises_nothing
            a_shared_token_reads_and_raises_nothing
            a_shared_token_below_the_mark_is_refused
            a_token_of_another_lock_is_refused
            a_token_of_another_life_of_the_store_is_refused
            each_resource_has_a_mark_of_its_own
        }
        $crate::__fence_group! { [$(#[$attribute])*] $open; inputs:
            names_are_told_apart_byte_by_byte
            a_name_out_of_range_is_refused
            the_token_zero_is_refused
            a_weak_token_is_refused_and_changes_nothing
            a_weak_token_that_is_allowed_is_compared_like_any
            tokens_of_any_size_are_ordered
            values_come_back_as_they_were
            a_value_that_is_too_long_is_refused
        }
        $crate::__fence_group! { [$(#[$attribute])*] $open; races:
            ten_thousand_racing_writes_never_go_back
            no_update_is_lost_without_any_lock
        }
        $crate::__fence_group! { [$(#[$attribute])*] $open; durability:
            a_mark_outlives_a_restart
            a_dropped_write_lands_before_the_next_open_or_never
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __fence_group {
    ($attributes:tt $open:path; $group:ident: $($behaviour:ident)+) => {
        mod $group {
            #[allow(unused_imports, reason = "the opener may be named by its whole path")]
            use super::*;
            $($crate::__fence_test! { $attributes $open; $group $behaviour })+
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __fence_test {
    ([$(#[$attribute:meta])*] $open:path; $group:ident $behaviour:ident) => {
        #[test]
        $(#[$attribute])*
        fn $behaviour() {
            $crate::fence::run(
                concat!(stringify!($group), "::", stringify!($behaviour)),
                $open,
                $crate::fence::$group::$behaviour,
            );
        }
    };
}

/// Runs one behaviour on a runtime of its own, bounded in time as a whole.
///
/// # Panics
///
/// Panics when the behaviour is not there, or is not shown in time.
pub fn run<H: FenceHarness + 'static, F: Future<Output = H>>(
    name: &str,
    open: impl FnOnce() -> F,
    behaviour: impl AsyncFnOnce(&FenceStage),
) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(async {
        tokio::time::timeout(LIMIT, async {
            behaviour(&FenceStage::new(open().await).await).await;
        })
        .await
    });
    // What a failed test left running must not keep it from being told.
    runtime.shutdown_background();
    assert!(done.is_ok(), "{name} was not done within {LIMIT:?}");
}

/// How long one behaviour may take: many times what the slowest does.
const LIMIT: Duration = Duration::from_secs(240);

#[cfg(test)]
mod tests {
    /// The list in the macro is the functions of the modules.
    #[test]
    fn no_behaviour_is_forgotten() {
        let listed = include_str!("mod.rs");
        for source in [
            include_str!("durability.rs"),
            include_str!("inputs.rs"),
            include_str!("races.rs"),
            include_str!("rule.rs"),
        ] {
            let mut behaviours = source
                .lines()
                .filter_map(|line| line.strip_prefix("pub async fn ")?.split('(').next());
            let forgotten = behaviours.find(|name| !listed.contains(&format!(" {name}\n")));
            assert_eq!(forgotten, None);
        }
    }
}
