//! Waiting: in order, without ghosts, woken one at a time.

use std::sync::Arc;

use portunus_core::backend::{EntryId, LockBackend, LockObserver, Turn};
use portunus_core::error::{ErrorKind, Result};
use portunus_core::guard::{Guard, LossReason, Released};
use portunus_core::manager::LockManager;
use portunus_core::name::LockName;
use tokio::sync::mpsc;

use super::crowd::one_is_woken;
use super::expiry::told_within;
use super::stage::{Stage, ids};
use super::wait::{PATIENCE, within};
use crate::harness::attempt;
use crate::tap::Verb;

#[doc(hidden)]
#[macro_export]
macro_rules! __queue {
    ([$($then:tt)+] $($context:tt)*) => { $($then)+! { $($context)*; queue:
        waiters_are_served_in_order
        a_cancelled_waiter_leaves_no_ghost
        a_killed_waiter_blocks_nobody
        a_crashed_waiter_blocks_nobody
        an_evicted_waiter_is_never_granted
        an_evicted_holder_learns_it
        a_release_wakes_one_waiter
        a_change_is_told_to_waiter_and_holder
        a_change_that_came_first_is_told_at_once
        look_creates_no_entry
        look_knows_an_entry_by_its_id
    } };
}

/// Every waiter is served, in the order of arrival where the store promises `fifo`.
pub async fn waiters_are_served_in_order(stage: &Stage) {
    let name = stage.name("lock");
    let managers = [stage.manager().await, stage.manager().await];
    let guard = managers[0].lock(&name).unwrap().acquire().await.unwrap();
    let (tell, mut served) = mpsc::unbounded_channel();
    for place in 0..5 {
        let (lock, tell) = (managers[place % 2].lock(&name).unwrap(), tell.clone());
        tokio::spawn(async move {
            let guard = lock.acquire().await.unwrap();
            tell.send(place).unwrap();
            guard.release().await.unwrap();
        });
        stage.standing(&name, place + 2).await;
    }
    guard.release().await.unwrap();
    let mut order = Vec::new();
    for _ in 0..5 {
        order.push(within(PATIENCE, "the next is served", served.recv()).await.unwrap());
    }
    if !stage.capabilities().fifo {
        order.sort_unstable();
    }
    assert_eq!(order, [0, 1, 2, 3, 4]);
}

/// A waiter that gives up in mid-queue goes from it, and the one behind is granted.
pub async fn a_cancelled_waiter_leaves_no_ghost(stage: &Stage) {
    let name = stage.name("lock");
    let manager = stage.manager().await;
    let guard = stage.manager().await.lock(&name).unwrap().acquire().await.unwrap();
    let mut waiters = Vec::new();
    for count in 2..5 {
        let lock = manager.lock(&name).unwrap();
        waiters.push(tokio::spawn(async move { lock.acquire().await }));
        stage.standing(&name, count).await;
    }
    let before = stage.standing(&name, 4).await;
    waiters[0].abort();
    let after = stage.standing(&name, 3).await;
    assert_eq!(ids(&after), ids(&[before[0].clone(), before[2].clone(), before[3].clone()]));
    assert!(guard.is_held() && !waiters[1].is_finished());
    guard.release().await.unwrap();
    let next = within(PATIENCE, "a waiter behind is granted", waiters.remove(1)).await;
    assert_eq!(next.unwrap().unwrap().release().await.unwrap(), Released::Clean);
    drop(within(PATIENCE, "the last is granted", waiters.remove(1)).await.unwrap().unwrap());
}

/// A waiter in mid-queue whose session the store ends blocks nobody behind it.
pub async fn a_killed_waiter_blocks_nobody(stage: &Stage) {
    let name = stage.name("lock");
    let (client, killed) = (stage.client().await, stage.client().await);
    let (holder, ..) = client.hold(&name).await;
    killed.queue(&name).await;
    let (waiter, entry, turn) = client.queue(&name).await;
    stage.end_session(&killed.session).await;
    stage.standing(&name, 2).await;
    assert!(matches!(client.look(&waiter, &entry).await, Turn::Waiting { .. }));
    client.leave(&holder, false).await;
    assert!(matches!(client.turn(&waiter, &entry, turn).await, Turn::Held { .. }));
}

/// A waiter in mid-queue that is heard of no more blocks nobody for longer than its time to live.
pub async fn a_crashed_waiter_blocks_nobody(stage: &Stage) {
    let name = stage.name("lock");
    let guard = stage.manager().await.lock(&name).unwrap().acquire().await.unwrap();
    let backend = stage.backend().await;
    let crashing = stage.builder(&backend).ttl(stage.ttl()).open().await.unwrap();
    let (lock, behind) = (crashing.lock(&name).unwrap(), stage.manager().await);
    let crashed = tokio::spawn(async move { lock.acquire().await.map(drop) });
    stage.standing(&name, 2).await;
    let lock = behind.lock(&name).unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    stage.standing(&name, 3).await;
    stage.cut(&backend).await;
    guard.release().await.unwrap();
    let bound = 2 * backend.session().granted + PATIENCE;
    let next = within(bound, "the waiter behind is granted", waiter).await.unwrap().unwrap();
    assert!(next.is_held() && !crashed.is_finished());
    crashed.abort();
}

/// A waiter whose entry was removed by another's hand gets an error of kind `Lost`: it is not
/// granted, and does not enter again.
pub async fn an_evicted_waiter_is_never_granted(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (holder, ..) = client.hold(&name).await;
    let (waiter, entry, _) = client.queue(&name).await;
    let backend = stage.backend().await;
    let lock = stage.builder(&backend).open().await.unwrap().lock(&name).unwrap();
    let acquiring = tokio::spawn(async move { lock.acquire().await });
    for standing in stage.standing(&name, 3).await.iter().skip(1) {
        assert!(stage.observer().evict(&name, &standing.entry).await.unwrap());
    }
    let refused = within(PATIENCE, "the waiter learns it", acquiring).await.unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Lost);
    assert_eq!(backend.calls(Verb::Enter), 1);
    assert_eq!(client.look(&waiter, &entry).await, Turn::Lost);
    // Nor when nobody stands before it any more.
    client.leave(&holder, false).await;
    assert_eq!(client.look(&waiter, &entry).await, Turn::Lost);
    stage.standing(&name, 0).await;
}

/// A holder older than min(validity / 6, 1 s) whose entry is removed by another's hand is told by
/// the store, not by its next renewal; its other locks stay held.
pub async fn an_evicted_holder_learns_it(stage: &Stage) {
    let (name, other) = (stage.name("one"), stage.name("two"));
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).open().await.unwrap();
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let kept = manager.lock(&other).unwrap().acquire().await.unwrap();
    let entry = stage.standing(&name, 1).await.remove(0).entry;
    assert!(stage.observer().evict(&name, &entry).await.unwrap());
    let bound = told_within(&backend.session());
    assert!(bound < backend.session().renew_every, "a renewal would tell as early");
    let reason = within(bound, "the loss is told", guard.lost()).await;
    assert_eq!(reason, LossReason::Evicted);
    assert!(!guard.is_held() && kept.is_held());
    assert!(guard.token() < manager.lock(&name).unwrap().acquire().await.unwrap().token());
    assert!(!guard.is_held());
}

/// A release wakes one waiter: where the store pushes, it costs the same few requests however many
/// wait.
pub async fn a_release_wakes_one_waiter(stage: &Stage) {
    async fn acquire(manager: LockManager, name: LockName) -> Result<Guard> {
        manager.lock(name)?.acquire().await
    }
    one_is_woken(stage, acquire, Guard::release).await;
}

/// `changed` completes for a waiter when its blocker goes or its own entry does, and for a holder
/// when its entry goes.
pub async fn a_change_is_told_to_waiter_and_holder(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (first, ..) = client.hold(&name).await;
    let (second, place, turn) = client.queue(&name).await;
    let watching = watch(&client, (second.clone(), place.clone(), turn));
    client.leave(&first, false).await;
    within(PATIENCE, "the waiter hears of the release", watching).await.unwrap();

    let turn = client.look(&second, &place).await;
    let (third, behind, waiting) = client.queue(&name).await;
    let holder = watch(&client, (second, place.clone(), turn));
    let waiter = watch(&client, (third, behind.clone(), waiting));
    // The second change is told to one who waits for the holder's entry too.
    assert!(stage.observer().evict(&name, &behind).await.unwrap());
    within(PATIENCE, "the waiter hears of its eviction", waiter).await.unwrap();
    assert!(stage.observer().evict(&name, &place).await.unwrap());
    within(PATIENCE, "the holder hears of its eviction", holder).await.unwrap();
}

/// `changed` completes at once when what it waits for came before it was called.
pub async fn a_change_that_came_first_is_told_at_once(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (first, ..) = client.hold(&name).await;
    let second = client.queue(&name).await;
    client.leave(&first, false).await;
    within(PATIENCE, "a release before", watch(&client, second.clone())).await.unwrap();
    let turn = client.look(&second.0, &second.1).await;
    let third = client.queue(&name).await;
    for entry in [&third.1, &second.1] {
        assert!(stage.observer().evict(&name, entry).await.unwrap());
    }
    let holder = (second.0, second.1, turn);
    within(PATIENCE, "an eviction before", watch(&client, third)).await.unwrap();
    within(PATIENCE, "an eviction before", watch(&client, holder)).await.unwrap();
}

/// `look` answers `Lost` for an attempt that never entered or has left, and makes no entry.
pub async fn look_creates_no_entry(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (left, entry, _) = client.hold(&name).await;
    client.leave(&left, false).await;
    assert_eq!(client.look(&left, &entry).await, Turn::Lost);
    let (doubted, entry, _) = client.hold(&name).await;
    client.leave(&doubted, true).await;
    assert_eq!(client.look(&doubted, &entry).await, Turn::Lost);
    assert_eq!(client.look(&attempt(&name, false), &entry).await, Turn::Lost);
    assert!(stage.observer().queue(&name).await.unwrap().is_empty());
    // Nor does one beside another's grant.
    client.hold(&name).await;
    assert_eq!(client.look(&doubted, &entry).await, Turn::Lost);
    assert_eq!(stage.observer().queue(&name).await.unwrap().len(), 1);
}

/// `look` takes an entry for the own one only by key and position: a later entry is another.
pub async fn look_knows_an_entry_by_its_id(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (held, entry, _) = client.hold(&name).await;
    for position in [entry.position.wrapping_sub(1), entry.position + 1] {
        let other = EntryId { position, ..entry.clone() };
        assert_eq!(client.look(&held, &other).await, Turn::Lost, "{other:?}");
    }
    let key = Arc::from(format!("{}x", entry.key));
    assert_eq!(client.look(&held, &EntryId { key, ..entry.clone() }).await, Turn::Lost);
    assert!(matches!(client.look(&held, &entry).await, Turn::Held { .. }));
    assert_eq!(stage.standing(&name, 1).await[0].entry, entry);
}

/// Watches as the engine does, in a task that has begun when this returns.
fn watch(
    client: &super::stage::Client,
    (attempt, entry, turn): (portunus_core::backend::Attempt, EntryId, Turn),
) -> tokio::task::JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move {
        client.backend.changed(&client.session, &attempt, &entry, &turn).await.unwrap();
    })
}
