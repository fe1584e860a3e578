//! The lock manager: one session in one store, and everything that is locked through it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::backend::{Capabilities, Contender, Holder, LockBackend, Probe};
use crate::chance::Chance;
use crate::clock::{BootClock, Clock};
use crate::error::{Error, ErrorKind, Result};
use crate::keeper::{Context, Engine, Options, Threads};
use crate::lock::Lock;
use crate::name::LockName;
use crate::url::StoreUrl;

/// One session in one store. Cheap to clone; clones share the session.
///
/// It owns two threads that renew, watch and clean up, whatever the user's executor does. With the
/// last manager, lock and guard the session is closed in the background; to be sure of it before
/// the process ends, call [`shutdown`](Self::shutdown).
#[derive(Clone)]
pub struct LockManager {
    engine: Arc<Engine>,
}

impl LockManager {
    /// Begins a manager on a backend; the facade's `connect` does it from a URL.
    pub fn builder(backend: impl LockBackend + 'static) -> ManagerBuilder {
        ManagerBuilder::new(Arc::new(backend))
    }

    /// Names a lock.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: see [`LockName::new`].
    pub fn lock(&self, name: impl AsRef<str>) -> Result<Lock> {
        Ok(Lock::new(Arc::clone(&self.engine), LockName::new(name)?))
    }

    /// Lists who holds and who waits, in the order of the queue.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the store gave no answer within `connect_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; changes nothing.
    pub async fn contenders(&self, name: impl AsRef<str>) -> Result<Vec<Contender>> {
        let name = LockName::new(name)?;
        self.ask(move |context| async move {
            context.ask("contenders", || context.backend.contenders(&name)).await
        })
        .await
    }

    /// Asks the store who it is, and what about its settings is dangerous.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the store gave no answer within `connect_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; changes nothing.
    pub async fn probe(&self) -> Result<Probe> {
        self.ask(|context| async move { context.ask("probe", || context.backend.probe()).await })
            .await
    }

    /// Returns what the store can do and promises.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.engine.context.capabilities
    }

    /// Returns counters of this manager, without I/O.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.engine.context.counters;
        Stats {
            held: counters.held.load(Ordering::Relaxed),
            waiting: counters.waiting.load(Ordering::Relaxed),
            reaping: counters.reaping.load(Ordering::Relaxed),
            acquired: counters.acquired.load(Ordering::Relaxed),
            lost: counters.lost.load(Ordering::Relaxed),
            places_lost: counters.places_lost.load(Ordering::Relaxed),
            renewals: counters.renewals.load(Ordering::Relaxed),
            retries: counters.retries.load(Ordering::Relaxed),
            sessions: counters.sessions.load(Ordering::Relaxed),
            notices_dropped: counters.notices_dropped.load(Ordering::Relaxed),
            suspended: counters.suspended.load(Ordering::Relaxed),
        }
    }

    /// Refuses new calls, ends those that wait, gives guards `limit` to be released, then closes
    /// the session: what is still held is lost. Returns how many guards that were.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unconfirmed`] when the store did not confirm the end within a further
    /// `connect_timeout`; the entries go with the session's time to live.
    ///
    /// # Cancel safety
    ///
    /// New calls stay refused; call it again to finish.
    pub async fn shutdown(&self, limit: Duration) -> Result<usize> {
        self.engine.shutdown(limit).await
    }

    async fn ask<T, F>(&self, call: impl FnOnce(Arc<Context>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.engine.run("ask", call(Arc::clone(&self.engine.context))).await
    }
}

impl fmt::Debug for LockManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockManager")
            .field("backend", &self.engine.context.backend)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Counters of one manager since it was opened.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Guards that exist now.
    pub held: usize,
    /// Calls that wait now.
    pub waiting: usize,
    /// Withdrawals that the store has not confirmed yet.
    pub reaping: usize,
    /// Grants.
    pub acquired: u64,
    /// Grants that were lost.
    pub lost: u64,
    /// Places in a queue that were lost with their session.
    pub places_lost: u64,
    /// Confirmed renewals.
    pub renewals: u64,
    /// Requests that were repeated.
    pub retries: u64,
    /// Sessions that were opened: one, and one more for each that ended or was retired.
    pub sessions: u64,
    /// Events that were not traced because the subscriber was too slow.
    pub notices_dropped: u64,
    /// Whether renewals are failing now.
    pub suspended: bool,
}

/// The options of a [`LockManager`].
///
/// - `ttl`: 10 s
/// - `connect_timeout`: 5 s
/// - `max_waiters`: 10,000
/// - `max_hold`: none
/// - `lock_delay`: none
/// - `fail_fast`: no
/// - `app`: empty
#[derive(Debug)]
pub struct ManagerBuilder {
    backend: Arc<dyn LockBackend>,
    options: Options,
    app: String,
    clock: Arc<dyn Clock>,
    seed: Option<u64>,
    inline: bool,
}

impl ManagerBuilder {
    /// Begins with the defaults.
    #[must_use]
    pub fn new(backend: Arc<dyn LockBackend>) -> Self {
        let options = Options {
            ttl: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            max_waiters: 10_000,
            max_hold: None,
            lock_delay: Duration::ZERO,
            fail_fast: false,
        };
        let clock = Arc::new(BootClock::new());
        Self { backend, options, app: String::new(), clock, seed: None, inline: false }
    }

    /// How long the store keeps the locks of a process that has died; the store rounds up to its
    /// step and may grant more. Renewed three times as often, or more where the store needs it.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = ttl;
        self
    }

    /// How long calls without a limit of their own keep trying when the store does not answer.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.options.connect_timeout = limit;
        self
    }

    /// How many calls may wait at a time; a further one is refused as `Overloaded`.
    #[must_use]
    pub fn max_waiters(mut self, max: usize) -> Self {
        self.options.max_waiters = max;
        self
    }

    /// The longest that one grant is held: then it is lost, and only then its entry withdrawn, so
    /// that a stuck holder blocks nobody for ever.
    #[must_use]
    pub fn max_hold(mut self, span: Duration) -> Self {
        self.options.max_hold = Some(span);
        self
    }

    /// For resources that can't check tokens: how long a lock stays unavailable after its holder
    /// *lost* it, so that writes under way can drain (Burrows, *Chubby*, §2.4). A clean release
    /// frees it at once. The store's time to live is this much longer than what the holder counts
    /// on; an operator's eviction frees the entry without delay.
    #[must_use]
    pub fn lock_delay(mut self, span: Duration) -> Self {
        self.options.lock_delay = span;
        self
    }

    /// While renewals fail, whether new calls fail at once instead of waiting for the store.
    #[must_use]
    pub fn fail_fast(mut self, yes: bool) -> Self {
        self.options.fail_fast = yes;
        self
    }

    /// A name for this application, shown to whoever lists the contenders.
    #[must_use]
    pub fn app(mut self, name: impl Into<String>) -> Self {
        self.app = name.into();
        self
    }

    /// Another clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// A seed for attempt ids and jitter. Only for simulation: two managers with one seed make the
    /// same ids.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Runs the engine on the current runtime instead of on threads of its own. Only for
    /// simulation: a blocked executor then starves renewals.
    #[must_use]
    pub fn inline(mut self) -> Self {
        self.inline = true;
        self
    }

    /// Takes the options that every store shares from a URL: `ttl`, `connect_timeout`,
    /// `max_waiters`, `max_hold`, `lock_delay`, `fail_fast`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a value that can't be read.
    pub fn options(mut self, url: &mut StoreUrl) -> Result<Self> {
        let options = &mut self.options;
        options.ttl = url.take_duration("ttl")?.unwrap_or(options.ttl);
        let limit = url.take_duration("connect_timeout")?;
        options.connect_timeout = limit.unwrap_or(options.connect_timeout);
        options.max_waiters = url.take_number("max_waiters")?.unwrap_or(options.max_waiters);
        options.max_hold = url.take_duration("max_hold")?.or(options.max_hold);
        options.lock_delay = url.take_duration("lock_delay")?.unwrap_or(options.lock_delay);
        options.fail_fast = url.take_bool("fail_fast")?.unwrap_or(options.fail_fast);
        Ok(self)
    }

    /// Connects: opens the session, within `connect_timeout`.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: an option is out of its range.
    /// - [`ErrorKind::Unavailable`]: no server answered in time; nothing is left.
    /// - [`ErrorKind::Denied`]: the store refused the credentials.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; a session that was opened is closed in the background.
    ///
    /// # Panics
    ///
    /// Panics with [`inline`](Self::inline) outside a Tokio runtime.
    pub async fn open(self) -> Result<LockManager> {
        self.check()?;
        let store = self.backend.capabilities().store;
        let threads = if self.inline { Ok(Threads::inline()) } else { Threads::start() };
        let threads = threads.map_err(|error| {
            Error::new(ErrorKind::Unavailable, store, "connect")
                .with_detail("a thread could not be started")
                .with_source(error)
        })?;
        let holder = Holder { host: host(), pid: std::process::id(), app: self.app };
        let chance = Chance::new(self.seed);
        let engine = Engine::new(self.backend, self.clock, chance, threads, self.options, holder);
        engine.connect().await?;
        Ok(LockManager { engine })
    }

    fn check(&self) -> Result<()> {
        let (options, store) = (&self.options, self.backend.capabilities());
        let asked = options.ttl.saturating_add(options.lock_delay);
        let fault = if options.ttl < store.min_ttl || asked > store.max_ttl {
            format!(
                "ttl is {:?} and lock_delay {:?}; accepted are {:?} to {:?} together",
                options.ttl, options.lock_delay, store.min_ttl, store.max_ttl
            )
        } else if options.max_hold.is_some_and(|span| span.is_zero()) {
            "max_hold is zero; accepted is any longer span".to_owned()
        } else if options.connect_timeout.is_zero() {
            "connect_timeout is zero; accepted is any longer span".to_owned()
        } else if options.max_waiters == 0 {
            "max_waiters is zero; accepted is 1 or more".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Invalid, store.store, "connect").with_detail(fault))
    }
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}
