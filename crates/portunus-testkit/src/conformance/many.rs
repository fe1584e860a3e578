//! Many locks at once: all or none, in one order, and lost together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portunus_core::backend::LockObserver;
use portunus_core::error::ErrorKind;
use portunus_core::guard::{LossReason, Ran, Released};
use portunus_core::name::LockName;
use tokio::time::Instant;

use super::expiry::told_within;
use super::stage::Stage;
use super::wait::{PATIENCE, eventually, within};
use crate::tap::Verb;

#[doc(hidden)]
#[macro_export]
macro_rules! __many {
    ([$($then:tt)+] $($context:tt)*) => { $($then)+! { $($context)*; many:
        all_are_held_and_released_together
        opposite_orders_do_not_wait_for_each_other
        a_try_with_one_taken_leaves_nothing
        a_limit_that_passes_leaves_nothing
        one_limit_bounds_them_all
        a_cancelled_call_leaves_nothing
        losing_one_is_told_and_the_others_stay
        one_that_is_lost_while_others_are_waited_for_is_an_error
        a_set_that_makes_no_sense_is_refused
    } };
}

/// Several locks are held at a time, in the order of their names, each with its own token, until
/// they are released or dropped.
pub async fn all_are_held_and_released_together(stage: &Stage) {
    let names = names(stage);
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let [a, b, c] = &names;
    for drops in [false, true] {
        let guards = manager.acquire_all([c, a, b]).await.unwrap();
        assert!(guards.are_held());
        assert!(guards.iter().map(|guard| guard.name()).eq(&names));
        for name in &names {
            assert!(rival.lock(name).unwrap().try_acquire().await.unwrap().is_none());
            let guard = guards.get(name.as_str()).expect("it is in the set");
            assert_eq!(guards.token(name.as_str()), Some(guard.token()));
            assert_eq!(guard.token().origin().name(), name);
        }
        assert!(guards.get("another").is_none() && guards.token("another").is_none());
        let told = guards.cancellation_token();
        if drops {
            drop(guards);
        } else {
            assert_eq!(guards.release().await.unwrap(), Released::Clean);
        }
        assert!(!told.is_cancelled(), "a release is no loss");
        free(stage, &names).await;
    }
}

/// However often two acquire the same locks, each naming them in another order, both go on; and
/// they never hold at one time.
pub async fn opposite_orders_do_not_wait_for_each_other(stage: &Stage) {
    const ROUNDS: usize = 15;
    let [a, b, _] = names(stage);
    let held = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for order in [[a.clone(), b.clone()], [b, a]] {
        let (manager, held) = (stage.manager().await, Arc::clone(&held));
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                let guards = manager.acquire_all(&order).await.unwrap();
                assert!(!held.swap(true, Ordering::SeqCst), "two hold at once");
                tokio::task::yield_now().await;
                held.store(false, Ordering::SeqCst);
                assert_eq!(guards.release().await.unwrap(), Released::Clean);
            }
        });
    }
    let all = async { while tasks.join_next().await.transpose().unwrap().is_some() {} };
    within(6 * PATIENCE, "both come to an end", all).await;
}

/// A try is `None` while somebody holds one of them, whichever it is, and leaves no entry.
pub async fn a_try_with_one_taken_leaves_nothing(stage: &Stage) {
    let names = names(stage);
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    for taken in &names {
        let guard = rival.lock(taken).unwrap().acquire().await.unwrap();
        assert!(manager.try_acquire_all(&names).await.unwrap().is_none());
        for name in &names {
            stage.standing(name, usize::from(name == taken)).await;
        }
        assert!(guard.is_held());
        assert_eq!(guard.release().await.unwrap(), Released::Clean);
    }
    let guards = manager.try_acquire_all(&names).await.unwrap().expect("all are free");
    assert!(guards.are_held() && guards.iter().len() == names.len());
}

/// When the limit passes at the second of them, the answer is `None` and the first is not held.
pub async fn a_limit_that_passes_leaves_nothing(stage: &Stage) {
    let [a, b, c] = names(stage);
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let guard = rival.lock(&b).unwrap().acquire().await.unwrap();
    let (first, second) = (a.clone(), b.clone());
    let waiter = tokio::spawn(async move {
        manager.acquire_all_timeout([second, c, first], Duration::from_secs(4)).await
    });
    stage.standing(&b, 2).await;
    assert!(stage.standing(&a, 1).await[0].holds);
    let waited = within(PATIENCE, "the time is over", waiter).await.unwrap();
    assert!(waited.unwrap().is_none());
    stage.standing(&a, 0).await;
    stage.standing(&b, 1).await;
    assert_eq!(guard.release().await.unwrap(), Released::Clean);
}

/// One limit bounds the waits for all of them, not each.
pub async fn one_limit_bounds_them_all(stage: &Stage) {
    const LIMIT: Duration = Duration::from_secs(2);
    let names = names(stage);
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let mut taken = Vec::new();
    for name in &names {
        taken.push(rival.lock(name).unwrap().acquire().await.unwrap());
    }
    let (begun, wanted) = (Instant::now(), names.clone());
    let waiter = tokio::spawn(async move {
        let waited = manager.acquire_all_timeout(&wanted, LIMIT).await;
        (waited, begun.elapsed())
    });
    // The first of them is free when most of the limit has passed.
    tokio::time::sleep_until(begun + LIMIT.mul_f64(0.7)).await;
    let spent = begun.elapsed();
    drop(taken.remove(0));
    let (waited, took) = within(PATIENCE, "the time is over", waiter).await.unwrap();
    assert!(waited.unwrap().is_none());
    assert!((LIMIT..spent + LIMIT).contains(&took), "{took:?} for a limit of {LIMIT:?}");
    stage.standing(&names[0], 0).await;
    stage.standing(&names[1], 1).await;
}

/// A call that is dropped while it waits for the last of them leaves nothing of the others.
pub async fn a_cancelled_call_leaves_nothing(stage: &Stage) {
    let names = names(stage);
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let [a, b, c] = &names;
    let guard = rival.lock(c).unwrap().acquire().await.unwrap();
    let wanted = names.clone();
    let waiter = tokio::spawn(async move { manager.acquire_all(&wanted).await });
    stage.standing(c, 2).await;
    for name in [a, b] {
        assert!(stage.standing(name, 1).await[0].holds);
    }
    waiter.abort();
    for name in [a, b] {
        stage.standing(name, 0).await;
    }
    stage.standing(c, 1).await;
    assert!(guard.is_held());
}

/// When one of them is lost, the loss of the set is told, with its name; what runs under the set is
/// dropped, and the others stay held until the set is released.
pub async fn losing_one_is_told_and_the_others_stay(stage: &Stage) {
    let names = names(stage);
    let [a, b, c] = &names;
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).open().await.unwrap();
    let guards = manager.acquire_all(&names).await.unwrap();
    let told = guards.cancellation_token();
    let entry = stage.standing(b, 1).await.remove(0).entry;
    assert!(guards.are_held() && !told.is_cancelled());
    assert!(stage.observer().evict(b, &entry).await.unwrap());
    let bound = told_within(&backend.session());
    let ran = within(bound, "the work is dropped", guards.run(std::future::pending::<()>())).await;
    assert_eq!(ran, Ran::Lost(LossReason::Evicted));
    let lost = within(PATIENCE, "the loss is told", guards.lost()).await;
    assert_eq!(lost, (b.clone(), LossReason::Evicted));
    within(PATIENCE, "the token is cancelled", told.cancelled()).await;
    within(PATIENCE, "a later token too", guards.cancellation_token().cancelled()).await;
    assert!(!guards.are_held());
    for name in [a, c] {
        assert!(guards.get(name.as_str()).expect("it is in the set").is_held());
        assert!(stage.standing(name, 1).await[0].holds);
    }
    let released = guards.release().await.unwrap();
    assert_eq!(released, Released::AlreadyLost(LossReason::Evicted));
    free(stage, &names).await;
}

/// When one of them is lost while the next is waited for, the call fails with an error of kind
/// `Lost` that names it, and nothing is held.
pub async fn one_that_is_lost_while_others_are_waited_for_is_an_error(stage: &Stage) {
    let [a, b, _] = names(stage);
    let guard = stage.manager().await.lock(&b).unwrap().acquire().await.unwrap();
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).ttl(stage.ttl()).open().await.unwrap();
    let wanted = [a.clone(), b.clone()];
    let waiter = tokio::spawn(async move { manager.acquire_all(wanted).await });
    let before = stage.standing(&b, 2).await.remove(1);
    stage.end_session(&backend.session()).await;
    // The wait goes on in another session; the first lock went with its own.
    eventually(PATIENCE, "another entry waits", async || {
        let now = stage.standing(&b, 2).await.remove(1);
        if now.entry == before.entry { Err(now) } else { Ok(()) }
    })
    .await;
    assert_eq!(guard.release().await.unwrap(), Released::Clean);
    let refused = within(PATIENCE, "the call ends", waiter).await.unwrap().unwrap_err();
    assert_eq!((refused.kind(), refused.key()), (ErrorKind::Lost, Some(a.as_str())));
    free(stage, &[a, b]).await;
}

/// No name, a name twice, or a bad one is `Invalid`, and nothing was asked of the store.
pub async fn a_set_that_makes_no_sense_is_refused(stage: &Stage) {
    let [a, b, _] = names(stage);
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).open().await.unwrap();
    let (a, b) = (a.as_str(), b.as_str());
    for set in [&[][..], &[a, a], &[a, b, a], &[a, ""]] {
        let forever = manager.acquire_all(set).await.unwrap_err();
        let trying = manager.try_acquire_all(set).await.unwrap_err();
        let limited = manager.acquire_all_timeout(set, PATIENCE).await.unwrap_err();
        for refused in [forever, trying, limited] {
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{set:?}: {refused}");
        }
    }
    assert_eq!(backend.calls(Verb::Enter), 0);
    assert_eq!(manager.stats().acquired, 0);
}

fn names(stage: &Stage) -> [LockName; 3] {
    ["a", "b", "c"].map(|name| stage.name(name))
}

async fn free(stage: &Stage, names: &[LockName]) {
    for name in names {
        stage.standing(name, 0).await;
    }
}
