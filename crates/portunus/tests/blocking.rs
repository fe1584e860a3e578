//! `portunus::blocking` from plain threads: no runtime is there, and none is needed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use portunus::blocking::{LockManager, connect};
use portunus::{CancellationToken, ErrorKind, LossReason, Memory, Ran, Released, Transition};

const BRIEF: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(30);

fn open() -> LockManager {
    connect("memory:").expect("memory is always there")
}

#[test]
fn a_lock_waits_and_is_handed_over() {
    let manager = open();
    let lock = manager.lock("a").unwrap();
    assert_eq!(lock.name().as_str(), "a");
    let guard = lock.acquire().unwrap();
    assert!(lock.try_acquire().unwrap().is_none());
    assert!(lock.acquire_timeout(BRIEF).unwrap().is_none());
    let waiter = thread::spawn({
        let lock = lock.clone();
        move || lock.acquire_timeout(LONG).unwrap().unwrap()
    });
    while manager.contenders("a").unwrap().len() < 2 {
        thread::yield_now();
    }
    let first = guard.token().value();
    assert_eq!(guard.release().unwrap(), Released::Clean);
    let guard = waiter.join().unwrap();
    assert!(guard.is_held() && guard.token().value() > first);
    // Another thread than the one that acquired it, and then nobody holds it.
    thread::spawn(move || drop(guard)).join().unwrap();
    lock.acquire_timeout(LONG).unwrap().unwrap().release().unwrap();
    assert_eq!(manager.shutdown(LONG).unwrap(), 0);
}

#[test]
fn threads_count_together_and_lose_nothing() {
    let manager = open();
    let count = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let guard = manager.lock("a").unwrap().acquire().unwrap();
                    let seen = count.load(Ordering::Relaxed);
                    thread::yield_now();
                    count.store(seen + 1, Ordering::Relaxed);
                    guard.release().unwrap();
                }
            });
        }
    });
    assert_eq!(count.into_inner(), 100);
    assert_eq!(manager.stats().acquired, 100);
}

#[test]
fn readers_share_and_a_writer_lets_them_in() {
    let lock = open().rwlock("a").unwrap();
    let (one, other) = (lock.read().unwrap(), lock.try_read().unwrap().unwrap());
    assert!(lock.try_write().unwrap().is_none());
    assert!(lock.write_timeout(BRIEF).unwrap().is_none());
    assert_eq!(one.release().unwrap(), Released::Clean);
    assert_eq!(other.release().unwrap(), Released::Clean);
    let writer = lock.write().unwrap();
    assert!(lock.read_timeout(BRIEF).unwrap().is_none());
    let token = writer.token().value();
    let reader = writer.downgrade().unwrap();
    assert_eq!(reader.token().value(), token);
    lock.read_timeout(LONG).unwrap().unwrap().release().unwrap();
}

#[test]
fn a_semaphore_lets_so_many_in() {
    let semaphore = open().semaphore("a", 2).unwrap();
    assert_eq!(semaphore.limit(), 2);
    let (one, _other) = (semaphore.acquire().unwrap(), semaphore.acquire().unwrap());
    assert!(one.token().is_none());
    assert!(semaphore.try_acquire().unwrap().is_none());
    assert!(semaphore.acquire_timeout(BRIEF).unwrap().is_none());
    thread::spawn(move || one.release()).join().unwrap().unwrap();
    assert!(semaphore.acquire_timeout(LONG).unwrap().is_some());
}

#[test]
fn several_locks_are_held_together_or_not_at_all() {
    let manager = open();
    let guards = manager.acquire_all(["b", "a"]).unwrap();
    assert!(guards.are_held() && guards.token("a") != guards.token("b"));
    let names: Vec<_> = guards.iter().map(|guard| guard.name().as_str().to_owned()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(manager.try_acquire_all(["a", "c"]).unwrap().is_none());
    assert!(manager.acquire_all_timeout(["c", "b"], BRIEF).unwrap().is_none());
    manager.lock("c").unwrap().acquire_timeout(LONG).unwrap().unwrap().release().unwrap();
    assert_eq!(guards.release().unwrap(), Released::Clean);
    assert_eq!(manager.try_acquire_all(["a", "a"]).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_leader_is_seen_publishes_and_resigns() {
    let election = open().election("a").unwrap();
    let mut leaders = election.observe();
    assert_eq!(leaders.next().unwrap().unwrap(), None);
    let leadership = election.campaign("here").unwrap();
    assert!(leadership.is_fresh() && leadership.is_held());
    let leader = leaders.next().unwrap().unwrap().unwrap();
    assert_eq!((leader.value.as_str(), &leader.term), ("here", &leadership.term()));
    leadership.publish("there").unwrap();
    assert_eq!(leaders.next().unwrap().unwrap().unwrap().value, "there");
    assert_eq!(election.leader().unwrap().unwrap().value, "there");
    let candidate = thread::spawn({
        let election = election.clone();
        move || election.campaign("elsewhere").unwrap()
    });
    let first = leadership.term();
    assert_eq!(leadership.resign().unwrap(), Released::Clean);
    assert!(candidate.join().unwrap().term() > first);
}

/// The work runs on the thread that waits, one term after another, until it is told to end.
#[test]
fn a_service_leads_term_after_term() {
    let election = open().election("a").unwrap();
    let shutdown = CancellationToken::new();
    let (own, mut terms, mut told) = (thread::current().id(), Vec::new(), Vec::new());
    let run = election.run("here", |leadership| {
        assert_eq!(thread::current().id(), own);
        terms.push(leadership.term());
        if terms.len() < 3 {
            return;
        }
        let stop = leadership.cancellation_token();
        shutdown.cancel();
        while !stop.is_cancelled() {
            thread::yield_now();
        }
        assert!(leadership.is_held());
    });
    let run = run.until(shutdown.clone()).on_transition(|change| told.push(change));
    run.stop_grace(Duration::from_secs(1)).wait().unwrap();
    assert!(terms.is_sorted() && terms.len() == 3);
    let words = told.iter().map(|change| match change {
        Transition::Elected(term) => (true, term.clone()),
        Transition::Resigned { term, released: Ok(Released::Clean) } => (false, term.clone()),
        other => panic!("{other:?}"),
    });
    let expected = terms.into_iter().flat_map(|term| [(true, term.clone()), (false, term)]);
    assert_eq!(words.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    assert_eq!(election.leader().unwrap(), None);
}

#[test]
fn a_holder_who_waits_for_the_loss_is_told() {
    let manager = open();
    let guard = manager.lock("a").unwrap().acquire().unwrap();
    let guards = manager.acquire_all(["b", "c"]).unwrap();
    let (ready, waits) = mpsc::channel();
    let holder = thread::spawn(move || {
        ready.send(()).unwrap();
        let (first, all) = (guard.lost(), guards.lost().1);
        (first, all, guard.release().unwrap(), guards.release().unwrap())
    });
    waits.recv().unwrap();
    assert_eq!(manager.shutdown(BRIEF).unwrap(), 3);
    let (first, all, released, released_all) = holder.join().unwrap();
    assert_eq!((first, all), (LossReason::Closed, LossReason::Closed));
    let lost = Released::AlreadyLost(LossReason::Closed);
    assert_eq!((released, released_all), (lost, lost));
    assert_eq!(manager.lock("a").unwrap().acquire().unwrap_err().kind(), ErrorKind::Unavailable);
}

/// What needs no waiting is the async API's: both work on one guard, and on one store.
#[test]
fn both_apis_share_a_store() {
    let store = Memory::new();
    let open = || LockManager::open(portunus::LockManager::builder(store.clone())).unwrap();
    let (manager, other) = (open(), open());
    let guard = manager.lock("a").unwrap().acquire().unwrap();
    assert!(other.lock("a").unwrap().try_acquire().unwrap().is_none());
    let ran = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(guard.run(async { 7 }))
    });
    assert_eq!(ran.join().unwrap(), Ran::Finished(7));
    assert!(other.lock("a").unwrap().acquire_timeout(LONG).unwrap().is_some());
    assert_eq!(manager.capabilities(), other.capabilities());
    assert!(manager.probe().is_ok());
}
