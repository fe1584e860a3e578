//! Marks in this process: for resources that live in its memory, and for tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use portunus_core::error::Result;
use portunus_core::token::{FencingToken, SharedToken};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::call::{Call, mark_of};
use crate::fence::Fence;

/// A fence in the memory of this process; clones share it.
///
/// For resources that live there, too: both are gone with the process. A mark stays for as long as
/// the fence, so the resources should be of a bounded number.
#[derive(Clone, Debug, Default)]
pub struct MemoryFence(Arc<Mutex<HashMap<String, Resource>>>);

/// A resource that is held open: nothing else passes until this is dropped.
#[derive(Debug)]
#[must_use = "the resource is open until this is dropped"]
pub struct Open(OwnedRwLockWriteGuard<State>);

impl MemoryFence {
    /// Makes a fence without marks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the mark, and lets nothing else at the resource until what it returns is dropped: for an
    /// effect in memory that takes more than one step.
    ///
    /// # Errors
    ///
    /// As [`Fence::open`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn hold(&self, resource: &str, token: &FencingToken) -> Result<Open> {
        self.enter(Call::new(FENCE, "hold", resource)?, token).await
    }

    pub(crate) async fn hold_shared(
        &self,
        resource: &str,
        token: &SharedToken,
    ) -> Result<OwnedRwLockReadGuard<State>> {
        let call = Call::new(FENCE, "check", resource)?;
        call.shared(token, u64::MAX)?;
        let state = self.resource(&call).read_owned().await;
        call.pass_shared(state.mark.as_ref(), token)?;
        Ok(state)
    }

    async fn enter(&self, call: Call, token: &FencingToken) -> Result<Open> {
        call.exclusive(token, u64::MAX)?;
        let mut state = self.resource(&call).write_owned().await;
        call.pass(state.mark.as_ref(), token)?;
        state.mark = Some(mark_of(token));
        Ok(Open(state))
    }

    fn resource(&self, call: &Call) -> Resource {
        let mut resources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(resources.entry(call.resource().as_str().to_owned()).or_default())
    }
}

impl Open {
    /// Returns the value.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.0.value.as_deref()
    }

    /// Sets the value, of any length.
    pub fn set(&mut self, value: impl Into<Vec<u8>>) {
        self.0.value = Some(value.into());
    }
}

#[async_trait]
impl Fence for MemoryFence {
    async fn open(&self, resource: &str, token: &FencingToken) -> Result<Option<Vec<u8>>> {
        let open = self.enter(Call::new(FENCE, "open", resource)?, token).await?;
        Ok(open.0.value.clone())
    }

    async fn admit(&self, resource: &str, token: &FencingToken, value: &[u8]) -> Result<()> {
        let call = Call::new(FENCE, "admit", resource)?;
        call.value(value)?;
        self.enter(call, token).await?.set(value);
        Ok(())
    }

    async fn check(&self, resource: &str, token: &SharedToken) -> Result<Option<Vec<u8>>> {
        Ok(self.hold_shared(resource, token).await?.value.clone())
    }

    async fn mark(&self, resource: &str) -> Result<Option<FencingToken>> {
        let call = Call::new(FENCE, "mark", resource)?;
        Ok(self.resource(&call).read_owned().await.mark.clone())
    }
}

type Resource = Arc<RwLock<State>>;

#[derive(Debug, Default)]
pub(crate) struct State {
    mark: Option<FencingToken>,
    value: Option<Vec<u8>>,
}

const FENCE: &str = "memory fence";
