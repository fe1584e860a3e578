//! The suite on the memory store.

use async_trait::async_trait;
use portunus_core::backend::{LockBackend, Session};
use portunus_core::memory::Memory;
use portunus_testkit::harness::{Harness, live};
use std::sync::Arc;
use std::time::Duration;

struct MemoryHarness(Memory);

#[async_trait]
impl Harness for MemoryHarness {
    async fn backend(&self) -> Arc<dyn LockBackend> {
        Arc::new(self.0.clone())
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(600)
    }

    async fn end_session(&self, session: &Session) {
        self.0.close_session(session).await.expect("it always answers");
    }

    async fn audit(&self, sessions: &[Session]) -> Vec<String> {
        live(&self.0, sessions).await
    }
}

async fn open() -> MemoryHarness {
    MemoryHarness(Memory::new())
}

portunus_testkit::conformance! {
    open => [
        exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many, shared,
        permits,
    ]
}
