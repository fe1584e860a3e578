//! Giving up: at any await, from any thread, nothing is left and nobody else is touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake};
use std::time::Duration;

use portunus_core::backend::{Entered, Left, LockBackend, LockObserver};
use portunus_core::guard::Released;
use portunus_core::manager::LockManager;
use portunus_core::name::LockName;

use super::stage::{Stage, ids};
use super::wait::{PATIENCE, eventually, poll_times, within};
use crate::harness::attempt;
use crate::tap::{Tap, Verb};

#[doc(hidden)]
#[macro_export]
macro_rules! __cancellation {
    ([$($then:tt)+] $($context:tt)*) => { $($then)+! { $($context)*; cancellation:
        acquire_can_be_dropped_after_each_poll
        acquire_can_be_dropped_after_each_step
        a_grant_that_nobody_takes_is_released
        open_can_be_dropped_after_each_poll
        acquire_timeout_leaves_nothing
        a_create_that_arrives_after_leave_has_no_effect
        leaving_twice_or_without_an_entry_is_no_fault
        leave_touches_no_other_attempt
        leaving_goes_on_after_a_lost_reply
        a_dropped_guard_is_released
        a_dropped_release_goes_on
        a_guard_can_be_dropped_outside_a_runtime
        a_guard_outlives_the_runtime_it_came_from
        the_last_drop_lets_go_of_the_backend
    } };
}

/// Dropping `acquire` after any number of polls, with and without contention, leaves no entry.
pub async fn acquire_can_be_dropped_after_each_poll(stage: &Stage) {
    let name = stage.name("lock");
    let manager = stage.manager().await;
    let lock = manager.lock(&name).unwrap();
    for polls in 0.. {
        let granted = poll_times(polls, PATIENCE, lock.acquire()).await.expect("it is granted");
        settled(stage, &manager, &name, usize::from(granted.is_some())).await;
        if granted.is_some() {
            break;
        }
        assert!(polls < MANY, "it is polled for ever");
    }
    settled(stage, &manager, &name, 0).await;
    let guard = stage.manager().await.lock(&name).unwrap().acquire().await.unwrap();
    for polls in 0.. {
        let waited = poll_times(polls, Duration::from_millis(50), lock.acquire()).await;
        settled(stage, &manager, &name, 1).await;
        match waited {
            // It waits, and nothing happens any more.
            Err(()) => break,
            Ok(waited) => assert!(waited.is_none() && polls < MANY),
        }
    }
    assert_eq!(guard.release().await.unwrap(), Released::Clean);
}

/// Dropping `acquire` while any of its requests is about to leave, or was applied and its answer is
/// about to return, leaves no entry.
pub async fn acquire_can_be_dropped_after_each_step(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).open().await.unwrap();
    let uncontended = drop_at_each_step(stage, &backend, &manager, &name, None).await;
    assert!(uncontended >= 2, "one request has two steps, not {uncontended}");
    let rival = stage.manager().await;
    let contended = drop_at_each_step(stage, &backend, &manager, &name, Some(&rival)).await;
    assert!(contended >= 6, "enter, changed and look have six steps, not {contended}");
}

/// Dropping `acquire` when its grant has come but was not taken out by a poll releases the grant.
pub async fn a_grant_that_nobody_takes_is_released(stage: &Stage) {
    let name = stage.name("lock");
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let guard = rival.lock(&name).unwrap().acquire().await.unwrap();
    let lock = manager.lock(&name).unwrap();
    let mut acquiring = Box::pin(lock.acquire());
    let woken = Arc::new(Woken::default());
    let polled = acquiring.as_mut().poll(&mut Context::from_waker(&Arc::clone(&woken).into()));
    assert!(polled.is_pending());
    stage.standing(&name, 2).await;
    guard.release().await.unwrap();
    eventually(PATIENCE, "the answer is there", async || {
        if woken.0.load(Ordering::Acquire) { Ok(()) } else { Err(()) }
    })
    .await;
    assert!(stage.standing(&name, 1).await[0].holds);
    drop(acquiring);
    settled(stage, &manager, &name, 0).await;
}

/// Dropping a manager's `open` after any number of polls leaves no session behind.
pub async fn open_can_be_dropped_after_each_poll(stage: &Stage) {
    for polls in 0..MANY {
        let backend = stage.backend().await;
        let opening = stage.builder(&backend).open();
        if poll_times(polls, PATIENCE, opening).await.expect("it opens").is_some() {
            return;
        }
    }
    panic!("it is polled for ever");
}

/// An `acquire_timeout` whose time is over is `None` and leaves nothing in the queue.
pub async fn acquire_timeout_leaves_nothing(stage: &Stage) {
    let name = stage.name("lock");
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let before = stage.standing(&name, 1).await;
    let lock = rival.lock(&name).unwrap();
    let waiter = tokio::spawn(async move { lock.acquire_timeout(Duration::from_secs(4)).await });
    stage.standing(&name, 2).await;
    let waited = within(PATIENCE, "the time is over", waiter).await.unwrap();
    assert!(waited.unwrap().is_none());
    assert_eq!(stage.standing(&name, 1).await, before);
    assert_eq!(rival.stats().waiting, 0);
    guard.release().await.unwrap();
}

/// Once an attempt in doubt has left, a request of it that arrives later makes no entry and gets no
/// grant, whether the attempt had an entry before or not.
pub async fn a_create_that_arrives_after_leave_has_no_effect(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    for (entered, try_only) in [(false, false), (true, false), (false, true), (true, true)] {
        let doubted = attempt(&name, try_only);
        if entered {
            client.enter(&doubted).await;
        }
        let left = client.leave(&doubted, true).await;
        assert_eq!(left, if entered { Left::Removed } else { Left::Absent });
        // As often as it may have been sent, and also beside another's grant.
        for beside in [false, false, true] {
            let held = if beside { Some(other.hold(&name).await) } else { None };
            let late = client.backend.enter(&client.session, &doubted).await;
            assert!(!matches!(late, Ok(Entered::Queued { .. })), "it came back to life: {late:?}");
            let standing = stage.observer().queue(&name).await.unwrap();
            assert_eq!(standing.len(), usize::from(beside), "{standing:?}");
            if let Some((held, ..)) = held {
                other.leave(&held, false).await;
            }
        }
    }
    // The session itself goes on.
    client.hold(&name).await;
}

/// `leave` may be repeated, and may come without an entry: then there was none.
pub async fn leaving_twice_or_without_an_entry_is_no_fault(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    for in_doubt in [false, true] {
        let (held, ..) = client.hold(&name).await;
        assert_eq!(client.leave(&held, in_doubt).await, Left::Removed);
        assert_eq!(client.leave(&held, in_doubt).await, Left::Absent);
        assert_eq!(client.leave(&attempt(&name, false), in_doubt).await, Left::Absent);
    }
}

/// `leave` removes the entry of its own attempt only, whoever else stands in the queue.
pub async fn leave_touches_no_other_attempt(stage: &Stage) {
    let name = stage.name("lock");
    let (client, rival) = (stage.client().await, stage.client().await);
    let (gone, ..) = client.hold(&name).await;
    client.leave(&gone, false).await;
    client.hold(&name).await;
    let (waiter, ..) = rival.queue(&name).await;
    let (behind, ..) = client.queue(&name).await;
    let before = ids(&stage.standing(&name, 3).await);
    for in_doubt in [false, true] {
        assert_eq!(client.leave(&gone, in_doubt).await, Left::Absent);
        assert_eq!(rival.leave(&attempt(&name, false), in_doubt).await, Left::Absent);
        assert_eq!(ids(&stage.observer().contenders(&name).await.unwrap()), before);
    }
    assert_eq!(rival.leave(&waiter, true).await, Left::Removed);
    assert_eq!(ids(&stage.standing(&name, 2).await), [before[0].clone(), before[2].clone()]);
    assert_eq!(client.leave(&behind, false).await, Left::Removed);
    assert_eq!(ids(&stage.standing(&name, 1).await), before[..1]);
}

/// A release whose answer was lost is repeated, and was clean.
pub async fn leaving_goes_on_after_a_lost_reply(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).open().await.unwrap();
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    backend.lose_replies(Verb::Leave, 2);
    let released = within(PATIENCE, "the release", guard.release()).await;
    assert_eq!(released.unwrap(), Released::Clean);
    assert_eq!(backend.calls(Verb::Leave), 3);
    settled(stage, &manager, &name, 0).await;
}

/// Dropping a guard releases its lock in the background.
pub async fn a_dropped_guard_is_released(stage: &Stage) {
    let name = stage.name("lock");
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let lock = rival.lock(&name).unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    stage.standing(&name, 2).await;
    drop(guard);
    let next = within(PATIENCE, "the next one holds", waiter).await.unwrap().unwrap();
    settled(stage, &manager, &name, 1).await;
    assert!(next.is_held());
}

/// A release that is dropped at once, or before its answer, goes on in the background.
pub async fn a_dropped_release_goes_on(stage: &Stage) {
    let name = stage.name("lock");
    let manager = stage.manager().await;
    for polls in [0, 1, 2] {
        let guard = manager.lock(&name).unwrap().try_acquire().await.unwrap().unwrap();
        drop(poll_times(polls, PATIENCE, guard.release()).await.expect("it ends"));
        settled(stage, &manager, &name, 0).await;
    }
}

/// A guard may be dropped on a thread without a runtime.
pub async fn a_guard_can_be_dropped_outside_a_runtime(stage: &Stage) {
    let name = stage.name("lock");
    let manager = stage.manager().await;
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let last = manager.lock(&name).unwrap();
    std::thread::spawn(move || drop(guard)).join().expect("the drop panicked");
    settled(stage, &manager, &name, 0).await;
    // So may the last of a manager.
    drop(manager);
    std::thread::spawn(move || drop(last)).join().expect("the drop panicked");
}

/// A lock that was acquired on a runtime which has ended since stays held, and is released by its
/// drop.
pub async fn a_guard_outlives_the_runtime_it_came_from(stage: &Stage) {
    let name = stage.name("lock");
    let (backend, rival) = (stage.backend().await, stage.manager().await);
    let builder = stage.builder(&backend);
    let wanted = name.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let guard = runtime.block_on(async {
            builder.open().await.unwrap().lock(&wanted).unwrap().acquire().await.unwrap()
        });
        drop(runtime);
        guard
    });
    let joined = tokio::task::spawn_blocking(move || thread.join());
    let guard = joined.await.unwrap().expect("the thread panicked");
    let lock = rival.lock(&name).unwrap();
    assert!(lock.try_acquire().await.unwrap().is_none());
    assert!(guard.is_held());
    std::thread::spawn(move || drop(guard)).join().expect("the drop panicked");
    drop(within(PATIENCE, "the lock is free", lock.acquire()).await.unwrap());
}

/// When manager, locks and guards are gone, so is every use of the backend: no task, thread or
/// grant keeps it.
pub async fn the_last_drop_lets_go_of_the_backend(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).ttl(stage.ttl()).open().await.unwrap();
    let lock = manager.lock(&name).unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let guard = lock.acquire().await.unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await.map(drop) });
    stage.standing(&name, 2).await;
    waiter.abort();
    stage.standing(&name, 1).await;
    let uses = Arc::downgrade(&backend);
    drop((manager, guard, backend));
    let limit = stage.ttl() + PATIENCE;
    eventually(limit, "the backend is dropped", async || match uses.strong_count() {
        0 => Ok(()),
        users => Err(users),
    })
    .await;
}

/// Stops an acquire after one step more each time and drops it there. Returns how many steps there
/// were until it waited, or was granted.
async fn drop_at_each_step(
    stage: &Stage,
    backend: &Tap,
    manager: &LockManager,
    name: &LockName,
    rival: Option<&LockManager>,
) -> usize {
    for steps in 0..MANY {
        let guard = match rival {
            Some(rival) => Some(rival.lock(name).unwrap().acquire().await.unwrap()),
            None => None,
        };
        let waits = backend.calls(Verb::Changed);
        backend.stop_after(steps);
        let lock = manager.lock(name).unwrap();
        let acquiring = tokio::spawn(async move { lock.acquire().await });
        if guard.is_some() && steps > 1 {
            // The entry may stand before it is known that it has to wait.
            eventually(PATIENCE, "it waits", async || match backend.calls(Verb::Changed) {
                calls if calls > waits => Ok(()),
                calls => Err(calls),
            })
            .await;
        }
        // Its turn comes only when all its earlier steps are done.
        drop(guard);
        let granted = tokio::select! {
            biased;
            () = backend.stopped() => false,
            () = eventually(PATIENCE, "it is stopped or granted", async || {
                if acquiring.is_finished() { Ok(()) } else { Err(()) }
            }) => true,
        };
        acquiring.abort();
        drop(acquiring.await);
        backend.pass_on();
        settled(stage, manager, name, 0).await;
        if granted {
            return steps;
        }
    }
    panic!("it has steps without an end");
}

/// Waits until the manager has nothing to clean up and exactly `count` entries stand.
async fn settled(stage: &Stage, manager: &LockManager, name: &LockName, count: usize) {
    eventually(PATIENCE, "the clean-up ends", async || match manager.stats() {
        stats if stats.reaping + stats.waiting == 0 => Ok(()),
        stats => Err(stats),
    })
    .await;
    stage.standing(name, count).await;
}

/// Notes that a poll was asked for.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// More polls or steps than any acquire has.
const MANY: usize = 100;
