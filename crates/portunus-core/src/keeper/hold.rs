//! A grant while it is believed, and the watch over its entry.

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
    signal: CancellationToken,
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
            signal: CancellationToken::new(),
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

    pub(crate) fn attempt(&self) -> &Arc<Attempt> {
        self.claim.attempt()
    }

    pub(crate) fn session(&self) -> &Arc<LiveSession> {
        self.claim.session()
    }

    pub(crate) fn signal(&self) -> &CancellationToken {
        &self.signal
    }

    /// The moment at which the belief ends unless it is renewed; `None` once it has ended.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        let own = self.bound.get().map(Moment::from_nanos)?;
        Some(own.min(self.session().deadline()?))
    }

    /// Why the grant is not held any more; `None` while it is.
    pub(crate) fn loss(&self) -> Option<LossReason> {
        let context = self.claim.context();
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

    /// Ends the belief in this grant alone. Only for the one who took it out of its session.
    pub(crate) fn lose(self: &Arc<Self>, context: &Arc<Context>, reason: LossReason) {
        let _ = self.reason.set(reason);
        self.bound.expire();
        let hold = Arc::clone(self);
        context.threads.on_herald(async move {
            hold.signal.cancel();
            hold.trace_loss();
        });
    }

    /// Counts and traces a loss, after the signals: a subscriber may be slow.
    pub(crate) fn trace_loss(&self) {
        let context = self.claim.context();
        context.counters.lost.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let reason = self.loss();
        tracing::warn!(token = self.token, ?reason, "lock lost");
    }

    /// Ends the belief, by the holder's own will unless it has ended, and withdraws the entry: at
    /// once, or after the lock's delay if the holder lost it with work under way.
    pub(crate) fn end(&self) -> Option<Begun<Withdrawn>> {
        let delay = match self.loss() {
            Some(LossReason::Expired | LossReason::MaxHold) => {
                self.claim.context().options.lock_delay
            }
            _ => Duration::ZERO,
        };
        self.session().forget(self.attempt().id);
        self.bound.expire();
        for task in [&self.watch, &self.timer].into_iter().filter_map(OnceLock::get) {
            task.abort();
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
        for hold in session.grants() {
            if hold.watch.get().is_none() && now.since(hold.since) >= age / 2 {
                let watch = watch(Arc::clone(&context), Arc::clone(&hold));
                let task = context.threads.on_herald(watch);
                let _ = hold.watch.set(task.abort_handle());
                // A release between the look at the list and now found nothing to abort.
                if hold.bound.get().is_none() {
                    task.abort();
                }
            }
        }
    }
}

/// Waits until the entry of a grant is gone, and tells its holder.
async fn watch(context: Arc<Context>, hold: Arc<Hold>) {
    let (attempt, live) = (Arc::clone(hold.attempt()), Arc::clone(hold.session()));
    let session = &live.session;
    let turn = Turn::Held { token: hold.token, expires: Expires::WithSession };
    let mut backoff = context.backoff(session.granted);
    loop {
        let changed = tokio::select! {
            biased;
            () = live.ended() => return,
            changed = context.backend.changed(session, &attempt, &hold.entry, &turn) => changed,
        };
        if changed.is_ok() {
            let look = context.backend.look(session, &attempt, &hold.entry);
            match limited(&*context.clock, session.request_timeout, look).await {
                Some(Ok(Turn::Held { .. })) => {
                    backoff = context.backoff(session.granted);
                    continue;
                }
                // With the session everything goes; then its own reason counts.
                Some(Ok(_)) if !live.is_live(context.clock.now()) => return,
                Some(Ok(_)) => {
                    // It may have gone with the whole session: find out now, not at the next turn.
                    live.ask();
                    if live.forget(attempt.id).is_some() {
                        hold.lose(&context, LossReason::Evicted);
                    }
                    return;
                }
                _ => {}
            }
        }
        context.pause(&mut backoff).await;
    }
}

/// Ends a grant at its own bound: first the belief, then the entry.
async fn expire(context: Arc<Context>, hold: std::sync::Weak<Hold>, bound: Moment) {
    context.clock.sleep_until(bound).await;
    let Some(hold) = hold.upgrade() else { return };
    let Some(reason) = hold.loss() else { return };
    if hold.session().forget(hold.attempt().id).is_some() {
        hold.lose(&context, reason);
        context.threads.on_herald(async move { drop(hold.end()) });
    }
}
