//! What the engine does beside the calls of its users, and that it stops doing it.

use portunus_core::async_trait;
use portunus_core::backend::{
    Attempt, AttemptId, BoxStream, Capabilities, Contender, Entered, Entry, EntryId, Left,
    LockBackend, LockObserver, NamePage, Observation, Probe, Renewal, Session, Turn,
};
use portunus_core::clock::{Clock, TokioClock};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::guard::LossReason;
use portunus_core::manager::{LockManager, ManagerBuilder};
use portunus_core::memory::Memory;
use portunus_core::name::LockName;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;
use tokio::sync::{Notify, watch};

const TTL: Duration = Duration::from_secs(6);

#[tokio::test(start_paused = true)]
async fn one_sweep_serves_all_waiters_of_a_lock() {
    let store = Store::new();
    let lock = store.builder().open().await.unwrap().lock("a").unwrap();
    for _ in 0..100 {
        let guard = lock.acquire().await.unwrap();
        // The queue empties and fills again between two listings.
        assert!(lock.acquire_timeout(Duration::from_millis(1)).await.unwrap().is_none());
        guard.release().await.unwrap();
    }
    let _guard = lock.acquire().await.unwrap();
    let before = store.listings.load(Ordering::Relaxed);
    assert!(lock.acquire_timeout(3 * TTL + TTL / 2).await.unwrap().is_none());
    let listings = store.listings.load(Ordering::Relaxed) - before;
    assert!((3..=4).contains(&listings), "{listings} listings in three intervals");
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_never_was_leaves_no_session() {
    let store = Store::new();
    store.slow_open.store(true, Ordering::Relaxed);
    let opening = tokio::time::timeout(Duration::from_millis(100), store.builder().open());
    assert!(opening.await.is_err());
    store.sleep(3 * TTL).await;
    assert_eq!(store.renewals.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lock_delay_longer_than_the_ttl_costs_no_lock() {
    let store = Store::new();
    let manager = store.builder().lock_delay(3 * TTL).open().await.unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    store.sleep(10 * TTL).await;
    assert!(guard.is_held(), "{:?}", guard.status());
}

#[tokio::test(start_paused = true)]
async fn a_lock_delay_outlasts_the_guard_that_was_lost() {
    let store = Store::new();
    let manager = store.builder().lock_delay(TTL).open().await.unwrap();
    let healthy = LockManager::builder(store.inner.clone()).clock(store.clock.clone()).inline();
    let other = healthy.open().await.unwrap().lock("a").unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    store.cut.store(true, Ordering::Relaxed);
    assert_eq!(guard.lost().await, LossReason::Expired);
    store.cut.store(false, Ordering::Relaxed);
    let lost = store.clock.now();
    drop(guard);
    let _next = other.acquire().await.unwrap();
    assert!(store.clock.now().since(lost) >= TTL * 9 / 10);
}

#[tokio::test(start_paused = true)]
async fn a_lock_delay_outlasts_the_guard_that_was_held_too_long() {
    let store = Store::new();
    let builder = store.builder().lock_delay(TTL).max_hold(TTL);
    let lock = builder.open().await.unwrap().lock("a").unwrap();
    let guard = lock.acquire().await.unwrap();
    assert_eq!(guard.lost().await, LossReason::MaxHold);
    let lost = store.clock.now();
    drop(guard);
    let next = lock.acquire().await.unwrap();
    assert!(store.clock.now().since(lost) >= TTL * 9 / 10);
    next.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_released_leaves_no_task() {
    let store = Store::new();
    let manager = store.builder().max_hold(100 * TTL).open().await.unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..100 {
        manager.lock("a").unwrap().acquire().await.unwrap().release().await.unwrap();
    }
    store.sleep(Duration::from_secs(1)).await;
    assert_eq!(tasks(), before);
}

#[tokio::test(start_paused = true)]
async fn a_lost_grant_that_is_kept_is_not_watched() {
    let store = Store::new();
    let manager = store.builder().open().await.unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    store.sleep(Duration::from_secs(2)).await;
    store.cut.store(true, Ordering::Relaxed);
    assert_eq!(guard.lost().await, LossReason::Expired);
    store.sleep(3 * TTL).await;
    let retries = manager.stats().retries;
    store.sleep(10 * TTL).await;
    assert_eq!(manager.stats().retries, retries);
    drop(guard);
}

#[tokio::test]
async fn the_keeper_opens_and_renews_sessions_while_a_waker_blocks_the_herald() {
    let store = Store::new();
    let ttl = Duration::from_secs(3);
    let manager = LockManager::builder(store.clone()).ttl(ttl).open().await.unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    store.called("renew", 1).await;
    let (release, released) = mpsc::channel();
    let blocking = Arc::new(Blocking { begun: Notify::new(), released: Mutex::new(released) });
    let waker = Waker::from(Arc::clone(&blocking));
    let mut lost = pin!(guard.lost());
    assert!(lost.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    store.cut.store(true, Ordering::Relaxed);
    soon(blocking.begun.notified()).await;
    store.cut.store(false, Ordering::Relaxed);
    let lock = manager.lock("b").unwrap();
    let mut acquiring = pin!(lock.acquire());
    assert!(acquiring.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    store.called("open_session", 2).await;
    release.send(()).unwrap();
    drop(soon(acquiring).await.unwrap());
    for (verb, thread) in &*store.calls.borrow() {
        assert_eq!(thread, "portunus-keeper", "{verb}");
    }
}

/// While the engine waits for the session to come back, a renewal finds that the entry it was just given
/// is gone: that grant is not handed out, and the next attempt is.
#[tokio::test(start_paused = true)]
async fn a_grant_that_a_renewal_found_gone_first_is_none() {
    let store = Store::new();
    let manager = store.builder().open().await.unwrap();
    // Right before the next renewal.
    store.sleep(TTL / 3 - Duration::from_millis(100)).await;
    store.found_gone.store(true, Ordering::Relaxed);
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let entered = store.entered.lock().unwrap().clone();
    assert_eq!(entered.len(), 2, "the one that was gone, and the next");
    assert!(guard.is_held() && manager.stats().lost == 0);
    store.sleep(10 * TTL).await;
    assert!(guard.is_held(), "{:?}", guard.status());
}

/// A user's waker that blocks whoever wakes it.
struct Blocking {
    begun: Notify,
    released: Mutex<mpsc::Receiver<()>>,
}

impl Wake for Blocking {
    fn wake(self: Arc<Self>) {
        self.begun.notify_one();
        // An error says that the test is over.
        let _ = self.released.lock().map(|released| released.recv());
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("it takes too long")
}

/// A memory store that counts, and that can be slow or cut off.
#[derive(Clone, Debug)]
struct Store {
    inner: Memory,
    clock: Arc<TokioClock>,
    listings: Arc<AtomicU32>,
    renewals: Arc<AtomicU32>,
    cut: Arc<AtomicBool>,
    slow_open: Arc<AtomicBool>,
    /// The next entry is found gone by the renewal after the one that fails while it is made.
    found_gone: Arc<AtomicBool>,
    entered: Arc<Mutex<Vec<AttemptId>>>,
    /// What was called for a session, with the names of the threads.
    calls: watch::Sender<Vec<(&'static str, String)>>,
}

impl Store {
    fn new() -> Self {
        let clock = Arc::new(TokioClock::start());
        Self {
            inner: Memory::with_clock(clock.clone()),
            clock,
            listings: Arc::default(),
            renewals: Arc::default(),
            cut: Arc::default(),
            slow_open: Arc::default(),
            found_gone: Arc::default(),
            entered: Arc::default(),
            calls: watch::Sender::default(),
        }
    }

    fn builder(&self) -> ManagerBuilder {
        LockManager::builder(self.clone()).clock(self.clock.clone()).inline().ttl(TTL)
    }

    async fn sleep(&self, span: Duration) {
        self.clock.sleep_until(self.clock.now().after(span)).await;
    }

    fn note(&self, verb: &'static str) {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        self.calls.send_modify(|calls| calls.push((verb, thread)));
    }

    /// Completes when a verb was called so many times.
    async fn called(&self, verb: &str, times: usize) {
        let mut calls = self.calls.subscribe();
        let count =
            |calls: &Vec<(&str, String)>| calls.iter().filter(|(of, _)| *of == verb).count();
        soon(calls.wait_for(|calls| count(calls) >= times)).await.expect("the sender is here");
    }

    fn reach(&self) -> Result<&Memory> {
        let cut = self.cut.load(Ordering::Relaxed);
        let error = || Error::new(ErrorKind::Unavailable, "test", "request");
        if cut { Err(error()) } else { Ok(&self.inner) }
    }
}

#[async_trait]
impl LockBackend for Store {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn open_session(&self, ttl: Duration) -> Result<Session> {
        self.note("open_session");
        if self.slow_open.load(Ordering::Relaxed) {
            self.sleep(Duration::from_secs(1)).await;
        }
        self.reach()?.open_session(ttl).await
    }
    async fn renew(&self, session: &Session, held: &[Arc<Attempt>]) -> Result<Renewal> {
        self.note("renew");
        self.renewals.fetch_add(1, Ordering::Relaxed);
        let mut renewal = self.reach()?.renew(session, held).await?;
        if self.found_gone.swap(false, Ordering::Relaxed) {
            renewal.lost.extend(self.entered.lock().expect("nobody panicked").iter().copied());
        }
        Ok(renewal)
    }
    async fn close_session(&self, session: &Session) -> Result<()> {
        self.reach()?.close_session(session).await
    }
    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        let entered = self.reach()?.enter(session, attempt).await;
        self.entered.lock().expect("nobody panicked").push(attempt.id);
        if self.found_gone.load(Ordering::Relaxed) {
            // Until a renewal has failed.
            self.cut.store(true, Ordering::Relaxed);
            let renewals = self.renewals.load(Ordering::Relaxed);
            while self.renewals.load(Ordering::Relaxed) == renewals {
                self.sleep(Duration::from_millis(10)).await;
            }
            self.sleep(Duration::from_millis(10)).await;
            self.cut.store(false, Ordering::Relaxed);
        }
        entered
    }
    async fn look(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        self.reach()?.look(session, attempt, entry).await
    }
    async fn changed(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        turn: &Turn,
    ) -> Result<()> {
        self.inner.changed(session, attempt, entry, turn).await
    }
    async fn leave(&self, session: &Session, attempt: &Attempt, in_doubt: bool) -> Result<Left> {
        self.reach()?.leave(session, attempt, in_doubt).await
    }
    async fn convert(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<()> {
        self.reach()?.convert(session, attempt, entry).await
    }
    async fn publish(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: &str,
    ) -> Result<()> {
        self.reach()?.publish(session, attempt, entry, value).await
    }
}

#[async_trait]
impl LockObserver for Store {
    async fn queue(&self, name: &LockName) -> Result<Vec<Entry>> {
        self.listings.fetch_add(1, Ordering::Relaxed);
        self.reach()?.queue(name).await
    }
    async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        self.reach()?.contenders(name).await
    }
    async fn follow(&self, name: &LockName, since: u64) -> Result<BoxStream<Result<Observation>>> {
        self.reach()?.follow(name, since).await
    }
    async fn names(&self, prefix: &str, page: Option<&str>) -> Result<NamePage> {
        self.reach()?.names(prefix, page).await
    }
    async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool> {
        self.reach()?.evict(name, entry).await
    }
    async fn probe(&self) -> Result<Probe> {
        self.reach()?.probe().await
    }
}
