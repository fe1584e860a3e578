//! The claim of one attempt to its entry, and the reaper that withdraws it.
//!
//! A claim is armed before its first request leaves. Dropping it at any await, or ending the grant
//! that it became, hands the attempt to the reaper, which repeats `leave` until the store confirms
//! it or keeps nothing of the session any more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::Instrument;

use super::armed::{Armed, Duty};
use super::context::Context;
use super::session::LiveSession;
use super::threads::Begun;
use crate::backend::{Attempt, Left};
use crate::clock::limited;
use crate::error::ErrorKind;

/// One attempt, bound to its session, and what there is to clean up after it.
#[derive(Debug)]
pub(crate) struct Claim {
    context: Arc<Context>,
    session: Arc<LiveSession>,
    attempt: Arc<Attempt>,
    pub(crate) armed: Armed,
}

/// How a withdrawal ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Withdrawn {
    /// The store answered.
    Left(Left),
    /// The session ended, and with it the entry.
    SessionOver,
}

impl Claim {
    pub(crate) fn new(
        context: Arc<Context>,
        session: Arc<LiveSession>,
        attempt: Arc<Attempt>,
    ) -> Self {
        session.enlist();
        Self { context, session, attempt, armed: Armed::new() }
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn session(&self) -> &Arc<LiveSession> {
        &self.session
    }

    pub(crate) fn attempt(&self) -> &Arc<Attempt> {
        &self.attempt
    }

    /// Withdraws the attempt in the background, `delay` from now; `None` when that was done, or
    /// nothing was sent. The answer only tells of the end.
    pub(crate) fn withdraw(&self, delay: Duration) -> Option<Begun<Withdrawn>> {
        if self.context.is_forked() {
            return None;
        }
        let in_doubt = match self.armed.disarm() {
            Duty::Taken => return None,
            Duty::Nothing => {
                self.session.discharge(self.attempt.id, false);
                return None;
            }
            Duty::Leave { in_doubt } => in_doubt,
        };
        let (context, session) = (Arc::clone(&self.context), Arc::clone(&self.session));
        let reap = reap(context, session, Arc::clone(&self.attempt), in_doubt, delay);
        Some(self.context.threads.begin(Box::pin(reap)))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        drop(self.withdraw(Duration::ZERO));
    }
}

async fn reap(
    context: Arc<Context>,
    session: Arc<LiveSession>,
    attempt: Arc<Attempt>,
    in_doubt: bool,
    delay: Duration,
) -> Withdrawn {
    let _busy = context.busy.mark();
    context.counters.reaping.fetch_add(1, Ordering::Relaxed);
    let span = tracing::debug_span!("reap", in_doubt);
    let left = async {
        if !delay.is_zero() {
            context.clock.sleep_until(context.clock.now().after(delay)).await;
        }
        leave(&context, &session, &attempt, in_doubt).await
    };
    let ended = tokio::select! {
        biased;
        left = left.instrument(span) => left,
        () = session.over() => Withdrawn::SessionOver,
    };
    context.counters.reaping.fetch_sub(1, Ordering::Relaxed);
    session.discharge(attempt.id, in_doubt);
    ended
}

async fn leave(
    context: &Context,
    live: &LiveSession,
    attempt: &Attempt,
    in_doubt: bool,
) -> Withdrawn {
    let session = &live.session;
    let mut backoff = context.backoff(session.granted);
    let mut repeated = false;
    loop {
        let leave = context.backend.leave(session, attempt, in_doubt);
        match limited(&*context.clock, session.request_timeout, leave).await {
            // An earlier try, whose answer was lost, removed it.
            Some(Ok(_)) if repeated => return Withdrawn::Left(Left::Removed),
            Some(Ok(left)) => return Withdrawn::Left(left),
            Some(Err(error)) if error.kind() == ErrorKind::Lost => return Withdrawn::SessionOver,
            Some(Err(error)) if error.is_retryable() => {
                tracing::debug!(%error, "leave is repeated");
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "leave is refused, and repeated");
                live.refuse(attempt.id, error);
            }
            None => tracing::debug!("leave went unanswered and is repeated"),
        }
        repeated = true;
        context.pause(&mut backoff).await;
    }
}
