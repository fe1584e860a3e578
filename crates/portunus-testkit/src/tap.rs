//! A backend between the suite and the store: it counts, cuts, loses replies and stops at a step.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use portunus_core::backend::{
    Attempt, BoxStream, Capabilities, Contender, Entered, Entry, EntryId, Left, LockBackend,
    LockObserver, NamePage, Observation, Probe, Renewal, Session, Turn,
};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;
use tokio::sync::watch;

/// A backend that passes everything on, and can be told not to.
#[derive(Debug)]
pub(crate) struct Tap {
    inner: Arc<dyn LockBackend>,
    opened: Arc<Mutex<Vec<Session>>>,
    own: Mutex<Vec<Session>>,
    calls: Mutex<HashMap<Verb, usize>>,
    rules: watch::Sender<Rules>,
    gate: (Mutex<bool>, Condvar),
}

/// The verbs that the suite counts or interferes with.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Verb {
    Open,
    Renew,
    Close,
    Enter,
    Look,
    Changed,
    Leave,
    Other,
}

#[derive(Debug, Default)]
struct Rules {
    cut: bool,
    lost_replies: HashMap<Verb, usize>,
    blocking: Option<Verb>,
    /// How many steps an acquire may take before it is stopped where it is.
    steps: Option<usize>,
    stopped: bool,
}

impl Tap {
    /// Passes on to `inner`, and notes the sessions in `opened`.
    pub(crate) fn new(inner: Arc<dyn LockBackend>, opened: Arc<Mutex<Vec<Session>>>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            opened,
            own: Mutex::default(),
            calls: Mutex::default(),
            rules: watch::Sender::default(),
            gate: Default::default(),
        })
    }

    /// The session that was opened last through this tap.
    pub(crate) fn session(&self) -> Session {
        locked(&self.own).last().expect("no session was opened").clone()
    }

    /// How often a verb was called.
    pub(crate) fn calls(&self, verb: Verb) -> usize {
        locked(&self.calls).get(&verb).copied().unwrap_or(0)
    }

    /// Cuts the client off: no request arrives any more, and no answer returns.
    pub(crate) fn cut(&self) {
        self.rules.send_modify(|rules| rules.cut = true);
    }

    /// The next `count` requests of this verb are applied, and their answers lost.
    pub(crate) fn lose_replies(&self, verb: Verb, count: usize) {
        self.rules.send_modify(|rules| {
            rules.lost_replies.insert(verb, count);
        });
    }

    /// The next request of this verb is applied; then it blocks the *thread* that awaits it until
    /// [`unblock`](Self::unblock).
    pub(crate) fn block(&self, verb: Verb) {
        self.rules.send_modify(|rules| rules.blocking = Some(verb));
    }

    /// Completes when a thread is blocked.
    pub(crate) async fn blocked(&self) {
        self.until(|rules| rules.blocking.is_none()).await;
    }

    pub(crate) fn unblock(&self) {
        *locked(&self.gate.0) = true;
        self.gate.1.notify_all();
    }

    /// Stops the acquire that follows after `steps` steps: each request is one when it is about to
    /// leave and another when its answer is about to return.
    pub(crate) fn stop_after(&self, steps: usize) {
        self.rules.send_modify(|rules| {
            rules.steps = Some(steps);
            rules.stopped = false;
        });
    }

    /// Completes when it was stopped.
    pub(crate) async fn stopped(&self) {
        self.until(|rules| rules.stopped).await;
    }

    /// Lets everything pass again.
    pub(crate) fn pass_on(&self) {
        self.rules.send_modify(|rules| *rules = Rules::default());
    }

    async fn until(&self, condition: impl FnMut(&Rules) -> bool + Send) {
        // The sender lives as long as `self`.
        let _ = self.rules.subscribe().wait_for(condition).await;
    }

    async fn pass<T>(&self, verb: Verb, call: impl Future<Output = Result<T>>) -> Result<T> {
        *locked(&self.calls).entry(verb).or_default() += 1;
        self.step(verb).await;
        self.until(|rules| !rules.cut).await;
        let answer = call.await;
        self.step(verb).await;
        self.until(|rules| !rules.cut).await;
        if self.rules.send_if_modified(|rules| rules.blocking.take_if(|of| *of == verb).is_some()) {
            let open = locked(&self.gate.0);
            drop(self.gate.1.wait_timeout_while(open, BLOCKED, |open| !*open));
        }
        let lost = self.rules.send_if_modified(|rules| match rules.lost_replies.get_mut(&verb) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        });
        if lost { Err(Error::new(ErrorKind::Unconfirmed, "tap", "reply")) } else { answer }
    }

    async fn step(&self, verb: Verb) {
        if !matches!(verb, Verb::Enter | Verb::Look | Verb::Changed) {
            return;
        }
        let stop = self.rules.send_if_modified(|rules| match &mut rules.steps {
            Some(0) if !rules.stopped => {
                rules.stopped = true;
                true
            }
            Some(steps) if *steps > 0 => {
                *steps -= 1;
                false
            }
            _ => false,
        });
        if stop {
            self.until(|rules| rules.steps.is_none()).await;
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for Tap {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn open_session(&self, ttl: Duration) -> Result<Session> {
        let call = async {
            let session = self.inner.open_session(ttl).await?;
            locked(&self.opened).push(session.clone());
            locked(&self.own).push(session.clone());
            Ok(session)
        };
        self.pass(Verb::Open, call).await
    }

    async fn renew(&self, session: &Session, held: &[Arc<Attempt>]) -> Result<Renewal> {
        self.pass(Verb::Renew, self.inner.renew(session, held)).await
    }

    async fn close_session(&self, session: &Session) -> Result<()> {
        self.pass(Verb::Close, self.inner.close_session(session)).await
    }

    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        self.pass(Verb::Enter, self.inner.enter(session, attempt)).await
    }

    async fn look(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        self.pass(Verb::Look, self.inner.look(session, attempt, entry)).await
    }

    async fn changed(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        turn: &Turn,
    ) -> Result<()> {
        self.pass(Verb::Changed, self.inner.changed(session, attempt, entry, turn)).await
    }

    async fn leave(&self, session: &Session, attempt: &Attempt, in_doubt: bool) -> Result<Left> {
        self.pass(Verb::Leave, self.inner.leave(session, attempt, in_doubt)).await
    }

    async fn convert(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<()> {
        self.pass(Verb::Other, self.inner.convert(session, attempt, entry)).await
    }

    async fn publish(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: &str,
    ) -> Result<()> {
        self.pass(Verb::Other, self.inner.publish(session, attempt, entry, value)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockObserver for Tap {
    async fn queue(&self, name: &LockName) -> Result<Vec<Entry>> {
        self.pass(Verb::Other, self.inner.queue(name)).await
    }

    async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        self.pass(Verb::Other, self.inner.contenders(name)).await
    }

    async fn follow(&self, name: &LockName, since: u64) -> Result<BoxStream<Result<Observation>>> {
        self.pass(Verb::Other, self.inner.follow(name, since)).await
    }

    async fn names(&self, prefix: &str, page: Option<&str>) -> Result<NamePage> {
        self.pass(Verb::Other, self.inner.names(prefix, page)).await
    }

    async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool> {
        self.pass(Verb::Other, self.inner.evict(name, entry)).await
    }

    async fn probe(&self) -> Result<Probe> {
        self.pass(Verb::Other, self.inner.probe()).await
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No test blocks a thread for longer, even one that failed and never unblocks it.
const BLOCKED: Duration = Duration::from_secs(30);
