//! A lock by its name, in one manager: what every kind of lock asks the engine through.

use std::sync::Arc;

use tracing::Instrument;

use crate::error::{ErrorKind, Result};
use crate::guard::Guard;
use crate::keeper::{Context, Engine, LockState, Request, Wait};
use crate::name::LockName;

#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) engine: Arc<Engine>,
    state: Arc<LockState>,
}

impl Handle {
    pub(crate) fn new(engine: Arc<Engine>, name: LockName) -> Self {
        let state = engine.lock_state(name);
        Self { engine, state }
    }

    pub(crate) fn name(&self) -> &LockName {
        &self.state.name
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.engine.context
    }

    /// Waits for as long as it takes.
    pub(crate) async fn acquire<M>(&self, request: Request) -> Result<Guard<M>> {
        let granted = self.seek(request, Wait::Forever).await?;
        // Only a wait that ends can end without.
        granted.ok_or_else(|| self.context().error(ErrorKind::Protocol, "acquire"))
    }

    pub(crate) async fn seek<M>(&self, request: Request, wait: Wait) -> Result<Option<Guard<M>>> {
        let clock = &self.context().clock;
        let begun = clock.now();
        let span = tracing::debug_span!("acquire", lock = %self.name(), mode = ?request.mode);
        let seek = self.engine.acquire(&self.state, request, wait);
        let Some(hold) = seek.instrument(span.clone()).await? else { return Ok(None) };
        span.in_scope(|| {
            tracing::debug!(token = hold.token, waited = ?clock.now().since(begun), "acquired");
        });
        Ok(Some(Guard::new(hold, Arc::clone(&self.engine), Arc::clone(&self.state))))
    }
}
