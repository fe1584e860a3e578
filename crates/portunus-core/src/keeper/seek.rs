//! One call of `acquire`: sessions, attempts and waits until there is a grant or an end.

use std::sync::{Arc, Mutex, PoisonError};

use super::claim::Claim;
use super::engine::Engine;
use super::hold::Hold;
use super::session::LiveSession;
use super::waiters::LockState;
use crate::backend::{Attempt, Entered, EntryId, Expires, Mode, Turn};
use crate::clock::{Moment, limited, limited_until};
use crate::error::{Error, ErrorKind, Result};
use crate::mutant::Mutant;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) mode: Mode,
    /// What observers see of it.
    pub(crate) value: String,
}

/// How long a call may wait for others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wait {
    Forever,
    Until(Moment),
    Not,
}

/// Acquires a lock; `None` when others kept it for as long as the caller would wait.
pub(crate) async fn acquire(
    engine: Arc<Engine>,
    lock: Arc<LockState>,
    request: Request,
    wait: Wait,
) -> Result<Option<Arc<Hold>>> {
    let context = &engine.context;
    let begun = context.clock.now();
    let until = match wait {
        Wait::Forever => Moment::NEVER,
        Wait::Until(moment) => moment,
        Wait::Not => begun.after(context.options.connect_timeout),
    };
    let progress = Mutex::new(Progress::default());
    let seek = Seek { engine: &engine, lock: &lock, request: &request, wait, progress: &progress };
    let closing = engine.closing.cancelled();
    let found = tokio::select! {
        biased;
        () = closing => Some(Err(engine.closed("acquire"))),
        found = limited_until(&*context.clock, until, seek.run()) => found,
    };
    let progress = progress.into_inner().unwrap_or_else(PoisonError::into_inner);
    let outcome = match (found, progress.failure) {
        (Some(outcome), _) => outcome,
        // The time went by behind others: that is contention, not an error.
        (None, None) if progress.queued => Ok(None),
        (None, Some(failure)) if failure.kind() == ErrorKind::Unconfirmed => Err(failure),
        (None, failure) => Err(context.unanswered("acquire", until.since(begun), failure)),
    };
    outcome.map_err(|error| {
        let error = error.in_store(context.capabilities.store);
        if error.key().is_some() { error } else { error.with_key(lock.name.as_str()) }
    })
}

struct Seek<'a> {
    engine: &'a Arc<Engine>,
    lock: &'a Arc<LockState>,
    request: &'a Request,
    wait: Wait,
    progress: &'a Mutex<Progress>,
}

/// How far a call got, for the words it ends with when its time is over.
#[derive(Debug, Default)]
struct Progress {
    queued: bool,
    failure: Option<Error>,
}

enum Pass {
    Granted(Arc<Hold>),
    Refused,
    /// The session ended first; the next attempt belongs to the next session.
    SessionEnded,
}

impl Seek<'_> {
    async fn run(&self) -> Result<Option<Arc<Hold>>> {
        let context = &self.engine.context;
        let mut backoff = context.backoff(context.options.ttl);
        loop {
            let patient = !context.options.fail_fast;
            let failed = |error| self.failed(error);
            let session = self.engine.sessions.current(context, patient, failed).await?;
            match self.pass(&session).await? {
                Pass::Granted(hold) => return Ok(Some(hold)),
                Pass::Refused => return Ok(None),
                Pass::SessionEnded => {
                    if self.standing(|progress| std::mem::take(&mut progress.queued)) {
                        let places = &context.counters.places_lost;
                        places.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                    // A store that ends every session at once is not asked without a pause.
                    context.pause(&mut backoff).await;
                }
            }
        }
    }

    /// One attempt in one session.
    async fn pass(&self, live: &Arc<LiveSession>) -> Result<Pass> {
        let context = &self.engine.context;
        if live.is_suspended() && context.options.fail_fast {
            return Err(context
                .error(ErrorKind::Unavailable, "acquire")
                .with_detail("the session's renewals are failing; nothing was queued"));
        }
        let attempt = Arc::new(Attempt {
            id: context.chance.attempt_id(),
            name: self.lock.name.clone(),
            mode: self.request.mode,
            try_only: self.wait == Wait::Not,
            value: self.request.value.clone(),
            holder: Arc::clone(&context.holder),
        });
        let claim = Claim::new(Arc::clone(context), Arc::clone(live), attempt);
        tokio::select! {
            biased;
            pass = self.queue(claim) => pass,
            () = live.ended() => Ok(Pass::SessionEnded),
        }
    }

    async fn queue(&self, claim: Claim) -> Result<Pass> {
        let context = &self.engine.context;
        let (live, attempt) = (Arc::clone(claim.session()), Arc::clone(claim.attempt()));
        live.resumed().await;
        let (entry, mut turn) = match self.enter(&claim).await? {
            Entered::Queued { entry, turn } => (entry, turn),
            Entered::Refused => return Ok(Pass::Refused),
        };
        self.standing(|progress| *progress = Progress { queued: true, failure: None });
        let mut place = None;
        let mut backoff = context.backoff(live.session.granted);
        loop {
            match &turn {
                Turn::Held { token, expires } => {
                    return self.grant(claim, entry, *token, *expires).await;
                }
                Turn::Lost => return Err(self.evicted(&live).await),
                Turn::Waiting { blockers, .. } => {
                    let place = place.get_or_insert_with(|| {
                        self.lock.join(context, attempt.id, &entry, attempt.mode)
                    });
                    place.wait_for(blockers);
                    tokio::select! {
                        biased;
                        changed = context.backend.changed(&live.session, &attempt, &entry, &turn) => {
                            if changed.is_err() {
                                context.pause(&mut backoff).await;
                            }
                        }
                        () = place.nudged() => {}
                    }
                }
            }
            turn = self.look(&claim, &entry).await?;
        }
    }

    /// Calls `enter` until its first definite answer.
    async fn enter(&self, claim: &Claim) -> Result<Entered> {
        let context = &self.engine.context;
        let (live, attempt) = (claim.session(), claim.attempt());
        let mut backoff = context.backoff(live.session.granted);
        loop {
            claim.armed.sending();
            let enter = context.backend.enter(&live.session, attempt);
            let error = match limited(&*context.clock, live.session.request_timeout, enter).await {
                Some(Ok(entered)) => {
                    match entered {
                        Entered::Queued { .. } => claim.armed.answered(),
                        Entered::Refused => claim.armed.not_applied(),
                    }
                    return Ok(entered);
                }
                Some(Err(error)) => error,
                None => context.error(ErrorKind::Unconfirmed, "acquire").with_detail(
                    "the store did not answer; the entry, if any, is withdrawn in the background",
                ),
            };
            match error.kind() {
                ErrorKind::Unavailable => claim.armed.not_applied(),
                ErrorKind::Unconfirmed if Mutant::UnknownIsFailed.is_on() => {
                    claim.armed.not_applied();
                    return Err(error);
                }
                ErrorKind::Unconfirmed => claim.armed.unanswered(),
                ErrorKind::Lost => {
                    live.lose(context, crate::loss::LossReason::SessionEnded);
                    std::future::pending().await
                }
                // It may have been refused for what stands around an entry that was made.
                _ => {
                    claim.armed.answered();
                    return Err(error);
                }
            }
            self.failed(error);
            context.pause(&mut backoff).await;
        }
    }

    /// Calls `look` until it answers.
    async fn look(&self, claim: &Claim, entry: &EntryId) -> Result<Turn> {
        let context = &self.engine.context;
        let (live, attempt) = (claim.session(), claim.attempt());
        let mut backoff = context.backoff(live.session.granted);
        loop {
            if Mutant::LookIsEnter.is_on()
                && let Entered::Queued { turn, .. } = self.enter(claim).await?
            {
                return Ok(turn);
            }
            let look = context.backend.look(&live.session, attempt, entry);
            match limited(&*context.clock, live.session.request_timeout, look).await {
                Some(Ok(turn)) => {
                    self.standing(|progress| progress.failure = None);
                    return Ok(turn);
                }
                Some(Err(error)) if error.kind() == ErrorKind::Lost => return Ok(Turn::Lost),
                Some(Err(error)) if !error.is_retryable() => return Err(error),
                Some(Err(error)) => self.failed(error),
                None => self.failed(context.error(ErrorKind::Unavailable, "look")),
            }
            context.pause(&mut backoff).await;
        }
    }

    async fn grant(
        &self,
        claim: Claim,
        entry: EntryId,
        token: u64,
        expires: Expires,
    ) -> Result<Pass> {
        let context = &self.engine.context;
        let live = Arc::clone(claim.session());
        live.resumed().await;
        if let Err(highest) = self.lock.note(token, self.request.mode) {
            if self.look(&claim, &entry).await? == Turn::Lost {
                // Evicted since it was granted, and a later grant was noted meanwhile.
                return Err(self.evicted(&live).await);
            }
            return Err(context.error(ErrorKind::Regression, "acquire").with_detail(format!(
                "token {token} is not above {highest}, which this manager has seen; the entry is \
                 withdrawn"
            )));
        }
        let max_hold = context.options.max_hold;
        let hold = Hold::begin(claim, entry, token, expires, max_hold);
        Ok(hold.map_or(Pass::SessionEnded, Pass::Granted))
    }

    /// The error of an entry that went alone. If it went with its session, this never completes:
    /// the next session brings a new attempt.
    async fn evicted(&self, live: &LiveSession) -> Error {
        let context = &self.engine.context;
        live.check(context.clock.now()).await;
        context
            .error(ErrorKind::Lost, "acquire")
            .with_detail("the entry was removed by somebody else; nothing is held")
    }

    fn failed(&self, error: Error) {
        tracing::debug!(%error, "tried again");
        self.standing(|progress| progress.failure = Some(error));
    }

    fn standing<T>(&self, note: impl FnOnce(&mut Progress) -> T) -> T {
        note(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
