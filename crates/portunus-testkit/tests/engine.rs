//! What the engine promises around a store: bounds, delays, fail-fast, forks, blocked executors.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

use portunus_core::clock::{Clock, TokioClock};
use portunus_core::error::ErrorKind;
use portunus_core::guard::{Guard, LossReason, Ran, Released, Status};
use portunus_core::manager::{LockManager, ManagerBuilder};
use portunus_core::memory::Memory;
use portunus_testkit::faults::{Faults, Faulty};
use std::sync::Arc;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(6);

/// A store in paused time, and a manager on it behind a network that can be made bad.
struct Bench {
    clock: Arc<TokioClock>,
    store: Memory,
    network: Faulty,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(TokioClock::start());
        let store = Memory::with_clock(clock.clone());
        let network = Faulty::new(Arc::new(store.clone()), clock.clone(), 1);
        Self { clock, store, network }
    }

    fn builder(&self) -> ManagerBuilder {
        let backend = Arc::new(self.network.clone());
        ManagerBuilder::new(backend).clock(self.clock.clone()).seed(1).inline().ttl(TTL)
    }

    /// Another process on the same store, with a good network.
    async fn other(&self) -> LockManager {
        let backend = Arc::new(self.store.clone());
        let builder = ManagerBuilder::new(backend).clock(self.clock.clone()).seed(2).inline();
        builder.ttl(TTL).open().await.unwrap()
    }

    fn cut(&self) {
        self.network.set(Faults { request_lost: 1.0, ..Faults::default() });
    }

    fn heal(&self) {
        self.network.set(Faults::default());
    }
}

/// Waits for the loss signal, but not for ever.
async fn lost(guard: &Guard) -> LossReason {
    tokio::time::timeout(100 * TTL, guard.lost()).await.expect("the loss is told")
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_holder_is_suspended_then_lost_before_the_store_can_grant() {
    let bench = Bench::new();
    let (manager, other) = (bench.builder().open().await.unwrap(), bench.other().await);
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    assert_eq!(guard.status(), Status::Held);
    bench.cut();
    let waiting = tokio::spawn(async move { other.lock("a").unwrap().acquire().await.unwrap() });
    bench.clock.sleep_until(bench.clock.now().after(TTL * 2 / 3)).await;
    assert_eq!(guard.status(), Status::Suspended);
    assert!(guard.is_held() && guard.remaining() > Duration::ZERO);
    assert_eq!(lost(&guard).await, LossReason::Expired);
    assert!(!guard.is_held() && !waiting.is_finished());
    assert_eq!(guard.remaining(), Duration::ZERO);
    let next = waiting.await.unwrap();
    assert!(next.token() > guard.token());
    bench.heal();
    assert_eq!(guard.release().await.unwrap(), Released::AlreadyLost(LossReason::Expired));
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn no_new_grant_is_given_while_the_session_is_suspended() {
    let bench = Bench::new();
    let manager = bench.builder().open().await.unwrap();
    bench.cut();
    bench.clock.sleep_until(bench.clock.now().after(TTL * 2 / 3)).await;
    assert!(manager.stats().suspended);
    bench.heal();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    assert_eq!(guard.status(), Status::Held);
}

#[tokio::test(start_paused = true)]
async fn with_fail_fast_a_call_on_a_suspended_session_fails_at_once() {
    let bench = Bench::new();
    let manager = bench.builder().fail_fast(true).open().await.unwrap();
    bench.cut();
    bench.clock.sleep_until(bench.clock.now().after(TTL * 2 / 3)).await;
    let begun = bench.clock.now();
    let error = manager.lock("a").unwrap().acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(bench.clock.now(), begun);
}

#[tokio::test(start_paused = true)]
async fn lock_delay_keeps_a_lost_lock_shut_and_a_released_one_not() {
    let delay = Duration::from_secs(20);
    let bench = Bench::new();
    let manager = bench.builder().lock_delay(delay).open().await.unwrap();
    let other = bench.other().await;
    drop(manager.lock("a").unwrap().acquire().await.unwrap());
    let begun = bench.clock.now();
    other.lock("a").unwrap().acquire().await.unwrap().release().await.unwrap();
    assert!(bench.clock.now().since(begun) < Duration::from_secs(1), "a clean release");
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    bench.cut();
    lost(&guard).await;
    let lost = bench.clock.now();
    bench.heal();
    let next = other.lock("a").unwrap().acquire().await.unwrap();
    let shut = bench.clock.now().since(lost);
    assert!(shut >= delay && shut < delay + TTL, "shut for {shut:?}");
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn one_waiter_more_than_max_waiters_is_refused() {
    let bench = Bench::new();
    let manager = bench.builder().max_waiters(1).open().await.unwrap();
    let lock = manager.lock("a").unwrap();
    let guard = lock.acquire().await.unwrap();
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await.unwrap() }
    });
    while manager.stats().waiting == 0 {
        tokio::task::yield_now().await;
    }
    let error = lock.try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    drop(guard);
    drop(waiting.await.unwrap());
    assert!(lock.try_acquire().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn without_a_store_a_call_ends_in_an_error_within_its_limit() {
    let bench = Bench::new();
    bench.cut();
    let limit = Duration::from_secs(3);
    let begun = bench.clock.now();
    let error = bench.builder().connect_timeout(limit).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(bench.clock.now().since(begun), limit);
    bench.heal();
    let manager = bench.builder().connect_timeout(limit).open().await.unwrap();
    bench.cut();
    let lock = manager.lock("a").unwrap();
    let error = lock.acquire_timeout(limit).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    let error = lock.try_acquire().await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn run_drops_its_future_at_the_loss_and_with_returns_the_error() {
    let bench = Bench::new();
    let manager = bench.builder().open().await.unwrap();
    let lock = manager.lock("a").unwrap();
    assert!(lock.with(|token| async move { token.value() > 0 }).await.unwrap());
    let guard = lock.acquire().await.unwrap();
    assert_eq!(guard.run(async { 7 }).await, Ran::Finished(7));
    bench.cut();
    assert_eq!(guard.run(std::future::pending::<()>()).await, Ran::Lost(LossReason::Expired));
    bench.heal();
    let error = lock
        .with(|_| {
            bench.cut();
            std::future::pending::<()>()
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_and_then_ends_what_is_left() {
    let bench = Bench::new();
    let (manager, other) = (bench.builder().open().await.unwrap(), bench.other().await);
    let lock = manager.lock("a").unwrap();
    let guard = lock.acquire().await.unwrap();
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    let begun = bench.clock.now();
    assert_eq!(manager.shutdown(TTL).await.unwrap(), 1);
    assert!(bench.clock.now().since(begun) >= TTL);
    assert_eq!(lost(&guard).await, LossReason::Closed);
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(lock.acquire().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(other.lock("a").unwrap().try_acquire().await.unwrap().is_some());
}

#[tokio::test]
async fn a_blocked_executor_loses_no_lock() {
    let ttl = Duration::from_millis(600);
    let manager = LockManager::builder(Memory::new()).ttl(ttl).open().await.unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    // This is the executor's only thread.
    std::thread::sleep(2 * ttl);
    assert_eq!(guard.status(), Status::Held);
    assert!(manager.stats().renewals >= 4);
}

#[test]
fn a_guard_outlives_the_runtime_that_it_was_acquired_on() {
    let store = Memory::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ttl = Duration::from_millis(600);
    let builder = LockManager::builder(store.clone()).ttl(ttl);
    let first = runtime();
    let guard = first.block_on(async {
        builder.open().await.unwrap().lock("a").unwrap().acquire().await.unwrap()
    });
    drop(first);
    std::thread::sleep(2 * ttl);
    assert!(guard.is_held());
    // Outside any runtime.
    drop(guard);
    runtime().block_on(async {
        let other = LockManager::builder(store).open().await.unwrap();
        drop(other.lock("a").unwrap().acquire_timeout(ttl).await.unwrap().unwrap());
    });
}

#[test]
fn a_guard_in_a_thread_local_is_released_at_the_end_of_its_thread() {
    thread_local! {
        static KEPT: std::cell::RefCell<Option<Guard>> =
            const { std::cell::RefCell::new(None) };
    }
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Memory::new();
    let shared = store.clone();
    let thread = std::thread::spawn(move || {
        // Registered before the runtime's own thread-locals, hence destroyed after them.
        KEPT.with(|kept| assert!(kept.borrow().is_none()));
        let guard = runtime().block_on(async {
            let manager = LockManager::builder(shared).open().await.unwrap();
            manager.lock("a").unwrap().acquire().await.unwrap()
        });
        KEPT.with(|kept| kept.replace(Some(guard)));
    });
    thread.join().unwrap();
    runtime().block_on(async {
        let other = LockManager::builder(store).open().await.unwrap();
        drop(other.lock("a").unwrap().acquire_timeout(TTL).await.unwrap().unwrap());
    });
}

#[tokio::test(start_paused = true)]
async fn a_lock_delay_that_leaves_too_little_to_hold_is_refused() {
    let bench = Bench::new();
    let error = bench.builder().lock_delay(100 * TTL).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("lock_delay"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_session_with_too_many_doubts_is_retired_and_closed_with_the_rest() {
    let bench = Bench::new();
    let manager = bench.builder().open().await.unwrap();
    let lock = manager.lock("a").unwrap();
    let kept = manager.lock("kept").unwrap().acquire().await.unwrap();
    assert_eq!(manager.stats().sessions, 1);
    for _ in 0..1_500 {
        // Given up while the request is on its way.
        bench.network.set(Faults { delay: Duration::from_millis(20), ..Faults::default() });
        drop(tokio::time::timeout(Duration::from_millis(1), lock.acquire()).await);
    }
    bench.heal();
    drop(lock.acquire().await.unwrap());
    assert_eq!(manager.stats().sessions, 2, "a new session for new attempts");
    assert!(kept.is_held(), "the old one lives for what it holds");
    assert_eq!(manager.shutdown(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(lost(&kept).await, LossReason::Closed);
}
