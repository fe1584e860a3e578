//! The guard: a held lock as a value, with its token, its loss signal and its release.

mod downgrade;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
pub use tokio_util::sync::CancellationToken;
use tracing::Span;

pub use self::downgrade::DowngradeError;
use crate::backend::{EntryId, Left, Mode};
use crate::error::{ErrorKind, Result};
use crate::keeper::{BusyMark, Change, Context, Engine, Hold, LockState, Withdrawn, change};
pub use crate::loss::LossReason;
use crate::name::LockName;
use crate::token::{FencingToken, Origin, SharedToken};

/// A held lock. Ownership is this value: not a thread, not a task, not a session.
///
/// The engine renews the lease in the background. A guard is strong evidence, not proof: a process
/// that is stopped for longer than the lease may still hold a guard after the lock went to another.
/// Send its token with every write to the thing you protect, and watch [`lost`](Self::lost). Lost
/// means lost: nothing is acquired again behind your back.
///
/// `M` says how it is held, and what its token is good for: [`Exclusive`], [`Shared`]
/// ([`SharedGuard`]) or [`Counted`] ([`Permit`]).
///
/// Dropping it releases the lock in the background, from any thread, and never blocks or panics;
/// [`release`](Self::release) does the same and says how it ended.
#[must_use = "if unused, the lock is released at once"]
pub struct Guard<M = Exclusive> {
    held: Held,
    mode: PhantomData<fn() -> M>,
}

/// Held by one alone.
#[derive(Debug)]
pub enum Exclusive {}

/// Held together with other readers.
#[derive(Debug)]
pub enum Shared {}

/// Held together with up to `limit` − 1 others.
#[derive(Debug)]
pub enum Counted {}

/// A lock that is held together with other readers.
pub type SharedGuard = Guard<Shared>;

/// One of the permits of a semaphore.
pub type Permit = Guard<Counted>;

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

impl<M> Guard<M> {
    pub(crate) fn new(hold: Arc<Hold>, engine: Arc<Engine>, lock: Arc<LockState>) -> Self {
        Self { held: Held::new(hold, engine, lock), mode: PhantomData }
    }

    pub(crate) fn hold(&self) -> &Arc<Hold> {
        &self.held.hold
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.held.engine
    }

    /// Releases the lock for the owner, while others may look at the guard.
    pub(crate) async fn end(&self) -> Result<Released> {
        self.held.release().await
    }

    /// Gives the lock up in the background, and tells those who look at the guard.
    pub(crate) fn give_up(&self) {
        self.held.give_up();
    }

    /// Returns the name of the lock.
    #[must_use]
    pub fn name(&self) -> &LockName {
        &self.held.lock.name
    }

    /// Returns what the store calls this grant: for fences in the same store, whose writes happen
    /// only while the entry stands. Fixed at the grant.
    #[must_use]
    pub fn entry(&self) -> &EntryId {
        &self.hold().entry
    }

    /// Whether the lock is held now, without I/O. Once `false`, `false` for ever, also when every
    /// executor thread is blocked.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.hold().loss().is_none()
    }

    /// How long the lock stays held if no renewal succeeds any more; zero once it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let now = self.hold().context().clock.now();
        match self.hold().deadline() {
            Some(deadline) if self.is_held() => deadline.since(now),
            _ => Duration::ZERO,
        }
    }

    /// Returns what is known of the lock now, without I/O.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.hold().loss() {
            Some(reason) => Status::Lost(reason),
            None if self.hold().session().is_suspended() => Status::Suspended,
            None => Status::Held,
        }
    }

    /// Completes when the lock is lost, at the latest at its deadline. Never for a release.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn lost(&self) -> LossReason {
        self.hold().signal().cancelled().await;
        self.hold().loss().unwrap_or(LossReason::Expired)
    }

    /// Returns a token that is cancelled when the lock is lost; never by a release.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.hold().signal().child_token()
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
        if let Some(reason) = self.hold().loss() {
            return Ran::Lost(reason);
        }
        tokio::select! {
            biased;
            reason = self.lost() => Ran::Lost(reason),
            output = future => match self.hold().loss() {
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
        self.end().await
    }
}

impl Guard<Exclusive> {
    /// Returns the fencing token: larger than that of every earlier grant of this lock. Fixed at
    /// the grant; the resource compares it with the highest that it has seen. Of a store whose tokens
    /// may go back it is [weak](FencingToken#weak-tokens), and fences refuse it.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.held.token()
    }

    /// Lets readers in without letting a writer in between: the same entry and the same token, held
    /// shared from now on. Nobody waits for longer because of it.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`]: this store can't
    ///   ([`Capabilities::convert`](crate::backend::Capabilities::convert)); nothing was asked of it,
    ///   and the error gives the guard back.
    /// - [`ErrorKind::Lost`]: the lock was lost before, or meanwhile.
    /// - [`ErrorKind::Denied`], rarely another kind: the store refuses it; the lock is released in
    ///   the background.
    ///
    /// While the store does not answer, or has no space, it is asked again until the lock is lost.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future releases the lock in the background.
    pub async fn downgrade(self) -> Result<SharedGuard, DowngradeError> {
        let hold = Arc::clone(self.hold());
        let context = hold.context();
        if !context.capabilities.convert {
            let error = context.error(ErrorKind::Unsupported, "downgrade");
            let error = error.with_key(self.name().as_str()).with_detail(
                "this store can't turn an entry into a shared one; the lock is held as before",
            );
            return Err(DowngradeError { error, guard: Some(Box::new(self)) });
        }
        let converting = change(Arc::clone(&hold), Change::Downgrade);
        let converted = self.engine().run("downgrade", converting).await;
        match converted {
            Ok(()) => Ok(Guard { held: self.held, mode: PhantomData }),
            Err(error) => Err(DowngradeError { error, guard: None }),
        }
    }
}

impl Guard<Shared> {
    /// Returns the token of this shared grant, which a resource may check and never keeps.
    #[must_use]
    pub fn token(&self) -> SharedToken {
        SharedToken::new(self.held.token())
    }
}

impl Guard<Counted> {
    /// Returns the fencing token of the only permit; `None` when the limit is above one, for then
    /// no order of tokens tells who holds.
    #[must_use]
    pub fn token(&self) -> Option<FencingToken> {
        let alone = self.hold().attempt().mode == Mode::Permit { limit: 1 };
        alone.then(|| self.held.token())
    }
}

impl<M> fmt::Debug for Guard<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", self.name())
            .field("token", &self.hold().token)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// What every guard is made of; with it the lock is released.
#[clippy::has_significant_drop]
struct Held {
    hold: Arc<Hold>,
    engine: Arc<Engine>,
    lock: Arc<LockState>,
    span: Span,
    active: Mutex<Option<Active>>,
}

impl Held {
    fn new(hold: Arc<Hold>, engine: Arc<Engine>, lock: Arc<LockState>) -> Self {
        let span = tracing::debug_span!("hold", lock = %lock.name, token = hold.token);
        let active = Mutex::new(Some(Active::new(&engine.context)));
        Self { hold, engine, lock, span, active }
    }

    fn token(&self) -> FencingToken {
        let incarnation = self.hold.session().session.incarnation.clone();
        let origin = Origin::new(incarnation, self.lock.name.clone());
        self.engine.context.token(self.hold.token, origin)
    }

    fn give_up(&self) {
        drop(self.active().take());
        drop(self.hold.end());
        self.hold.tell();
    }

    fn active(&self) -> MutexGuard<'_, Option<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn release(&self) -> Result<Released> {
        let span = tracing::debug_span!(parent: &self.span, "release");
        let _active = self.active().take();
        let lost = self.hold.loss();
        let withdrawal = match (self.hold.end(), lost) {
            (Some(withdrawal), None) => withdrawal,
            _ => {
                let reason = lost.or_else(|| self.hold.loss()).unwrap_or(LossReason::Expired);
                return Ok(Released::AlreadyLost(reason));
            }
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

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.hold.end());
    }
}

/// A guard that was not released yet, as its manager counts them.
struct Active {
    context: Arc<Context>,
    _busy: BusyMark,
}

impl Active {
    fn new(context: &Arc<Context>) -> Self {
        context.counters.held.fetch_add(1, Ordering::Relaxed);
        context.counters.acquired.fetch_add(1, Ordering::Relaxed);
        Self { context: Arc::clone(context), _busy: context.busy.mark() }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.context.counters.held.fetch_sub(1, Ordering::Relaxed);
    }
}
