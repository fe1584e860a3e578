//! The manager's present session: opened once for all who need it, replaced when it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Mutex as AsyncMutex;

use super::context::Context;
use super::session::LiveSession;
use crate::clock::limited;
use crate::error::{Error, ErrorKind, Result};
use crate::loss::LossReason;
use crate::token::Incarnation;

/// The slot of the present session.
#[derive(Debug)]
pub(crate) struct Sessions {
    present: Mutex<Option<Arc<LiveSession>>>,
    opening: Arc<AsyncMutex<()>>,
    incarnation: OnceLock<Incarnation>,
    /// Set with the slot locked: a session that is opened later closes at once.
    closed: AtomicBool,
}

impl Sessions {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            present: Mutex::default(),
            opening: Arc::default(),
            incarnation: OnceLock::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// The present session, whatever its state.
    pub(crate) fn present(&self) -> Option<Arc<LiveSession>> {
        self.slot().clone()
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
            let opening = context.threads.on_herald(async move {
                let _turn = turn;
                sessions.open(&shared).await
            });
            match opening.await {
                Ok(Err(error)) if patient && error.is_retryable() => failed(error),
                Ok(opened) => return opened,
                Err(_) => return Err(context.error(ErrorKind::Unavailable, "session")),
            }
            context.pause(&mut backoff).await;
        }
    }

    /// Ends the present session for good, and any that is being opened; `None` if there is none.
    pub(crate) fn close(&self) -> Option<Arc<LiveSession>> {
        let session = {
            let mut slot = self.slot();
            self.closed.store(true, Ordering::Release);
            slot.take()
        }?;
        session.close();
        Some(session)
    }

    async fn open(&self, context: &Arc<Context>) -> Result<Arc<LiveSession>> {
        let ttl = context.options.ttl + context.options.lock_delay;
        // A third: a first server that is cut off must leave time for another.
        let limit = context.options.connect_timeout / 3;
        let sent = context.clock.now();
        let opened = limited(&*context.clock, limit, context.backend.open_session(ttl)).await;
        let session = opened.unwrap_or_else(|| {
            Err(context
                .error(ErrorKind::Unavailable, "session")
                .with_detail(format!("no answer within {limit:?}")))
        })?;
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
        let before = {
            let mut slot = self.slot();
            if self.closed.load(Ordering::Acquire) {
                live.close();
                return Err(context.error(ErrorKind::Unavailable, "session"));
            }
            slot.replace(Arc::clone(&live))
        };
        if before.is_some_and(|before| before.is_ended()) {
            tracing::info!(session = %live.session.id, "a new session replaces the one that ended");
        }
        Ok(live)
    }

    fn usable(&self, context: &Context) -> Option<Arc<LiveSession>> {
        let present = self.present()?;
        present.is_usable(context.clock.now()).then_some(present)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<LiveSession>>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
