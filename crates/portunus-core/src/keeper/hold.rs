//! A grant while it is believed, and the watch over its entry.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::claim::{Claim, Withdrawn};
use super::context::Context;
use super::deadline::DeadlineCell;
use super::session::LiveSession;
use super::threads::Begun;
use crate::backend::{Attempt, EntryId, Expires, Turn};
use crate::clock::{Moment, limited};
use crate::error::ErrorKind;
use crate::loss::LossReason;

/// A grant: the claim to its entry, its own bound in time, and its loss signal.
#[derive(Debug)]
pub(crate) struct Hold {
    claim: Claim,
    pub(crate) entry: EntryId,
    pub(crate) token: u64,
    since: Moment,
    bound: DeadlineCell,
    reason: OnceLock<LossReason>,
    /// Made for the first who asks for it: most grants are released and nobody ever does.
    signal: OnceLock<CancellationToken>,
    watch: OnceLock<AbortHandle>,
    timer: OnceLock<AbortHandle>,
}

impl Hold {
    /// Believes in a grant; `None` when its session has ended meanwhile.
    pub(crate) fn begin(
        claim: Claim,
        entry: EntryId,
        token: u64,
        expires: Expires,
        max_hold: Option<Duration>,
    ) -> Option<Arc<Self>> {
        let context = Arc::clone(claim.context());
        let since = context.clock.now();
        let mut bound = max_hold.map_or(Moment::NEVER, |span| since.after(span));
        if let Expires::At(moment) = expires {
            bound = bound.min(moment);
        }
        let hold = Arc::new(Self {
            claim,
            entry,
            token,
            since,
            bound: DeadlineCell::new(bound.nanos()),
            reason: OnceLock::new(),
            signal: OnceLock::new(),
            watch: OnceLock::new(),
            timer: OnceLock::new(),
        });
        if !hold.claim.session().is_live(since) || !hold.claim.session().hold(&hold) {
            return None;
        }
        if bound != Moment::NEVER {
            let expire = expire(Arc::clone(&context), Arc::downgrade(&hold), bound);
            let _ = hold.timer.set(context.threads.on_keeper(expire).abort_handle());
        }
        Some(hold)
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        self.claim.context()
    }

    pub(crate) fn attempt(&self) -> &Arc<Attempt> {
        self.claim.attempt()
    }

    pub(crate) fn session(&self) -> &Arc<LiveSession> {
        self.claim.session()
    }

    /// The signal that fires when the grant is lost.
    pub(crate) fn signal(&self) -> &CancellationToken {
        let signal = self.signal.get_or_init(CancellationToken::new);
        // Either this sees the loss, or `tell` sees the signal.
        fence(Ordering::SeqCst);
        if self.reason.get().is_some() || self.context().is_forked() {
            signal.cancel();
        }
        signal
    }

    /// Fires the loss signal, on the herald.
    pub(crate) fn tell(&self) {
        // Settles the reason.
        let _ = self.loss();
        fence(Ordering::SeqCst);
        if let Some(signal) = self.signal.get() {
            signal.cancel();
        }
    }

    /// How long ago it was granted.
    pub(crate) fn age(&self) -> Duration {
        self.context().clock.now().since(self.since)
    }

    /// The moment at which the belief ends unless it is renewed; `None` once it has ended.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        let own = self.bound.get().map(Moment::from_nanos)?;
        Some(own.min(self.session().deadline()?))
    }

    /// Whether it is held, and its last renewal is no older than it has to be.
    pub(crate) fn is_fresh(&self) -> bool {
        let now = self.context().clock.now();
        self.loss().is_none() && self.session().is_fresh(self.context(), now)
    }

    /// Why the grant is not held any more; `None` while it is.
    pub(crate) fn loss(&self) -> Option<LossReason> {
        let context = self.context();
        if context.is_forked() {
            return Some(LossReason::Forked);
        }
        let now = context.clock.now();
        let reason = if !self.bound.is_live(now.nanos()) {
            if context.options.max_hold.is_some() {
                LossReason::MaxHold
            } else {
                LossReason::Expired
            }
        } else if !self.session().is_live(now) {
            self.session().reason()
        } else {
            return None;
        };
        // Whoever sees it first decides; a second cause that comes later changes nothing.
        Some(*self.reason.get_or_init(|| reason))
    }

    /// Ends the belief in a grant whose entry the store says is gone.
    pub(crate) fn evicted(self: &Arc<Self>) {
        let (context, session) = (self.context(), self.session());
        // With the session everything goes; then its own reason counts.
        if session.is_live(context.clock.now()) {
            // It may have gone with the whole session: find out now, not at the next turn.
            session.ask();
            if session.forget(self.attempt().id).is_some() {
                self.lose(context, LossReason::Evicted);
            }
        }
    }

    /// Ends the belief in this grant alone. Only for the one who took it out of its session.
    pub(crate) fn lose(self: &Arc<Self>, context: &Arc<Context>, reason: LossReason) {
        let _ = self.reason.set(reason);
        self.bound.expire();
        let hold = Arc::clone(self);
        context.threads.on_herald(async move {
            hold.tell();
            hold.trace_loss();
        });
    }

    /// Counts and traces a loss, after the signals: a subscriber may be slow.
    pub(crate) fn trace_loss(&self) {
        let context = self.context();
        context.counters.lost.fetch_add(1, Ordering::Relaxed);
        let reason = self.loss();
        tracing::warn!(token = self.token, ?reason, "lock lost");
    }

    /// Ends the watch over the entry.
    pub(crate) fn unwatch(&self) {
        if let Some(watch) = self.watch.get() {
            watch.abort();
        }
    }

    /// Ends the belief, by the holder's own will unless it has ended, and withdraws the entry: at
    /// once, or after the lock's delay if the holder lost it with work under way.
    pub(crate) fn end(&self) -> Option<Begun<Withdrawn>> {
        let delay = match self.loss() {
            Some(LossReason::Expired | LossReason::MaxHold) => self.context().options.lock_delay,
            _ => Duration::ZERO,
        };
        self.session().forget(self.attempt().id);
        // Unless it was lost before.
        let _ = self.reason.set(LossReason::Released);
        self.bound.expire();
        self.unwatch();
        if let Some(timer) = self.timer.get() {
            timer.abort();
        }
        self.claim.withdraw(delay)
    }
}

/// Watches the entries of all grants of a session that are older than min(validity / 6, 1 s): the
/// store may drop one, by an operator's hand, while the session lives.
pub(crate) async fn watch_grants(context: Arc<Context>, session: Arc<LiveSession>) {
    let age = (session.session.validity / 6).min(Duration::from_secs(1));
    loop {
        let now = context.clock.now();
        tokio::select! {
            biased;
            () = session.ended() => return,
            () = context.clock.sleep_until(now.after(age / 2)) => {}
        }
        let now = context.clock.now();
        let young =
            |hold: &Arc<Hold>| hold.watch.get().is_none() && now.since(hold.since) >= age / 2;
        for (count, hold) in (1..).zip(session.grants().into_iter().filter(young)) {
            let task = context.threads.on_herald(watch(Arc::clone(&hold)));
            let _ = hold.watch.set(task.abort_handle());
            // A release between the look at the list and now found nothing to abort.
            if hold.bound.get().is_none() {
                task.abort();
            }
            // Each begins with a request: not thousands at once.
            if count % 32 == 0 {
                let next = context.clock.now().after(Duration::from_millis(1));
                context.clock.sleep_until(next).await;
            }
        }
    }
}

/// Waits until the entry of a grant is gone, and tells its holder. There is one such task for each
/// grant, so it is kept small: all that is rare is in the box of `stands`.
async fn watch(hold: Arc<Hold>) {
    let turn = Turn::Held { token: hold.token, expires: Expires::WithSession };
    loop {
        let backend = &hold.context().backend;
        let session = &hold.session().session;
        let told = backend.changed(session, hold.attempt(), &hold.entry, &turn).await.is_ok();
        if !Box::pin(stands(&hold, told)).await {
            break;
        }
    }
    hold.evicted();
}

/// Whether the entry of a grant still stands; asks until the store answers.
async fn stands(hold: &Hold, mut told: bool) -> bool {
    let (context, session) = (hold.context(), &hold.session().session);
    let mut backoff = context.backoff(session.granted);
    loop {
        if !told {
            context.pause(&mut backoff).await;
        }
        let look = context.backend.look(session, hold.attempt(), &hold.entry);
        match limited(&*context.clock, session.request_timeout, look).await {
            Some(Ok(Turn::Held { .. })) => return true,
            Some(Ok(_)) => return false,
            Some(Err(error)) if error.kind() == ErrorKind::Lost => {
                hold.session().lose(context, LossReason::SessionEnded);
                return false;
            }
            _ => told = false,
        }
    }
}

/// Ends a grant at its own bound: first the belief, then the entry.
async fn expire(context: Arc<Context>, hold: std::sync::Weak<Hold>, bound: Moment) {
    context.clock.sleep_until(bound).await;
    let Some(hold) = hold.upgrade() else { return };
    let Some(reason) = hold.loss().filter(|reason| *reason != LossReason::Released) else { return };
    if hold.session().forget(hold.attempt().id).is_some() {
        hold.lose(&context, reason);
        context.threads.on_herald(async move { drop(hold.end()) });
    }
}
