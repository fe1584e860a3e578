//! What every part of one manager shares: store, clock, chance, threads, options, counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

use super::seek::Wait;
use super::threads::Threads;
use crate::backend::{Capabilities, Holder, LockBackend, TokenStrength};
use crate::chance::{Backoff, Chance};
use crate::clock::{Clock, limited};
use crate::error::{Error, ErrorKind, Result};
use crate::token::{FencingToken, Origin};

/// Shared by all tasks and guards of one manager; the threads end with its last user.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) backend: Arc<dyn LockBackend>,
    pub(crate) capabilities: Capabilities,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Chance,
    pub(crate) threads: Threads,
    pub(crate) options: Options,
    pub(crate) holder: Arc<Holder>,
    pub(crate) counters: Counters,
    pub(crate) notices: mpsc::Sender<Notice>,
    pub(crate) busy: Busy,
}

/// The options of a manager; [`ManagerBuilder`](crate::manager::ManagerBuilder) documents them.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) ttl: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_waiters: usize,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) lock_delay: Duration,
    pub(crate) fail_fast: bool,
    pub(crate) allow_weak: bool,
}

/// What the keeper wants traced; the herald does it.
#[derive(Debug)]
pub(crate) enum Notice {
    Renewed { lag: Duration },
    RenewalFailed { error: Error },
    SessionLost { reason: crate::loss::LossReason },
}

/// Counters since the start of the manager.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) held: AtomicUsize,
    pub(crate) waiting: AtomicUsize,
    pub(crate) reaping: AtomicUsize,
    pub(crate) acquired: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) places_lost: AtomicU64,
    pub(crate) renewals: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) sessions: AtomicU64,
    pub(crate) notices_dropped: AtomicU64,
    pub(crate) suspended: AtomicBool,
}

impl Context {
    /// Whether this is another process than the one that started the threads: a fork's child.
    pub(crate) fn is_forked(&self) -> bool {
        std::process::id() != self.holder.pid
    }

    /// An error of this store.
    pub(crate) fn error(&self, kind: ErrorKind, operation: &'static str) -> Error {
        Error::new(kind, self.capabilities.store, operation)
    }

    /// The token of a grant. It says what this store's are worth, and whether this manager's user
    /// accepts that.
    pub(crate) fn token(&self, value: u64, origin: Origin) -> FencingToken {
        match self.capabilities.strength {
            TokenStrength::Weak if self.options.allow_weak => {
                FencingToken::new_weak(value, origin).allow_weak()
            }
            TokenStrength::Weak => FencingToken::new_weak(value, origin),
            TokenStrength::Durable | TokenStrength::Strong => FencingToken::new(value, origin),
        }
    }

    /// The time to live that sessions are asked for.
    pub(crate) fn ttl(&self) -> Duration {
        self.options.ttl + self.options.lock_delay
    }

    /// The wait that is over when `limit` has passed.
    pub(crate) fn until(&self, limit: Duration) -> Wait {
        Wait::Until(self.clock.now().after(limit))
    }

    /// Whether a wait that ends has ended.
    pub(crate) fn is_over(&self, wait: Wait) -> bool {
        matches!(wait, Wait::Until(moment) if moment <= self.clock.now())
    }

    /// A backoff whose longest delay suits a session that lives for `span`.
    pub(crate) fn backoff(&self, span: Duration) -> Backoff {
        Backoff::new((span / 6).min(Duration::from_secs(1)))
    }

    pub(crate) async fn pause(&self, backoff: &mut Backoff) {
        self.counters.retries.fetch_add(1, Ordering::Relaxed);
        self.sleep(backoff.next(&self.chance)).await;
    }

    pub(crate) async fn sleep(&self, span: Duration) {
        self.clock.sleep_until(self.clock.now().after(span)).await;
    }

    /// Hands something to the herald for tracing; dropped, and counted, when it is behind.
    pub(crate) fn notice(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            self.counters.notices_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks the store something that changes nothing, again and again until it answers or
    /// `connect_timeout` is over.
    pub(crate) async fn ask<T, F>(
        &self,
        operation: &'static str,
        call: impl Fn() -> F + Send + Sync,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let limit = self.options.connect_timeout;
        let mut backoff = self.backoff(limit);
        let mut last = None;
        let answer = limited(&*self.clock, limit, async {
            loop {
                match limited(&*self.clock, limit / 3, call()).await {
                    Some(Err(error)) if error.is_retryable() => last = Some(error),
                    Some(answer) => return answer,
                    None => {}
                }
                self.pause(&mut backoff).await;
            }
        })
        .await;
        answer.unwrap_or_else(|| Err(self.unanswered(operation, limit, last)))
    }

    /// The error of a call that ended without an answer within `limit`.
    pub(crate) fn unanswered(
        &self,
        operation: &'static str,
        limit: Duration,
        last: Option<Error>,
    ) -> Error {
        let error = self
            .error(ErrorKind::Unavailable, operation)
            .with_detail(format!("no answer within {limit:?} from {:?}", self.backend));
        match last {
            Some(last) => error.with_source(last),
            None => error,
        }
    }
}

/// Counts what still has to end before a shutdown is done: guards, calls, clean-ups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Busy(Arc<(AtomicUsize, Notify)>);

/// One thing that is busy.
#[derive(Debug)]
pub(crate) struct BusyMark(Busy);

impl Busy {
    pub(crate) fn mark(&self) -> BusyMark {
        self.0.0.fetch_add(1, Ordering::AcqRel);
        BusyMark(self.clone())
    }

    /// Completes when nothing is busy.
    pub(crate) async fn idle(&self) {
        loop {
            let mut notified = std::pin::pin!(self.0.1.notified());
            notified.as_mut().enable();
            if self.0.0.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for BusyMark {
    fn drop(&mut self) {
        let Busy(shared) = &self.0;
        if shared.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.1.notify_waiters();
        }
    }
}
