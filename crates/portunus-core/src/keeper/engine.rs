//! The engine of one manager: what its locks and guards share, and the end of it all.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::context::{Busy, Context, Counters, Notice, Options};
use super::hold::Hold;
use super::seek::{self, Request, Wait};
use super::sessions::Sessions;
use super::threads::Threads;
use super::waiters::LockState;
use crate::backend::{Holder, LockBackend};
use crate::chance::Chance;
use crate::clock::{Clock, limited, limited_until};
use crate::error::{Error, ErrorKind, Result};
use crate::name::LockName;

/// Shared by a manager, its locks and its guards; with the last of them the session closes.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) context: Arc<Context>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) closing: CancellationToken,
    locks: Mutex<HashMap<LockName, Weak<LockState>>>,
}

impl Engine {
    pub(crate) fn new(
        backend: Arc<dyn LockBackend>,
        clock: Arc<dyn Clock>,
        chance: Chance,
        threads: Threads,
        options: Options,
        holder: Holder,
    ) -> Arc<Self> {
        let (notices, queued) = mpsc::channel(NOTICES);
        let context = Arc::new(Context {
            capabilities: backend.capabilities(),
            backend,
            clock,
            chance,
            threads,
            options,
            holder: Arc::new(holder),
            counters: Counters::default(),
            notices,
            busy: Busy::default(),
        });
        context.threads.on_herald(trace(queued));
        Arc::new(Self {
            context,
            sessions: Sessions::new(),
            closing: CancellationToken::new(),
            locks: Mutex::default(),
        })
    }

    /// The shared state of one lock. It lives as long as somebody uses it.
    pub(crate) fn lock_state(&self, name: LockName) -> Arc<LockState> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = locks.get(&name).and_then(Weak::upgrade) {
            return state;
        }
        if locks.len() == locks.capacity() {
            locks.retain(|_, state| state.strong_count() > 0);
        }
        let state = Arc::new(LockState::new(name.clone()));
        locks.insert(name, Arc::downgrade(&state));
        state
    }

    /// Opens the first session, within `connect_timeout`.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<()> {
        let engine = Arc::clone(self);
        let opened = self.run("connect", async move {
            let last = Mutex::new(None);
            let note = |error: Error| {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                // That nobody answered in time says less than what somebody said before.
                if last.is_none() || std::error::Error::source(&error).is_some() {
                    *last = Some(error);
                }
            };
            let (context, limit) = (&engine.context, engine.context.options.connect_timeout);
            let opening = engine.sessions.current(context, true, note);
            let opened = limited(&*context.clock, limit, opening).await;
            let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
            opened.unwrap_or_else(|| Err(context.unanswered("connect", limit, last)))
        });
        opened.await.map(drop)
    }

    pub(crate) async fn acquire(
        self: &Arc<Self>,
        lock: &Arc<LockState>,
        request: Request,
        wait: Wait,
    ) -> Result<Option<Arc<Hold>>> {
        let _waiting = self.waiting(lock)?;
        let seek = seek::acquire(Arc::clone(self), Arc::clone(lock), request, wait);
        // The grant is released if nobody takes it out of the answer.
        let granted = async { seek.await.map(|hold| hold.map(Some).map(Granted)) };
        Ok(self.run("acquire", granted).await?.and_then(Granted::take))
    }

    /// Does work for a caller who awaits it; dropping the future drops the work.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send {
        // At once: an acquire takes kilobytes, which every future around it would hold as well.
        let work = Box::pin(work);
        async move {
            self.check_fork(operation)?;
            let done = self.context.threads.run(work).await;
            done.unwrap_or_else(|| Err(self.closed(operation)))
        }
    }

    /// Refuses a fork's child: the threads that would do its work are the parent's.
    pub(crate) fn check_fork(&self, operation: &'static str) -> Result<()> {
        if !self.context.is_forked() {
            return Ok(());
        }
        let error = self.context.error(ErrorKind::Unsupported, operation);
        Err(error.with_detail("this process was forked; connect anew in it"))
    }

    /// Refuses new calls, waits for guards, calls and clean-ups to end, closes the sessions.
    ///
    /// Returns how many grants were still held at `limit`; these are lost.
    pub(crate) async fn shutdown(self: &Arc<Self>, limit: Duration) -> Result<usize> {
        self.closing.cancel();
        let engine = Arc::clone(self);
        let drained = self.run("shutdown", async move {
            let context = &engine.context;
            let _ = limited(&*context.clock, limit, context.busy.idle()).await;
            let held = context.counters.held.load(Ordering::Relaxed);
            let until = context.clock.now().after(context.options.connect_timeout);
            for session in engine.sessions.close() {
                if limited_until(&*context.clock, until, session.over()).await.is_none() {
                    let error = context.error(ErrorKind::Unconfirmed, "shutdown");
                    return Err(error.with_detail(format!(
                        "the store did not confirm the end of the session, which ends within {:?}",
                        session.session.granted
                    )));
                }
            }
            Ok(held)
        });
        drained.await
    }

    /// The error of a call on a manager that was shut down.
    pub(crate) fn closed(&self, operation: &'static str) -> Error {
        self.context
            .error(ErrorKind::Unavailable, operation)
            .with_detail("the manager was shut down; nothing is held or queued")
    }

    fn waiting(self: &Arc<Self>, lock: &LockState) -> Result<Waiting> {
        let context = &self.context;
        let (waiting, max) = (&context.counters.waiting, context.options.max_waiters);
        let mark = Waiting { context: Arc::clone(context), _busy: context.busy.mark() };
        if waiting.fetch_add(1, Ordering::AcqRel) >= max {
            return Err(context
                .error(ErrorKind::Overloaded, "acquire")
                .with_key(lock.name.as_str())
                .with_detail(format!("{max} calls are waiting already; nothing was queued")));
        }
        Ok(mark)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.context.is_forked() {
            self.sessions.close();
        }
    }
}

/// A grant on its way to the caller.
struct Granted(Option<Arc<Hold>>);

impl Granted {
    fn take(mut self) -> Option<Arc<Hold>> {
        self.0.take()
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(hold) = self.0.take() {
            drop(hold.end());
        }
    }
}

/// One call that is counted against `max_waiters`.
#[derive(Debug)]
struct Waiting {
    context: Arc<Context>,
    _busy: super::context::BusyMark,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.context.counters.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Speaks to `tracing` for the keeper.
async fn trace(mut notices: mpsc::Receiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::Renewed { lag } => {
                tracing::trace_span!("renew").in_scope(|| tracing::trace!(?lag, "renewed"));
            }
            Notice::RenewalFailed { error } => {
                tracing::warn_span!("renew").in_scope(|| tracing::warn!(%error, "renewal failed"));
            }
            Notice::SessionLost { reason } => tracing::info!(?reason, "session ended"),
        }
    }
}

/// How many notices may wait for the herald before some are dropped.
const NOTICES: usize = 256;
