//! The reference backend: a store in this process, for examples, tests and simulation.

mod state;

use async_trait::async_trait;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

use self::state::State;
use crate::backend::{
    Attempt, BoxStream, Capabilities, Contender, Entered, Entry, EntryId, Left, LockBackend,
    LockObserver, NamePage, Observation, Probe, Record, Renewal, Session, TokenStrength, Turn,
};
use crate::clock::{BootClock, Clock};
use crate::error::{Error, ErrorKind, Result};
use crate::name::LockName;
use crate::token::Incarnation;

/// The longest value of a leader, in bytes of UTF-8: 128 KiB. Nothing here needs a limit; with this one
/// a value that is tried out here fits elsewhere too.
pub const MAX_VALUE_BYTES: usize = 128 * 1024;

/// A store of locks in this process. Clones share it: managers on clones exclude each other.
///
/// | | |
/// |---|---|
/// | stored as | a map behind a mutex |
/// | waits by | a signal of the entry before |
/// | token from | one counter |
/// | clock | the one it was made with |
/// | limits | nothing outlives the process |
#[derive(Clone)]
pub struct Memory(Arc<Store>);

struct Store {
    clock: Arc<dyn Clock>,
    incarnation: Incarnation,
    state: Mutex<State>,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(BootClock::new()))
    }

    /// An empty store whose sessions expire by `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let incarnation = Incarnation::from(rand::random::<u128>());
        Self(Arc::new(Store { clock, incarnation, state: Mutex::default() }))
    }

    /// The head of a queue, as soon as its holder is another than in `last`.
    async fn head(&self, name: &LockName, last: Option<&Observation>) -> Observation {
        loop {
            let observer = self.with(|state| state.observer(name));
            let mut changed = std::pin::pin!(observer.notified());
            changed.as_mut().enable();
            let (as_of, holder, expiry) = self.with(|state| {
                let contenders = state.contenders(name).unwrap_or_default();
                let holder = contenders.into_iter().find(|contender| contender.holds);
                (state.position(), holder, state.next_expiry())
            });
            if last.is_none_or(|last| last.holder != holder) {
                return Observation { as_of, holder };
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = self.0.clock.sleep_until(expiry) => {}
            }
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.settle(self.0.clock.now());
        work(&mut state)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

#[async_trait]
impl LockBackend for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            store: "memory",
            fifo: true,
            shared: true,
            permits: true,
            convert: true,
            push: true,
            strength: TokenStrength::Strong,
            crash_release: true,
            min_ttl: Duration::from_millis(100),
            max_ttl: Duration::from_secs(24 * 3600),
            fail_over: Duration::ZERO,
            max_value: MAX_VALUE_BYTES,
        }
    }

    async fn open_session(&self, ttl: Duration) -> Result<Session> {
        let now = self.0.clock.now();
        let id = self.with(|state| state.open(now, ttl));
        Ok(Session::leased(id, self.0.incarnation.clone(), ttl))
    }

    async fn renew(&self, session: &Session, _held: &[Arc<Attempt>]) -> Result<Renewal> {
        let now = self.0.clock.now();
        self.with(|state| state.renew(session.id, now)).map(|()| Renewal::default())
    }

    async fn close_session(&self, session: &Session) -> Result<()> {
        self.with(|state| state.close(session.id));
        Ok(())
    }

    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        self.with(|state| state.enter(session.id, attempt))
    }

    async fn look(&self, _session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        self.with(|state| state.look(attempt, entry))
    }

    async fn changed(
        &self,
        _session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        turn: &Turn,
    ) -> Result<()> {
        let blockers = match turn {
            Turn::Waiting { blockers, as_of } => (blockers.as_slice(), *as_of),
            Turn::Held { .. } | Turn::Lost => (&[][..], 0),
        };
        loop {
            let notify = Arc::new(Notify::new());
            let watched = self.with(|state| state.watch(&attempt.name, entry, blockers, &notify));
            let Some(expires) = watched else { return Ok(()) };
            tokio::select! {
                biased;
                () = notify.notified() => return Ok(()),
                () = self.0.clock.sleep_until(expires) => {}
            }
        }
    }

    async fn leave(&self, session: &Session, attempt: &Attempt, in_doubt: bool) -> Result<Left> {
        Ok(self.with(|state| state.leave(session.id, attempt, in_doubt)))
    }

    async fn convert(&self, _session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<()> {
        let shared = crate::backend::Mode::Shared;
        self.with(|state| state.change("convert", attempt, entry, |record| record.mode = shared))
    }

    async fn publish(
        &self,
        _session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: &str,
    ) -> Result<()> {
        let change = |record: &mut Record| value.clone_into(&mut record.value);
        self.with(|state| state.change("publish", attempt, entry, change))
    }
}

#[async_trait]
impl LockObserver for Memory {
    async fn queue(&self, name: &LockName) -> Result<Vec<Entry>> {
        Ok(self.with(|state| state.queue(name)))
    }

    async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        self.with(|state| state.contenders(name))
    }

    async fn follow(&self, name: &LockName, since: u64) -> Result<BoxStream<Result<Observation>>> {
        if self.with(|state| state.position()) < since {
            return Err(Error::new(ErrorKind::Regression, "memory", "follow"));
        }
        let start = (self.clone(), name.clone(), None);
        Ok(Box::pin(futures_util::stream::unfold(start, |(memory, name, last)| async move {
            let seen = memory.head(&name, last.as_ref()).await;
            Some((Ok(seen.clone()), (memory, name, Some(seen))))
        })))
    }

    async fn names(&self, prefix: &str, _page: Option<&str>) -> Result<NamePage> {
        Ok(NamePage { names: self.with(|state| state.names(prefix)), next: None })
    }

    async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool> {
        Ok(self.with(|state| state.evict(name, entry)))
    }

    async fn probe(&self) -> Result<Probe> {
        let incarnation = self.0.incarnation.clone();
        let warnings = vec!["nothing outlives this process".to_owned()];
        Ok(Probe { incarnation, version: env!("CARGO_PKG_VERSION").to_owned(), warnings })
    }
}
