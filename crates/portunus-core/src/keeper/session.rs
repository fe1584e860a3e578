//! A session while it lives: renewed by the keeper, ended once and for ever at its deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::context::{Context, Notice};
use super::deadline::DeadlineCell;
use super::hold::Hold;
use crate::backend::{Attempt, AttemptId, Session};
use crate::clock::{Moment, limited};
use crate::error::{Error, ErrorKind};
use crate::loss::LossReason;
use crate::mutant::Mutant;

/// A session with its deadline and the grants that hang on it.
#[derive(Debug)]
pub(crate) struct LiveSession {
    pub(crate) session: Session,
    deadline: DeadlineCell,
    reason: OnceLock<LossReason>,
    suspended: AtomicBool,
    resumed: Notify,
    asked: Notify,
    confirmed: watch::Sender<Moment>,
    held: Mutex<BTreeMap<AttemptId, Arc<Hold>>>,
    /// Attempts that a renewal found gone before their grant was recorded; locked after `held`.
    gone: Mutex<BTreeSet<AttemptId>>,
    /// Attempts that have not ended; a retired session closes when there are none.
    users: AtomicUsize,
    doubts: AtomicUsize,
    retired: AtomicBool,
    closing: CancellationToken,
    ended: CancellationToken,
    over: CancellationToken,
    /// The last withdrawal that the store refused.
    refused: watch::Sender<Option<(AttemptId, Error)>>,
}

impl LiveSession {
    /// Takes over a session that was asked for at `sent`, and renews it from now on.
    pub(crate) fn start(context: &Arc<Context>, mut session: Session, sent: Moment) -> Arc<Self> {
        // The store's pace is for its whole validity; what the lock's delay leaves may be shorter.
        let worth = worth(context, &session);
        if !context.options.lock_delay.is_zero() {
            session.renew_every = session.renew_every.min(worth / 3);
            session.request_timeout = session.request_timeout.min(worth / 6);
        }
        let live = Arc::new(Self {
            deadline: DeadlineCell::new(sent.after(worth).nanos()),
            session,
            reason: OnceLock::new(),
            suspended: AtomicBool::new(false),
            resumed: Notify::new(),
            asked: Notify::new(),
            confirmed: watch::Sender::new(sent),
            held: Mutex::default(),
            gone: Mutex::default(),
            users: AtomicUsize::new(0),
            doubts: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
            over: CancellationToken::new(),
            refused: watch::Sender::new(None),
        });
        let keep = Arc::clone(&live).keep(Arc::clone(context), sent);
        context.threads.on_keeper(keep);
        context.threads.on_herald(super::hold::watch_grants(Arc::clone(context), live.clone()));
        live
    }

    /// Refuses a lock's delay that leaves the holder less than half of what its time to live alone
    /// would be worth, which is not the same on every store.
    pub(crate) fn check_worth(&self, context: &Context) -> Result<(), String> {
        let (worth, options) = (worth(context, &self.session), &context.options);
        let (ttl, asked) = (options.ttl.as_nanos(), (options.ttl + options.lock_delay).as_nanos());
        let is_half = 2 * worth.as_nanos() * asked >= self.session.validity.as_nanos() * ttl;
        if options.lock_delay.is_zero() || is_half {
            return Ok(());
        }
        Err(format!(
            "a lock_delay of {:?} leaves {worth:?} of a ttl of {:?}; accepted is one that leaves \
             half of what that ttl is worth without it; nothing is held",
            options.lock_delay, options.ttl
        ))
    }

    /// Whether the session lives at `now`; a look past the deadline ends it.
    pub(crate) fn is_live(&self, now: Moment) -> bool {
        self.deadline.is_live(now.nanos())
    }

    /// Whether the last confirmed renewal is no older than it has to be.
    pub(crate) fn is_fresh(&self, context: &Context, now: Moment) -> bool {
        let spare = self.spare(context);
        self.deadline().is_some_and(|deadline| deadline.since(now) >= spare)
    }

    /// What is left of the validity when one renewal has failed: by the pace of renewals, and the
    /// time that one may take.
    pub(crate) fn spare(&self, context: &Context) -> Duration {
        let due = self.session.renew_every + self.session.request_timeout;
        worth(context, &self.session).saturating_sub(due)
    }

    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.deadline.get().map(Moment::from_nanos)
    }

    pub(crate) fn is_usable(&self, now: Moment) -> bool {
        !self.retired.load(Ordering::Acquire) && !self.closing.is_cancelled() && self.is_live(now)
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// Completes when the session is not suspended; never, if it ends first.
    pub(crate) async fn resumed(&self) {
        loop {
            let mut notified = std::pin::pin!(self.resumed.notified());
            notified.as_mut().enable();
            if !self.is_suspended() {
                return;
            }
            notified.await;
        }
    }

    /// Asks the keeper for a renewal at once; completes when one that was sent after this call is
    /// confirmed. Never, if the session ends first.
    pub(crate) async fn check(&self, now: Moment) {
        let mut confirmed = self.confirmed.subscribe();
        self.asked.notify_one();
        // The sender lives as long as `self`.
        let _ = confirmed.wait_for(|sent| *sent >= now).await;
    }

    /// Asks the keeper for a renewal at once.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Completes when the session is lost or closed.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Completes when the store keeps nothing of this session any more.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Tells of a withdrawal that the store refused.
    pub(crate) fn refuse(&self, attempt: AttemptId, error: Error) {
        self.refused.send_replace(Some((attempt, error)));
    }

    /// Completes when the store refuses to withdraw this attempt; told each time that it does.
    pub(crate) async fn refused(&self, attempt: AttemptId) -> Option<Error> {
        let mut refused = self.refused.subscribe();
        let of =
            |told: &Option<(AttemptId, Error)>| told.as_ref().is_some_and(|told| told.0 == attempt);
        // The sender lives as long as `self`.
        let told = refused.wait_for(of).await.ok()?;
        told.as_ref().map(|(_, error)| error.clone())
    }

    /// Why the session ended, once it has.
    pub(crate) fn reason(&self) -> LossReason {
        self.reason.get().copied().unwrap_or(LossReason::Expired)
    }

    /// Records a grant; `false` when the session has ended, or a renewal found the entry gone.
    pub(crate) fn hold(&self, hold: &Arc<Hold>) -> bool {
        let mut held = self.held();
        held.insert(hold.attempt().id, Arc::clone(hold));
        let is_gone = self.gone().remove(&hold.attempt().id);
        let ended = self.closing.is_cancelled() || self.deadline.get().is_none() || is_gone;
        if ended {
            held.remove(&hold.attempt().id);
        }
        !ended
    }

    /// Takes the grant of an entry that is gone; if there was none yet when the renewal was sent, there
    /// will be none.
    fn miss(&self, attempt: AttemptId, sent: &[Arc<Attempt>]) -> Option<Arc<Hold>> {
        let mut held = self.held();
        let hold = held.remove(&attempt);
        if hold.is_none() && !sent.iter().any(|sent| sent.id == attempt) {
            self.gone().insert(attempt);
        }
        hold
    }

    pub(crate) fn forget(&self, attempt: AttemptId) -> Option<Arc<Hold>> {
        self.held().remove(&attempt)
    }

    pub(crate) fn grants(&self) -> Vec<Arc<Hold>> {
        self.held().values().cloned().collect()
    }

    /// Asks for a clean end: everything of the session goes from the store.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    pub(crate) fn enlist(&self) {
        self.users.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts an attempt that has ended for good; `in_doubt` left a tombstone in the store.
    pub(crate) fn discharge(&self, attempt: AttemptId, in_doubt: bool) {
        self.gone().remove(&attempt);
        if in_doubt && self.doubts.fetch_add(1, Ordering::AcqRel) + 1 >= TOMBSTONES {
            self.retired.store(true, Ordering::Release);
        }
        let last = self.users.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.retired.load(Ordering::Acquire) {
            self.close();
        }
    }

    /// Ends the session locally, and tells all who hang on it, on the herald.
    pub(crate) fn lose(self: &Arc<Self>, context: &Arc<Context>, reason: LossReason) {
        if self.reason.set(reason).is_err() {
            return;
        }
        self.deadline.expire();
        self.closing.cancel();
        let held = std::mem::take(&mut *self.held());
        context.counters.suspended.store(false, Ordering::Relaxed);
        context.notice(Notice::SessionLost { reason });
        let live = Arc::clone(self);
        context.threads.on_herald(async move {
            live.ended.cancel();
            for hold in held.values() {
                hold.unwatch();
                hold.tell();
            }
            held.values().for_each(|hold| hold.trace_loss());
        });
    }

    /// Renews until the session is lost or asked to close, then closes it in the store.
    async fn keep(self: Arc<Self>, context: Arc<Context>, sent: Moment) {
        let mut next = sent.after(self.session.renew_every);
        let reason = loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => break LossReason::Closed,
                () = self.asked.notified() => {}
                () = context.clock.sleep_until(next.min(self.bound())) => {}
            }
            let renewed = tokio::select! {
                biased;
                () = self.closing.cancelled() => break LossReason::Closed,
                renewed = self.renew(&context) => renewed,
            };
            match renewed {
                Ok(sent) => next = sent.after(self.session.renew_every),
                Err(reason) => break reason,
            }
        };
        self.lose(&context, reason);
        // Somebody else may have ended it first, for another reason.
        let reason = self.reason();
        context.threads.on_herald(self.finish(Arc::clone(&context), reason));
    }

    /// One confirmed renewal, with as many tries as fit before the deadline.
    async fn renew(self: &Arc<Self>, context: &Arc<Context>) -> Result<Moment, LossReason> {
        let mut backoff = context.backoff(self.session.renew_every);
        let due = context.clock.now();
        loop {
            let sent = context.clock.now();
            if !self.is_live(sent) {
                return Err(LossReason::Expired);
            }
            let left = match Mutant::DeadlineRevived.is_on() {
                true => Duration::MAX,
                false => self.bound().since(sent),
            };
            let limit = left.min(self.session.request_timeout);
            let held: Vec<Arc<Attempt>> =
                self.held().values().map(|hold| Arc::clone(hold.attempt())).collect();
            let renewal = context.backend.renew(&self.session, &held);
            let error = match limited(&*context.clock, limit, renewal).await {
                Some(Ok(renewal)) => {
                    let now = context.clock.now();
                    // Before the deadline moves, which is not theirs any more.
                    for attempt in renewal.lost {
                        if let Some(hold) = self.miss(attempt, &held) {
                            hold.lose(context, LossReason::Evicted);
                        }
                    }
                    self.confirm(context, sent, now)?;
                    context.counters.renewals.fetch_add(1, Ordering::Relaxed);
                    context.notice(Notice::Renewed { lag: now.since(due) });
                    return Ok(sent);
                }
                Some(Err(error)) if error.kind() == ErrorKind::Lost => {
                    return Err(LossReason::SessionEnded);
                }
                Some(Err(error)) => error,
                None => context.error(ErrorKind::Unconfirmed, "renew"),
            };
            self.suspend(context, error);
            tokio::select! {
                biased;
                () = context.clock.sleep_until(self.bound()) => {}
                () = context.pause(&mut backoff) => {}
            }
        }
    }

    fn confirm(&self, context: &Context, sent: Moment, now: Moment) -> Result<(), LossReason> {
        let from = if Mutant::DeadlineFromReply.is_on() { now } else { sent };
        let to = from.after(worth(context, &self.session)).nanos();
        #[cfg(portunus_mutant)]
        if Mutant::DeadlineRevived.is_on() {
            self.deadline.revive(to);
        }
        if !self.deadline.extend(to, now.nanos()) {
            return Err(LossReason::Expired);
        }
        self.confirmed.send_replace(sent);
        if self.suspended.swap(false, Ordering::AcqRel) {
            context.counters.suspended.store(false, Ordering::Relaxed);
            self.resumed.notify_waiters();
        }
        Ok(())
    }

    fn suspend(&self, context: &Context, error: Error) {
        self.suspended.store(true, Ordering::Release);
        context.counters.suspended.store(true, Ordering::Relaxed);
        context.notice(Notice::RenewalFailed { error });
    }

    /// Removes the session from the store: repeated until confirmed, or until the store must have
    /// expired it by itself.
    async fn finish(self: Arc<Self>, context: Arc<Context>, reason: LossReason) {
        let until = context.clock.now().after(2 * self.session.granted);
        if reason == LossReason::Expired {
            // What the holder had under way when it lost the lock may still reach the resource.
            let delay = context.clock.now().after(context.options.lock_delay);
            context.clock.sleep_until(delay).await;
        }
        let mut backoff = context.backoff(self.session.granted);
        while context.clock.now() < until {
            let close = context.backend.close_session(&self.session);
            match limited(&*context.clock, self.session.request_timeout, close).await {
                Some(Ok(())) => break,
                Some(Err(error)) if error.kind() == ErrorKind::Lost => break,
                _ => context.pause(&mut backoff).await,
            }
        }
        self.over.cancel();
    }

    /// The deadline as a moment to sleep until: the past, once it has expired.
    fn bound(&self) -> Moment {
        self.deadline().unwrap_or_default()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<AttemptId, Arc<Hold>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> std::sync::MutexGuard<'_, BTreeSet<AttemptId>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a renewal is worth: the part of its validity that is kept free as the lock's delay after an
/// abnormal end was added to the time to live that was asked for.
fn worth(context: &Context, session: &Session) -> Duration {
    session.validity.saturating_sub(context.options.lock_delay)
}

/// How many tombstones a session may leave in the store before another takes its place.
const TOMBSTONES: usize = 1024;
