//! A backend that loses, delays and reorders what passes through it, by a seeded plan.

use async_trait::async_trait;
use portunus_core::backend::{
    Attempt, AttemptId, BoxStream, Capabilities, Contender, Entered, Entry, EntryId, Left,
    LockBackend, LockObserver, NamePage, Observation, Probe, Renewal, Session, Turn,
};
use portunus_core::clock::Clock;
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What may happen to a request, each as a share of all requests from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// It is refused, and certainly not applied.
    pub refused: f64,
    /// It is lost on the way; the caller learns nothing.
    pub request_lost: f64,
    /// It is applied and its answer is lost.
    pub reply_lost: f64,
    /// It is applied long after the caller was told that nothing is known.
    pub late: f64,
    /// Its session is ended by the store first, before its time.
    pub session_ended: f64,
    /// A wake-up never comes.
    pub wake_lost: f64,
    /// The longest time that a request or a reply is on its way.
    pub delay: Duration,
    /// The longest time by which a late request is late.
    pub lateness: Duration,
}

/// A backend behind a bad network. Once a request has left, dropping its future stops nothing: it
/// may still be applied, as it is with a real store.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn LockBackend>,
    clock: Arc<dyn Clock>,
    plan: Arc<Mutex<(StdRng, Faults)>>,
    frozen: Arc<watch::Sender<bool>>,
    answered: Arc<Mutex<HashSet<AttemptId>>>,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Pass { there: Duration, back: Duration },
    Refused,
    RequestLost,
    ReplyLost,
    Late(Duration),
    SessionEnded,
}

impl Faulty {
    /// Puts faults before `inner`. One seed gives one plan.
    pub fn new(inner: Arc<dyn LockBackend>, clock: Arc<dyn Clock>, seed: u64) -> Self {
        let plan = (StdRng::seed_from_u64(seed), Faults::default());
        let frozen = Arc::new(watch::Sender::new(false));
        Self { inner, clock, plan: Arc::new(Mutex::new(plan)), frozen, answered: Arc::default() }
    }

    /// Sets what happens from now on.
    pub fn set(&self, faults: Faults) {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).1 = faults;
    }

    /// Holds every request back before it is applied, until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Lets everything that was held back arrive, also what its caller has given up.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// Whether the answer that this attempt has an entry has reached its sender.
    #[must_use]
    pub fn has_answered(&self, attempt: AttemptId) -> bool {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).contains(&attempt)
    }

    /// Sends a request to its fate.
    async fn send<T: Send + 'static>(
        &self,
        session: Option<&Session>,
        call: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (inner, clock) = (Arc::clone(&self.inner), Arc::clone(&self.clock));
        let mut frozen = self.frozen.subscribe();
        let unknown = || Error::new(ErrorKind::Unconfirmed, "faulty", "send");
        let fate = self.draw();
        let session = session.cloned();
        let lateness = match fate {
            Fate::Refused => return Err(Error::new(ErrorKind::Unavailable, "faulty", "send")),
            Fate::RequestLost => return self.silence().await,
            Fate::Pass { there, .. } | Fate::Late(there) => there,
            Fate::ReplyLost | Fate::SessionEnded => Duration::ZERO,
        };
        let applied = tokio::spawn(async move {
            clock.sleep_until(clock.now().after(lateness)).await;
            // The sender lives in the backend that this task was sent by.
            let _ = frozen.wait_for(|frozen| !frozen).await;
            if let (Fate::SessionEnded, Some(session)) = (fate, &session) {
                inner.close_session(session).await?;
            }
            call.await
        });
        match fate {
            Fate::Late(_) => return Err(unknown()),
            Fate::ReplyLost => {
                drop(applied.await);
                return self.silence().await;
            }
            _ => {}
        }
        let answer = applied.await.unwrap_or_else(|_| Err(unknown()));
        if let Fate::Pass { back, .. } = fate {
            self.clock.sleep_until(self.clock.now().after(back)).await;
        }
        answer
    }

    /// No answer, or after a while the news that there will be none.
    async fn silence<T>(&self) -> Result<T> {
        let (hang, after) = self.with_plan(|rng, faults| {
            (rng.random_bool(0.5), rng.random_range(Duration::ZERO..=faults.delay))
        });
        if hang {
            std::future::pending::<()>().await;
        }
        self.clock.sleep_until(self.clock.now().after(after)).await;
        Err(Error::new(ErrorKind::Unconfirmed, "faulty", "send"))
    }

    fn draw(&self) -> Fate {
        self.with_plan(|rng, faults| {
            let mut share: f64 = rng.random();
            let mut falls = |probability: f64| {
                let falls = (0.0..probability).contains(&share);
                share -= probability;
                falls
            };
            if falls(faults.refused) {
                Fate::Refused
            } else if falls(faults.request_lost) {
                Fate::RequestLost
            } else if falls(faults.reply_lost) {
                Fate::ReplyLost
            } else if falls(faults.late) {
                Fate::Late(rng.random_range(Duration::ZERO..=faults.lateness))
            } else if falls(faults.session_ended) {
                Fate::SessionEnded
            } else {
                let there = rng.random_range(Duration::ZERO..=faults.delay);
                Fate::Pass { there, back: rng.random_range(Duration::ZERO..=faults.delay) }
            }
        })
    }

    fn with_plan<T>(&self, draw: impl FnOnce(&mut StdRng, &Faults) -> T) -> T {
        let (rng, faults) = &mut *self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        draw(rng, faults)
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn open_session(&self, ttl: Duration) -> Result<Session> {
        let inner = Arc::clone(&self.inner);
        self.send(None, async move { inner.open_session(ttl).await }).await
    }

    async fn renew(&self, session: &Session, held: &[Arc<Attempt>]) -> Result<Renewal> {
        let (inner, of, held) = (Arc::clone(&self.inner), session.clone(), held.to_vec());
        self.send(Some(session), async move { inner.renew(&of, &held).await }).await
    }

    async fn close_session(&self, session: &Session) -> Result<()> {
        let (inner, of) = (Arc::clone(&self.inner), session.clone());
        self.send(Some(session), async move { inner.close_session(&of).await }).await
    }

    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        let (inner, of, attempt) = (Arc::clone(&self.inner), session.clone(), attempt.clone());
        let id = attempt.id;
        let entered =
            self.send(Some(session), async move { inner.enter(&of, &attempt).await }).await;
        if let Ok(Entered::Queued { .. }) = &entered {
            self.answered.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        }
        entered
    }

    async fn look(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        let (inner, of) = (Arc::clone(&self.inner), session.clone());
        let (attempt, entry) = (attempt.clone(), entry.clone());
        self.send(Some(session), async move { inner.look(&of, &attempt, &entry).await }).await
    }

    async fn changed(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        turn: &Turn,
    ) -> Result<()> {
        if self.with_plan(|rng, faults| rng.random_bool(faults.wake_lost)) {
            std::future::pending::<()>().await;
        }
        self.inner.changed(session, attempt, entry, turn).await
    }

    async fn leave(&self, session: &Session, attempt: &Attempt, in_doubt: bool) -> Result<Left> {
        let (inner, of, attempt) = (Arc::clone(&self.inner), session.clone(), attempt.clone());
        self.send(Some(session), async move { inner.leave(&of, &attempt, in_doubt).await }).await
    }

    async fn convert(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<()> {
        let (inner, of) = (Arc::clone(&self.inner), session.clone());
        let (attempt, entry) = (attempt.clone(), entry.clone());
        self.send(Some(session), async move { inner.convert(&of, &attempt, &entry).await }).await
    }

    async fn publish(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: &str,
    ) -> Result<()> {
        let (inner, of) = (Arc::clone(&self.inner), session.clone());
        let (attempt, entry, value) = (attempt.clone(), entry.clone(), value.to_owned());
        let call = async move { inner.publish(&of, &attempt, &entry, &value).await };
        self.send(Some(session), call).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockObserver for Faulty {
    async fn queue(&self, name: &LockName) -> Result<Vec<Entry>> {
        let (inner, name) = (Arc::clone(&self.inner), name.clone());
        self.send(None, async move { inner.queue(&name).await }).await
    }

    async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        let (inner, name) = (Arc::clone(&self.inner), name.clone());
        self.send(None, async move { inner.contenders(&name).await }).await
    }

    async fn follow(&self, name: &LockName, since: u64) -> Result<BoxStream<Result<Observation>>> {
        self.inner.follow(name, since).await
    }

    async fn names(&self, prefix: &str, page: Option<&str>) -> Result<NamePage> {
        self.inner.names(prefix, page).await
    }

    async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool> {
        self.inner.evict(name, entry).await
    }

    async fn probe(&self) -> Result<Probe> {
        self.inner.probe().await
    }
}
