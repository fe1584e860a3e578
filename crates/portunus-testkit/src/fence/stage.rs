//! What a behaviour works with: clients of one fence, and tokens.

use std::sync::Arc;

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::token::{FencingToken, Incarnation, Origin, SharedToken};
use portunus_fence::Fence;

use super::FenceHarness;

/// The fence under test.
pub struct FenceStage {
    harness: Box<dyn FenceHarness>,
    fence: Arc<dyn Fence>,
}

impl FenceStage {
    pub(super) async fn new(harness: impl FenceHarness + 'static) -> Self {
        let fence = harness.fence().await;
        Self { harness: Box::new(harness), fence }
    }

    /// Another client.
    pub async fn client(&self) -> Arc<dyn Fence> {
        self.harness.fence().await
    }

    /// Ends what keeps the marks, starts it again, and returns a client.
    pub async fn restarted(&self) -> Arc<dyn Fence> {
        self.harness.restart().await;
        self.harness.fence().await
    }

    /// The client, for what only its own words say.
    pub(super) fn fence(&self) -> &dyn Fence {
        &*self.fence
    }

    pub(super) async fn mark(&self, resource: &str) -> Result<Option<FencingToken>> {
        self.fence.mark(resource).await
    }

    pub(super) async fn admit(&self, resource: &str, value: u64, text: &str) -> Result<()> {
        self.fence.admit(resource, &token(value), text.as_bytes()).await
    }

    pub(super) async fn open(&self, resource: &str, value: u64) -> Result<Option<String>> {
        self.fence.open(resource, &token(value)).await.map(text)
    }

    pub(super) async fn check(&self, resource: &str, value: u64) -> Result<Option<String>> {
        self.fence.check(resource, &shared(value)).await.map(text)
    }

    /// Fails unless the mark and the value are these.
    pub(super) async fn is(&self, resource: &str, mark: u64, value: Option<&str>) {
        assert_eq!(self.fence.mark(resource).await.unwrap(), Some(token(mark)));
        let read = self.open(resource, mark).await.unwrap();
        assert_eq!(read.as_deref(), value);
    }
}

impl std::fmt::Debug for FenceStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FenceStage").finish_non_exhaustive()
    }
}

/// A token of the lock that guards the resource.
pub(super) fn token(value: u64) -> FencingToken {
    token_of(value, LIFE, LOCK)
}

/// A token of any origin.
pub(super) fn token_of(value: u64, life: &str, lock: &str) -> FencingToken {
    let origin = Origin::new(Incarnation::new(life).unwrap(), LockName::new(lock).unwrap());
    FencingToken::new(value, origin)
}

/// The same of a store whose tokens may go back.
pub(super) fn weak(value: u64) -> FencingToken {
    FencingToken::new_weak(value, token(value).origin().clone())
}

/// The same as a shared grant has it.
pub(super) fn shared(value: u64) -> SharedToken {
    shared_of(&token(value))
}

pub(super) fn shared_of(token: &FencingToken) -> SharedToken {
    format!("{token};shared").parse().unwrap()
}

pub(super) fn text(value: Option<Vec<u8>>) -> Option<String> {
    value.map(|value| String::from_utf8(value).unwrap())
}

/// Fails unless it was refused like this.
#[track_caller]
pub(super) fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) -> Error {
    let error = result.expect_err("it is refused");
    assert_eq!(error.kind(), kind, "{error:#}");
    error
}

pub(super) const LIFE: &str = "life";
pub(super) const LOCK: &str = "stock";
