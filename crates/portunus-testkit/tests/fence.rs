//! The suite for fences on the reference fence, and on wrong ones, which it must find out.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use portunus_fence::{Error, Fence, FencingToken, MemoryFence, Result, SharedToken};
use portunus_testkit::{FenceHarness, async_trait, fence};

portunus_testkit::fence_conformance! { open }

/// One fence for all clients; there is no store apart from it.
struct Memory(MemoryFence);

async fn open() -> Memory {
    Memory(MemoryFence::new())
}

#[async_trait]
impl FenceHarness for Memory {
    async fn fence(&self) -> Arc<dyn Fence> {
        Arc::new(self.0.clone())
    }

    async fn restart(&self) {}
}

/// What is wrong with a fence.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It compares nothing.
    AdmitsAll,
    /// The first read comes before the mark: an old write lands after it.
    OpenRaisesNothing,
    /// A reader shuts writers out.
    SharedRaises,
    /// The numbers alone are compared.
    IgnoresOrigin,
    /// One step looks, another writes.
    ChecksThenWrites,
    /// The mark is not kept with the value.
    ForgetsAtRestart,
    /// The holder's second write is refused.
    RefusesEqual,
    /// Readers are let in whenever they come.
    LetsOldReadersIn,
    /// Whatever a token is worth.
    TakesWeakTokens,
    /// Also after `allow_weak`.
    TakesNoWeakTokens,
}

#[test]
fn each_fault_is_found() {
    use Fault::*;
    use fence::{durability, inputs, races, rule};
    found(AdmitsAll, rule::an_older_token_is_refused_and_writes_nothing);
    found(AdmitsAll, races::ten_thousand_racing_writes_never_go_back);
    found(OpenRaisesNothing, rule::opening_raises_the_mark_before_anything_is_written);
    found(OpenRaisesNothing, races::no_update_is_lost_without_any_lock);
    found(SharedRaises, rule::a_shared_token_reads_and_raises_nothing);
    found(IgnoresOrigin, rule::a_token_of_another_lock_is_refused);
    found(IgnoresOrigin, rule::a_token_of_another_life_of_the_store_is_refused);
    found(ChecksThenWrites, races::ten_thousand_racing_writes_never_go_back);
    found(ForgetsAtRestart, durability::a_mark_outlives_a_restart);
    found(RefusesEqual, rule::an_equal_token_passes_again);
    found(LetsOldReadersIn, rule::a_shared_token_below_the_mark_is_refused);
    found(TakesWeakTokens, inputs::a_weak_token_is_refused_and_changes_nothing);
    found(TakesNoWeakTokens, inputs::a_weak_token_that_is_allowed_is_compared_like_any);
}

fn found(fault: Fault, behaviour: impl AsyncFnOnce(&fence::FenceStage)) {
    let wrong = Wrong { fault, state: Arc::default() };
    let run = || fence::run("a wrong fence", async || wrong, behaviour);
    assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "{fault:?} is not found");
}

/// A fence with a fault; it is its own harness.
#[derive(Clone)]
struct Wrong {
    fault: Fault,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    mark: Option<FencingToken>,
    value: Option<Vec<u8>>,
}

impl Wrong {
    fn trusts(&self, may_fence: bool, is_weak: bool) -> Result<()> {
        let trusted = match self.fault {
            Fault::TakesWeakTokens => true,
            Fault::TakesNoWeakTokens => !is_weak,
            _ => may_fence,
        };
        trusted.then_some(()).ok_or_else(|| {
            Error::new(portunus_fence::ErrorKind::Invalid, "wrong fence", "compare")
                .with_detail("accepted are other tokens, or this one after `allow_weak`")
        })
    }

    fn passes(&self, mark: Option<&FencingToken>, value: u64, token: &FencingToken) -> Result<()> {
        use portunus_fence::ErrorKind::{Conflict, Stale};
        let refuse = |kind| Err(Error::new(kind, "wrong fence", "compare").with_key("a"));
        let Some(mark) = mark else { return Ok(()) };
        match self.fault {
            Fault::AdmitsAll => Ok(()),
            Fault::RefusesEqual if value <= mark.value() => refuse(Stale),
            Fault::IgnoresOrigin if value >= mark.value() => Ok(()),
            _ if mark.origin() != token.origin() => refuse(Conflict),
            _ if value < mark.value() => Err(Error::new(Stale, "wrong fence", "compare")
                .with_key("a")
                .with_detail(format!("the token {value} is below the mark {}", mark.value()))),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Fence for Wrong {
    async fn open(&self, _: &str, token: &FencingToken) -> Result<Option<Vec<u8>>> {
        self.trusts(token.may_fence(), token.is_weak())?;
        let mut state = self.state.lock().unwrap();
        self.passes(state.mark.as_ref(), token.value(), token)?;
        if !matches!(self.fault, Fault::OpenRaisesNothing) {
            state.mark = Some(token.clone());
        }
        Ok(state.value.clone())
    }

    async fn admit(&self, _: &str, token: &FencingToken, value: &[u8]) -> Result<()> {
        self.trusts(token.may_fence(), token.is_weak())?;
        let seen = self.state.lock().unwrap().mark.clone();
        self.passes(seen.as_ref(), token.value(), token)?;
        if matches!(self.fault, Fault::ChecksThenWrites) {
            tokio::task::yield_now().await;
        }
        let mut state = self.state.lock().unwrap();
        if !matches!(self.fault, Fault::ChecksThenWrites) {
            self.passes(state.mark.as_ref(), token.value(), token)?;
        }
        *state = State { mark: Some(token.clone()), value: Some(value.to_vec()) };
        Ok(())
    }

    async fn check(&self, _: &str, shared: &SharedToken) -> Result<Option<Vec<u8>>> {
        self.trusts(shared.may_fence(), shared.is_weak())?;
        let token = FencingToken::new(shared.value(), shared.origin().clone());
        let mut state = self.state.lock().unwrap();
        if !matches!(self.fault, Fault::LetsOldReadersIn) {
            self.passes(state.mark.as_ref(), shared.value(), &token)?;
        }
        if matches!(self.fault, Fault::SharedRaises) {
            state.mark = Some(token);
        }
        Ok(state.value.clone())
    }

    async fn mark(&self, _: &str) -> Result<Option<FencingToken>> {
        Ok(self.state.lock().unwrap().mark.clone())
    }
}

#[async_trait]
impl FenceHarness for Wrong {
    async fn fence(&self) -> Arc<dyn Fence> {
        Arc::new(self.clone())
    }

    async fn restart(&self) {
        if matches!(self.fault, Fault::ForgetsAtRestart) {
            self.state.lock().unwrap().mark = None;
        }
    }
}
