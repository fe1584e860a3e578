//! The proof of that backend.

use outside::Theirs;
use portunus_core::backend::{LockBackend, Session};
use portunus_testkit::{Harness, async_trait, harness};
use std::sync::Arc;
use std::time::Duration;

struct Proof(Theirs);

#[async_trait]
impl Harness for Proof {
    async fn backend(&self) -> Arc<dyn LockBackend> {
        Arc::new(self.0.clone())
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(600)
    }

    async fn end_session(&self, session: &Session) {
        self.0.close_session(session).await.unwrap();
    }

    async fn audit(&self, sessions: &[Session]) -> Vec<String> {
        harness::live(&self.0, sessions).await
    }
}

async fn open() -> Proof {
    Proof(Theirs::default())
}

portunus_testkit::conformance! {
    open => [
        exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many, shared,
        permits,
    ]
}

/// The same store as if it needed a server.
mod on_a_server {
    portunus_testkit::conformance! {
        #[ignore = "needs a server"]
        crate::open => [naming, shared, permits]
    }
}
