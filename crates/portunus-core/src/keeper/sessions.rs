//! The manager's sessions: the present one, opened once for all who need it and replaced when it
//! ends, and those that were retired while something of theirs is still held.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;

use super::context::Context;
use super::session::LiveSession;
use crate::backend::Session;
use crate::clock::{Moment, limited};
use crate::error::{Error, ErrorKind, Result};
use crate::loss::LossReason;
use crate::token::Incarnation;

/// The slot of the present session.
#[derive(Debug)]
pub(crate) struct Sessions {
    slot: Mutex<Slot>,
    opening: Arc<AsyncMutex<()>>,
    incarnation: OnceLock<Incarnation>,
}

#[derive(Debug, Default)]
struct Slot {
    present: Option<Arc<LiveSession>>,
    retired: Vec<Weak<LiveSession>>,
    /// A session that is opened after this closes at once.
    closed: bool,
}

impl Sessions {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            slot: Mutex::default(),
            opening: Arc::default(),
            incarnation: OnceLock::new(),
        })
    }

    /// The present session, whatever its state.
    pub(crate) fn present(&self) -> Option<Arc<LiveSession>> {
        self.slot().present.clone()
    }

    /// The life of the store that this manager has seen; none before its first session.
    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation.get().cloned()
    }

    /// Returns a session that new attempts may use; opens one if there is none. A failure that may
    /// pass is told to `failed`, and the opening is tried again if the caller is `patient`.
    pub(crate) async fn current(
        self: &Arc<Self>,
        context: &Arc<Context>,
        patient: bool,
        failed: impl Fn(Error),
    ) -> Result<Arc<LiveSession>> {
        let mut backoff = context.backoff(context.options.ttl);
        loop {
            if let Some(session) = self.usable(context) {
                return Ok(session);
            }
            let turn = Arc::clone(&self.opening).lock_owned().await;
            if let Some(session) = self.usable(context) {
                return Ok(session);
            }
            // A task of its own: a caller who gives up leaves no session behind that nobody knows.
            let (sessions, shared) = (Arc::clone(self), Arc::clone(context));
            // Asked from here: a herald that is blocked delays what comes after the answer only.
            let sent = context.clock.now();
            let asked = ask(context);
            let opening = context.threads.on_herald(async move {
                let _turn = turn;
                sessions.open(&shared, sent, asked).await
            });
            match opening.await {
                Ok(Err(error)) if patient && error.is_retryable() => failed(error),
                Ok(opened) => return opened,
                Err(_) => return Err(context.error(ErrorKind::Unavailable, "session")),
            }
            context.pause(&mut backoff).await;
        }
    }

    /// Ends all sessions for good, and any that is being opened.
    pub(crate) fn close(&self) -> Vec<Arc<LiveSession>> {
        let mut slot = self.slot();
        slot.closed = true;
        let retired = slot.retired.drain(..).filter_map(|session| session.upgrade());
        let mut sessions: Vec<_> = retired.collect();
        sessions.extend(slot.present.take());
        drop(slot);
        sessions.iter().for_each(|session| session.close());
        sessions
    }

    /// Takes over what the store answers to a question that was `asked` not before `sent`.
    async fn open(
        &self,
        context: &Arc<Context>,
        sent: Moment,
        asked: JoinHandle<Result<Session>>,
    ) -> Result<Arc<LiveSession>> {
        let failed = |_| Err(context.error(ErrorKind::Unavailable, "session"));
        let session = asked.await.unwrap_or_else(failed)?;
        let (granted, asked) = (session.granted, context.ttl());
        if granted != asked {
            // Not for the backend to say: it is asked on the keeper, where nobody listens.
            tracing::info!(?granted, ?asked, "the store grants another time to live");
        }
        let first = self.incarnation.get_or_init(|| session.incarnation.clone());
        if *first != session.incarnation {
            let detail = format!(
                "this manager has seen incarnation {first}, the store now is {}; \
                 nothing is held; connect anew once you know why",
                session.incarnation
            );
            let live = LiveSession::start(context, session, sent);
            live.lose(context, LossReason::Closed);
            return Err(context.error(ErrorKind::Regression, "session").with_detail(detail));
        }
        let live = LiveSession::start(context, session, sent);
        if let Err(detail) = live.check_worth(context) {
            live.lose(context, LossReason::Closed);
            return Err(context.error(ErrorKind::Invalid, "session").with_detail(detail));
        }
        let mut slot = self.slot();
        if slot.closed {
            live.close();
            return Err(context.error(ErrorKind::Unavailable, "session"));
        }
        if let Some(before) = slot.present.replace(Arc::clone(&live)) {
            slot.retired.retain(|session| session.strong_count() > 0);
            slot.retired.push(Arc::downgrade(&before));
        }
        drop(slot);
        context.counters.sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::debug!(session = %live.session.id, "a session was opened");
        Ok(live)
    }

    fn usable(&self, context: &Context) -> Option<Arc<LiveSession>> {
        let present = self.present()?;
        present.is_usable(context.clock.now()).then_some(present)
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the store for a session, on the keeper: whatever its life hangs on belongs there.
fn ask(context: &Arc<Context>) -> JoinHandle<Result<Session>> {
    let shared = Arc::clone(context);
    context.threads.on_keeper(async move {
        let ttl = shared.ttl();
        // A third: a first server that is cut off must leave time for another.
        let limit = shared.options.connect_timeout / 3;
        let opened = limited(&*shared.clock, limit, shared.backend.open_session(ttl)).await;
        opened.unwrap_or_else(|| {
            Err(shared
                .error(ErrorKind::Unavailable, "session")
                .with_detail(format!("no answer within {limit:?}")))
        })
    })
}
