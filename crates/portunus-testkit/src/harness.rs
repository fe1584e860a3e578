//! What the author of a backend gives to the suite.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use portunus_core::backend::{Attempt, AttemptId, Holder, LockBackend, Mode, Session};
use portunus_core::name::LockName;

/// One store for one test, and the two things that only its author can do to it.
///
/// Each test opens a harness of its own, in a namespace that is its alone where the store has
/// such. A harness that has to fail (no server, say) panics with the reason.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Makes a new client of the store, which shares nothing with those before but the store.
    async fn backend(&self) -> Arc<dyn LockBackend>;

    /// The shortest time to live that the store grants and that this machine can keep up: tests
    /// that wait for an expiry take a few of them.
    fn ttl(&self) -> Duration;

    /// Ends a session in the store itself, as an operator would, behind the back of its client.
    async fn end_session(&self, session: &Session);

    /// Makes the store hear no more of a session to which no request is sent any more, as if its
    /// process had died; it still expires in its own time. Only for stores whose client library
    /// keeps a session alive by itself.
    async fn silence(&self, _session: &Session) {}

    /// Lists what is left in the store of this harness's namespace and of these sessions, each as a
    /// line for people; empty when it is clean. Asked again until it is, for as long as things may
    /// take to expire by themselves, so it must not extend their life.
    async fn audit(&self, sessions: &[Session]) -> Vec<String>;
}

/// Returns those of `sessions` that still live, for a [`Harness::audit`] whose store has no better
/// way to tell: by a try for a lock of their own, which renews nothing and is withdrawn at once.
///
/// # Panics
///
/// Panics when an entry that was made can't be withdrawn.
pub async fn live(backend: &dyn LockBackend, sessions: &[Session]) -> Vec<String> {
    let mut live = Vec::new();
    for session in sessions {
        let name = LockName::new(format!("portunus-audit-{}", session.id)).expect("BUG: the name");
        let attempt = attempt(&name, true);
        if backend.enter(session, &attempt).await.is_ok() {
            backend.leave(session, &attempt, false).await.expect("the audit's entry stays");
            live.push(format!("session {}", session.id));
        }
    }
    live
}

/// An attempt of its own at an exclusive lock.
pub(crate) fn attempt(name: &LockName, try_only: bool) -> Attempt {
    attempt_as(name, Mode::Exclusive, try_only)
}

/// An attempt of its own.
pub(crate) fn attempt_as(name: &LockName, mode: Mode, try_only: bool) -> Attempt {
    Attempt {
        id: AttemptId(rand::random()),
        name: name.clone(),
        mode,
        try_only,
        value: String::new(),
        holder: Arc::new(Holder {
            host: "testkit".into(),
            pid: std::process::id(),
            app: "".into(),
        }),
    }
}
