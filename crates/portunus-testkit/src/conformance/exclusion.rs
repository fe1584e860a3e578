//! One holder at a time, whoever asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use portunus_core::backend::{Entered, Left, LockBackend, LockObserver, Turn};
use portunus_core::guard::Released;

use super::stage::{Stage, ids};
use super::wait::{PATIENCE, eventually, within};
use crate::harness::attempt;

#[doc(hidden)]
#[macro_export]
macro_rules! __exclusion {
    ([$($then:tt)+] $($context:tt)*) => { $($then)+! { $($context)*; exclusion:
        excludes_between_managers
        is_not_reentrant
        two_attempts_of_one_session_exclude_each_other
        can_be_acquired_again_after_a_release
        locks_of_different_names_are_independent
        a_try_is_refused_while_another_holds
        a_try_of_a_free_lock_is_granted
        many_tasks_never_overlap
        releasing_a_lost_guard_frees_nobody_else
    } };
}

/// A lock held through one manager is granted through no other until it is released.
pub async fn excludes_between_managers(stage: &Stage) {
    let name = stage.name("lock");
    let (one, two) = (stage.manager().await, stage.manager().await);
    let guard = one.lock(&name).unwrap().acquire().await.unwrap();
    let lock = two.lock(&name).unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    let contenders = stage.standing(&name, 2).await;
    assert_eq!(contenders.iter().map(|one| one.holds).collect::<Vec<_>>(), [true, false]);
    assert!(guard.is_held() && !waiter.is_finished());
    assert_eq!(guard.release().await.unwrap(), Released::Clean);
    let guard = within(PATIENCE, "the waiter holds", waiter).await.unwrap().unwrap();
    assert!(guard.is_held());
    assert_eq!(ids(&stage.standing(&name, 1).await), ids(&contenders[1..]));
}

/// A lock excludes its own holder too: the same manager, the same `Lock`, the same task.
pub async fn is_not_reentrant(stage: &Stage) {
    let name = stage.name("lock");
    let manager = stage.manager().await;
    let lock = manager.lock(&name).unwrap();
    let guard = lock.acquire().await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_none());
    assert!(lock.acquire_timeout(Duration::from_millis(50)).await.unwrap().is_none());
    assert!(manager.lock(&name).unwrap().try_acquire().await.unwrap().is_none());
    assert!(guard.is_held());
}

/// Two attempts that share a session exclude each other as any two do.
pub async fn two_attempts_of_one_session_exclude_each_other(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (first, ..) = client.hold(&name).await;
    let (second, entry, turn) = client.queue(&name).await;
    assert!(matches!(client.look(&second, &entry).await, Turn::Waiting { .. }));
    assert_eq!(client.leave(&first, false).await, Left::Removed);
    assert!(matches!(client.turn(&second, &entry, turn).await, Turn::Held { .. }));
}

/// A released lock is granted again at once, to its last holder as to anybody.
pub async fn can_be_acquired_again_after_a_release(stage: &Stage) {
    let name = stage.name("lock");
    let managers = [stage.manager().await, stage.manager().await];
    for manager in [&managers[0], &managers[0], &managers[1], &managers[0]] {
        let guard = manager.lock(&name).unwrap().try_acquire().await.unwrap().unwrap();
        assert_eq!(guard.release().await.unwrap(), Released::Clean);
    }
}

/// Locks of different names are held at the same time, and released one without the other.
pub async fn locks_of_different_names_are_independent(stage: &Stage) {
    let (name, other) = (stage.name("one"), stage.name("two"));
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let kept = manager.lock(&other).unwrap().try_acquire().await.unwrap().unwrap();
    guard.release().await.unwrap();
    assert!(rival.lock(&other).unwrap().try_acquire().await.unwrap().is_none());
    assert!(rival.lock(&name).unwrap().try_acquire().await.unwrap().is_some());
    assert!(kept.is_held());
}

/// A try is `None` while another holds, at once, and leaves no entry in the queue.
pub async fn a_try_is_refused_while_another_holds(stage: &Stage) {
    let name = stage.name("lock");
    let (manager, client) = (stage.manager().await, stage.client().await);
    let _guard = stage.manager().await.lock(&name).unwrap().acquire().await.unwrap();
    let before = stage.standing(&name, 1).await;
    for _ in 0..3 {
        assert!(manager.lock(&name).unwrap().try_acquire().await.unwrap().is_none());
        let refused = client.backend.enter(&client.session, &attempt(&name, true)).await.unwrap();
        assert_eq!(refused, Entered::Refused);
        // Not `standing`, which would wait for a ghost to go.
        assert_eq!(stage.observer().contenders(&name).await.unwrap(), before);
    }
}

/// A try of a free lock is a grant like any other.
pub async fn a_try_of_a_free_lock_is_granted(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let tried = attempt(&name, true);
    let (entry, turn) = client.enter(&tried).await;
    assert!(matches!(turn, Turn::Held { .. }));
    assert_eq!(client.look(&tried, &entry).await, turn);
    assert!(stage.manager().await.lock(&name).unwrap().try_acquire().await.unwrap().is_none());
}

/// However many tasks and managers contend, no two hold at once, and tokens grow in the order in
/// which they hold.
pub async fn many_tasks_never_overlap(stage: &Stage) {
    let inside = Arc::new(AtomicUsize::new(0));
    let highest = Arc::new(AtomicU64::new(0));
    let name = stage.name("lock");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let manager = stage.manager().await;
        for _ in 0..4 {
            let lock = manager.lock(&name).unwrap();
            let (inside, highest) = (Arc::clone(&inside), Arc::clone(&highest));
            tasks.spawn(async move {
                for _ in 0..3 {
                    let guard = lock.acquire().await.unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold at once");
                    // Others get the chance to come in.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let token = guard.token().value();
                    assert!(highest.swap(token, Ordering::SeqCst) < token, "{token} is too late");
                    assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                    assert_eq!(guard.release().await.unwrap(), Released::Clean);
                }
            });
        }
    }
    let all = async { while tasks.join_next().await.transpose().unwrap().is_some() {} };
    within(6 * PATIENCE, "36 critical sections", all).await;
}

/// The end of a guard that was lost, by release or drop, leaves the grant of the next holder alone.
pub async fn releasing_a_lost_guard_frees_nobody_else(stage: &Stage) {
    let name = stage.name("lock");
    let (one, two) = (stage.manager().await, stage.manager().await);
    let rival = stage.manager().await;
    for drops in [false, true] {
        let lost = one.lock(&name).unwrap().acquire().await.unwrap();
        let entry = stage.standing(&name, 1).await.remove(0).entry;
        assert!(stage.observer().evict(&name, &entry).await.unwrap());
        let guard = two.lock(&name).unwrap().acquire().await.unwrap();
        if drops {
            drop(lost);
        } else {
            assert!(matches!(lost.release().await.unwrap(), Released::AlreadyLost(_)));
        }
        eventually(PATIENCE, "the lost one is cleaned up", async || match one.stats().reaping {
            0 => Ok(()),
            left => Err(left),
        })
        .await;
        assert!(rival.lock(&name).unwrap().try_acquire().await.unwrap().is_none());
        assert!(guard.is_held());
        assert_eq!(guard.release().await.unwrap(), Released::Clean);
    }
}
