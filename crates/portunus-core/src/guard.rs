//! The guard: a held lock as a value, with its token, its loss signal and its release.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::backend::Left;
use crate::error::{ErrorKind, Result};
use crate::keeper::{BusyMark, Engine, Hold, LockState, Withdrawn};
pub use crate::loss::LossReason;
use crate::name::LockName;
use crate::token::{FencingToken, Origin};

/// A held lock. Ownership is this value: not a thread, not a task, not a session.
///
/// The engine renews the lease in the background. A guard is strong evidence, not proof: a process
/// that is stopped for longer than the lease may still hold a guard after the lock went to another.
/// Send [`token`](Self::token) with every write to the thing you protect, and watch
/// [`lost`](Self::lost). Lost means lost: nothing is acquired again behind your back.
///
/// Dropping it releases the lock in the background, from any thread, and never blocks or panics;
/// [`release`](Self::release) does the same and says how it ended.
#[must_use = "if unused, the lock is released at once"]
#[clippy::has_significant_drop]
pub struct Guard {
    hold: Arc<Hold>,
    engine: Arc<Engine>,
    lock: Arc<LockState>,
    span: Span,
    _busy: BusyMark,
}

/// What is known of a guard, without I/O.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Held, and the last renewal was confirmed.
    Held,
    /// Held still, but renewals are failing: start nothing new.
    Suspended,
    /// Not held any more.
    Lost(LossReason),
}

/// How a release ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Released {
    /// The lock was held until this release, which the store confirmed.
    Clean,
    /// The lock had been lost before; another may have held it meanwhile.
    AlreadyLost(LossReason),
}

/// How a future under [`Guard::run`] ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ran<T> {
    /// It finished while the lock was held.
    Finished(T),
    /// It finished, but the lock was lost meanwhile: another may have run beside it.
    FinishedAfterLoss(T, LossReason),
    /// The lock was lost first, and the future was dropped where it stood.
    Lost(LossReason),
}

impl Guard {
    pub(crate) fn new(hold: Arc<Hold>, engine: Arc<Engine>, lock: Arc<LockState>) -> Self {
        let counters = &engine.context.counters;
        counters.held.fetch_add(1, Ordering::Relaxed);
        counters.acquired.fetch_add(1, Ordering::Relaxed);
        let span = tracing::debug_span!("hold", lock = %lock.name, token = hold.token);
        let busy = engine.context.busy.mark();
        Self { hold, engine, lock, span, _busy: busy }
    }

    /// Returns the name of the lock.
    #[must_use]
    pub fn name(&self) -> &LockName {
        &self.lock.name
    }

    /// Returns the fencing token: larger than that of every earlier grant of this lock. Fixed at
    /// the grant; the resource compares it with the highest that it has seen.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        let incarnation = self.hold.session().session.incarnation.clone();
        FencingToken::new(self.hold.token, Origin::new(incarnation, self.lock.name.clone()))
    }

    /// Whether the lock is held now, without I/O. Once `false`, `false` for ever, also when every
    /// executor thread is blocked.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.hold.loss().is_none()
    }

    /// How long the lock stays held if no renewal succeeds any more; zero once it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let now = self.engine.context.clock.now();
        match self.hold.deadline() {
            Some(deadline) if self.is_held() => deadline.since(now),
            _ => Duration::ZERO,
        }
    }

    /// Returns what is known of the lock now, without I/O.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.hold.loss() {
            Some(reason) => Status::Lost(reason),
            None if self.hold.session().is_suspended() => Status::Suspended,
            None => Status::Held,
        }
    }

    /// Completes when the lock is lost, at the latest at its deadline. Never for a release.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn lost(&self) -> LossReason {
        self.hold.signal().cancelled().await;
        self.hold.loss().unwrap_or(LossReason::Expired)
    }

    /// Returns a token that is cancelled when the lock is lost; never by a release.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.hold.signal().child_token()
    }

    /// Runs `future` while the lock is held, and drops it where it stands when the lock is lost.
    ///
    /// A future that blocks its thread can't be dropped in time; the result tells, and the fencing
    /// token protects the resource meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops `future`; the guard is as before.
    pub async fn run<F: Future>(&self, future: F) -> Ran<F::Output> {
        if let Some(reason) = self.hold.loss() {
            return Ran::Lost(reason);
        }
        tokio::select! {
            biased;
            reason = self.lost() => Ran::Lost(reason),
            output = future => match self.hold.loss() {
                None => Ran::Finished(output),
                Some(reason) => Ran::FinishedAfterLoss(output, reason),
            },
        }
    }

    /// Releases the lock and says how that ended. Other grants of the lock are never touched.
    ///
    /// # Errors
    ///
    /// In each case the lock is not held any more. Its entry goes in the background, at the latest
    /// with the session's time to live, and others wait until then.
    ///
    /// - [`ErrorKind::Unconfirmed`]: the store did not confirm it while the session lived.
    /// - [`ErrorKind::Denied`], rarely another kind: the store refuses it. It is tried again all the
    ///   same.
    ///
    /// # Cancel safety
    ///
    /// The release goes on in the background. Only the answer is lost.
    pub async fn release(self) -> Result<Released> {
        let span = tracing::debug_span!(parent: &self.span, "release");
        if let Some(reason) = self.hold.loss() {
            return Ok(Released::AlreadyLost(reason));
        }
        let Some(withdrawal) = self.hold.end() else {
            return Ok(Released::AlreadyLost(self.hold.loss().unwrap_or(LossReason::Expired)));
        };
        let session = Arc::clone(self.hold.session());
        let withdrawn = tokio::select! {
            biased;
            withdrawn = withdrawal => withdrawn,
            () = session.ended() => None,
            Some(error) = session.refused(self.hold.attempt().id) => return Err(error),
        };
        span.in_scope(|| tracing::debug!(?withdrawn, "released"));
        match withdrawn {
            Some(Withdrawn::Left(Left::Removed)) => Ok(Released::Clean),
            Some(Withdrawn::Left(Left::Absent)) => Ok(Released::AlreadyLost(LossReason::Evicted)),
            Some(Withdrawn::SessionOver) => Ok(Released::AlreadyLost(LossReason::SessionEnded)),
            None => Err(self
                .engine
                .context
                .error(ErrorKind::Unconfirmed, "release")
                .with_key(self.lock.name.as_str())
                .with_detail(
                    "not confirmed; the entry goes in the background or with its session",
                )),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.engine.context.counters.held.fetch_sub(1, Ordering::Relaxed);
        drop(self.hold.end());
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", self.name())
            .field("token", &self.hold.token)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
