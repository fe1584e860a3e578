//! How a manager is opened: its options, and what they may be.

use std::sync::Arc;
use std::time::Duration;

use super::LockManager;
use crate::backend::{Holder, LockBackend};
use crate::chance::Chance;
use crate::clock::{BootClock, Clock};
use crate::error::{Error, ErrorKind, Result};
use crate::keeper::{Engine, Options, Threads};
use crate::url::StoreUrl;

/// The options of a [`LockManager`].
///
/// - `ttl`: 10 s
/// - `connect_timeout`: 5 s
/// - `max_waiters`: 10,000
/// - `max_hold`: none
/// - `lock_delay`: none
/// - `fail_fast`: no
/// - `allow_weak`: no
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
            allow_weak: false,
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

    /// Whether elections may be held on a store whose tokens are
    /// [weak](crate::backend::TokenStrength::Weak), and fences in this process take them: after a
    /// fail-over two may lead, and two may pass a fence. Tokens that leave the process take no such
    /// leave with them ([`FencingToken::allow_weak`](crate::token::FencingToken::allow_weak)).
    #[must_use]
    pub fn allow_weak(mut self, yes: bool) -> Self {
        self.options.allow_weak = yes;
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
    /// `max_waiters`, `max_hold`, `lock_delay`, `fail_fast`, `allow_weak`.
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
        options.allow_weak = url.take_bool("allow_weak")?.unwrap_or(options.allow_weak);
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
        Ok(LockManager::new(engine))
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
