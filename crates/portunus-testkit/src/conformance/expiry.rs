//! The end of a grant that was not released: told to its holder, and the next one let in.

use std::time::Duration;

use portunus_core::backend::{LockBackend, Session, Turn};
use portunus_core::error::ErrorKind;
use portunus_core::guard::{Guard, LossReason, Released, Status};

use super::stage::Stage;
use super::wait::{PATIENCE, eventually, within};
use crate::harness::attempt;
use crate::tap::Verb;

#[doc(hidden)]
#[macro_export]
macro_rules! __expiry {
    ([$($then:tt)+] $($context:tt)*) => { $($then)+! { $($context)*; expiry:
        a_live_holder_keeps_its_lock
        the_end_of_a_session_is_told_to_the_holder
        nothing_is_left_of_a_session_that_ended
        closing_a_session_removes_its_entries
        a_release_is_not_a_loss
        a_dropped_manager_frees_its_locks
        a_crashed_holder_is_freed_in_time
        a_loss_is_shown_before_the_next_grant
        a_renewal_counts_from_before_it_was_sent
        a_late_renewal_revives_nothing
        a_blocked_keeper_still_shows_the_loss
        a_suspended_holder_recovers
        a_waiter_whose_session_ended_queues_again
        max_hold_lets_the_next_one_in
        a_shutdown_ends_what_is_held
    } };
}

/// A holder that renews keeps its lock for as long as it likes, whoever waits.
pub async fn a_live_holder_keeps_its_lock(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).ttl(stage.ttl()).open().await.unwrap();
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let lock = stage.manager().await.lock(&name).unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    let standing = stage.standing(&name, 2).await;
    let limit = 4 * backend.session().granted + PATIENCE;
    eventually(limit, "seven renewals", async || match manager.stats().renewals {
        7.. => Ok(()),
        fewer => Err(fewer),
    })
    .await;
    assert_eq!((guard.status(), waiter.is_finished()), (Status::Held, false));
    assert_eq!(stage.standing(&name, 2).await, standing);
    guard.release().await.unwrap();
    drop(within(PATIENCE, "the waiter holds", waiter).await.unwrap().unwrap());
}

/// When the store ends the session of a holder older than min(validity / 6, 1 s), the holder learns
/// it from the store, not from its next renewal; it stays lost for ever.
pub async fn the_end_of_a_session_is_told_to_the_holder(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).open().await.unwrap();
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let session = backend.session();
    stage.end_session(&session).await;
    let bound = told_within(&session);
    assert!(bound < session.renew_every, "a renewal would tell as early: {session:?}");
    let reason = within(bound, "the loss is told", guard.lost()).await;
    assert!(matches!(reason, LossReason::SessionEnded | LossReason::Evicted), "{reason:?}");
    assert!(!guard.is_held() && guard.remaining().is_zero());
    // The manager goes on with another session; the guard does not.
    let next = within(PATIENCE, "a new session", manager.lock(&name).unwrap().acquire()).await;
    let next = next.unwrap();
    assert!(next.token() > guard.token());
    assert_eq!(guard.status(), Status::Lost(reason));
    assert_eq!(guard.release().await.unwrap(), Released::AlreadyLost(reason));
    assert_eq!(manager.stats().lost, 1);
    assert_eq!(next.release().await.unwrap(), Released::Clean);
}

/// After the end of a session its renewal and its entering are `Lost`, and so are its entries.
pub async fn nothing_is_left_of_a_session_that_ended(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (held, entry, _) = client.hold(&name).await;
    stage.end_session(&client.session).await;
    stage.standing(&name, 0).await;
    let (backend, session) = (&client.backend, &client.session);
    // A connection may end with its session, and leave the request in doubt that noticed it.
    let renewal = eventually(PATIENCE, "a definite answer", async || {
        match backend.renew(session, &[]).await {
            Err(error) if error.is_retryable() => Err(error),
            answer => Ok(answer),
        }
    });
    assert_eq!(renewal.await.unwrap_err().kind(), ErrorKind::Lost);
    let entering = backend.enter(session, &attempt(&name, false)).await;
    assert_eq!(entering.unwrap_err().kind(), ErrorKind::Lost);
    let entering_again = backend.enter(session, &held).await;
    assert_eq!(entering_again.unwrap_err().kind(), ErrorKind::Lost);
    match backend.look(session, &held, &entry).await {
        Ok(turn) => assert_eq!(turn, Turn::Lost),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Lost),
    }
    stage.standing(&name, 0).await;
}

/// Closing a session removes all its entries and no other's, and may be repeated.
pub async fn closing_a_session_removes_its_entries(stage: &Stage) {
    let (name, other) = (stage.name("one"), stage.name("two"));
    let (client, rival) = (stage.client().await, stage.client().await);
    client.hold(&name).await;
    client.hold(&other).await;
    let (waiter, entry, turn) = rival.queue(&name).await;
    for _ in 0..2 {
        client.backend.close_session(&client.session).await.unwrap();
        stage.standing(&other, 0).await;
    }
    assert!(matches!(rival.turn(&waiter, &entry, turn).await, Turn::Held { .. }));
    let renewal = client.backend.renew(&client.session, &[]).await;
    assert_eq!(renewal.unwrap_err().kind(), ErrorKind::Lost);
}

/// The loss signal does not fire for a release or a drop.
pub async fn a_release_is_not_a_loss(stage: &Stage) {
    let name = stage.name("lock");
    let manager = stage.manager().await;
    let lock = manager.lock(&name).unwrap();
    let guard = lock.acquire().await.unwrap();
    let released = guard.cancellation_token();
    guard.release().await.unwrap();
    let guard = lock.acquire().await.unwrap();
    let dropped = guard.cancellation_token();
    drop(guard);
    // A loss would have been told before the next grants came and went.
    lock.acquire().await.unwrap().release().await.unwrap();
    manager.shutdown(PATIENCE).await.unwrap();
    assert!(!released.is_cancelled() && !dropped.is_cancelled());
    assert_eq!(manager.stats().lost, 0);
}

/// Dropping a manager and its guards closes the session in the background, long before it expires.
pub async fn a_dropped_manager_frees_its_locks(stage: &Stage) {
    let names = [stage.name("one"), stage.name("two")];
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).open().await.unwrap();
    let mut guards = Vec::new();
    for name in &names {
        guards.push(manager.lock(name).unwrap().acquire().await.unwrap());
    }
    drop(manager);
    assert!(guards.iter().all(Guard::is_held), "a guard keeps what it needs");
    drop(guards);
    let rival = stage.manager().await;
    for name in &names {
        let lock = rival.lock(name).unwrap();
        drop(within(PATIENCE, "the lock is free", lock.acquire()).await.unwrap());
    }
    eventually(PATIENCE, "the session is closed", async || match backend.calls(Verb::Close) {
        0 => Err(()),
        _ => Ok(()),
    })
    .await;
}

/// The lock of a holder that is heard of no more goes to the next one within the time to live that
/// was granted, with a larger token.
pub async fn a_crashed_holder_is_freed_in_time(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).ttl(stage.ttl()).open().await.unwrap();
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let lock = stage.manager().await.lock(&name).unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    stage.standing(&name, 2).await;
    stage.cut(&backend).await;
    let bound = backend.session().granted + SLACK;
    let next = within(bound, "the waiter holds", waiter).await.unwrap().unwrap();
    assert!(next.token() > guard.token());
}

/// A holder that is cut off knows that its lock is lost before the store can grant it again.
pub async fn a_loss_is_shown_before_the_next_grant(stage: &Stage) {
    let names: Vec<_> = (0..4).map(|number| stage.name(&format!("lock-{number}"))).collect();
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).ttl(stage.ttl()).open().await.unwrap();
    let rival = stage.manager().await;
    let mut pairs = Vec::new();
    for name in &names {
        let guard = manager.lock(name).unwrap().acquire().await.unwrap();
        let lock = rival.lock(name).unwrap();
        let waiter = async move {
            let next = lock.acquire().await.unwrap();
            // What the first holder says at this very moment is what counts.
            (guard.is_held(), guard, next)
        };
        pairs.push(tokio::spawn(waiter));
        stage.standing(name, 2).await;
    }
    stage.cut(&backend).await;
    let bound = backend.session().granted + SLACK;
    for pair in pairs {
        let (both, guard, next) = within(bound, "the waiter holds", pair).await.unwrap();
        assert!(!both, "two believed to hold: {guard:?} and {next:?}");
        let reason = within(Duration::from_secs(1), "the loss is told", guard.lost()).await;
        assert_eq!(reason, LossReason::Expired);
    }
}

/// What a renewal is worth counts from before it was sent, not from its answer: one that was
/// answered late is followed by no time in which two believe to hold.
pub async fn a_renewal_counts_from_before_it_was_sent(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).ttl(stage.ttl()).open().await.unwrap();
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let lock = stage.manager().await.lock(&name).unwrap();
    let next = tokio::spawn(async move {
        let next = lock.acquire().await.unwrap();
        (guard.is_held(), next)
    });
    stage.standing(&name, 2).await;
    backend.block(Verb::Renew);
    within(PATIENCE, "a renewal", backend.blocked()).await;
    stage.cut(&backend).await;
    let session = backend.session();
    // The store counts from the request; the answer comes just before it would count as lost.
    tokio::time::sleep(session.request_timeout * 4 / 5).await;
    backend.unblock();
    let (both, _) = within(session.granted + SLACK, "the next one holds", next).await.unwrap();
    assert!(!both, "two believed to hold");
}

/// A lost guard stays lost when a renewal that was sent in time is confirmed after its deadline.
pub async fn a_late_renewal_revives_nothing(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).ttl(stage.ttl()).open().await.unwrap();
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    // It reaches the store, which counts the session as alive, and its answer is held up.
    backend.block(Verb::Renew);
    within(PATIENCE, "a renewal", backend.blocked()).await;
    let deadline = backend.session().validity + PATIENCE;
    eventually(deadline, "the deadline passes", async || match guard.status() {
        Status::Lost(reason) => Ok(reason),
        status => Err(status),
    })
    .await;
    backend.unblock();
    assert_eq!(within(PATIENCE, "the loss is told", guard.lost()).await, LossReason::Expired);
    let next = within(PATIENCE, "a new session", manager.lock(&name).unwrap().acquire()).await;
    assert!(next.unwrap().token() > guard.token());
    assert_eq!(guard.status(), Status::Lost(LossReason::Expired));
    assert_eq!(guard.release().await.unwrap(), Released::AlreadyLost(LossReason::Expired));
}

/// A guard that nobody looked at meanwhile is lost at its deadline all the same, although nothing
/// of the engine could run and the renewal is confirmed in the end.
pub async fn a_blocked_keeper_still_shows_the_loss(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).ttl(stage.ttl()).open().await.unwrap();
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    backend.block(Verb::Renew);
    within(PATIENCE, "a renewal", backend.blocked()).await;
    // Only time passes here, for a look at the guard would itself end it: until after the deadline
    // that the renewal before gave, and before the one that this renewal would give.
    let session = backend.session();
    tokio::time::sleep(session.validity - session.renew_every / 2).await;
    backend.unblock();
    assert_eq!(within(PATIENCE, "the loss is told", guard.lost()).await, LossReason::Expired);
    assert!(!guard.is_held());
}

/// A holder whose renewals fail for less than its validity is suspended, then holds as before.
pub async fn a_suspended_holder_recovers(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).ttl(4 * stage.ttl()).open().await.unwrap();
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let limit = backend.session().granted + PATIENCE;
    backend.lose_replies(Verb::Renew, 2);
    for expected in [Status::Suspended, Status::Held] {
        eventually(limit, "the status changes", async || match guard.status() {
            status if status == expected => Ok(()),
            status => Err(status),
        })
        .await;
    }
    assert!(!guard.cancellation_token().is_cancelled());
    assert_eq!(guard.release().await.unwrap(), Released::Clean);
}

/// A waiter whose session ends loses its place, gets a new attempt in a new session, and is granted
/// in the end.
pub async fn a_waiter_whose_session_ended_queues_again(stage: &Stage) {
    let name = stage.name("lock");
    let guard = stage.manager().await.lock(&name).unwrap().acquire().await.unwrap();
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).open().await.unwrap();
    let lock = manager.lock(&name).unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    let before = stage.standing(&name, 2).await;
    stage.end_session(&backend.session()).await;
    eventually(PATIENCE, "another entry waits", async || {
        let now = stage.standing(&name, 2).await;
        if now[1].entry == before[1].entry { Err(now) } else { Ok(()) }
    })
    .await;
    assert_eq!(manager.stats().places_lost, 1);
    assert!(guard.is_held() && !waiter.is_finished());
    guard.release().await.unwrap();
    let next = within(PATIENCE, "the waiter holds", waiter).await.unwrap().unwrap();
    assert!(next.is_held());
}

/// A guard is lost at the manager's `max_hold`, whatever it does, and then the next one holds.
pub async fn max_hold_lets_the_next_one_in(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let builder = stage.builder(&backend).max_hold(Duration::from_millis(300));
    let guard = builder.open().await.unwrap().lock(&name).unwrap().acquire().await.unwrap();
    let lock = stage.manager().await.lock(&name).unwrap();
    let next = async {
        let next = lock.acquire().await.unwrap();
        (guard.is_held(), next)
    };
    let (both, next) = within(PATIENCE, "the next one holds", next).await;
    assert!(!both, "two believed to hold");
    assert_eq!(within(PATIENCE, "the loss is told", guard.lost()).await, LossReason::MaxHold);
    assert!(next.token() > guard.token());
    let released = guard.release().await.unwrap();
    assert_eq!(released, Released::AlreadyLost(LossReason::MaxHold));
    assert!(next.is_held());
}

/// A shutdown loses what is still held at its limit, frees it in the store, and refuses new calls.
pub async fn a_shutdown_ends_what_is_held(stage: &Stage) {
    let (name, waited_for) = (stage.name("lock"), stage.name("other"));
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let others = rival.lock(&waited_for).unwrap().acquire().await.unwrap();
    let lock = manager.lock(&waited_for).unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    stage.standing(&waited_for, 2).await;
    let shutdown = manager.shutdown(Duration::from_millis(50));
    assert_eq!(within(PATIENCE, "the shutdown", shutdown).await.unwrap(), 1);
    let refused = within(PATIENCE, "the waiter returns", waiter).await.unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(within(PATIENCE, "the loss is told", guard.lost()).await, LossReason::Closed);
    assert!(!guard.is_held() && others.is_held());
    let refused = manager.lock(&name).unwrap().acquire().await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    // The shutdown returned when the store had confirmed the end.
    assert!(rival.lock(&name).unwrap().try_acquire().await.unwrap().is_some());
}

/// How soon a holder learns from the store that its entry is gone, with time for round trips.
pub(super) fn told_within(session: &Session) -> Duration {
    (session.validity / 6).min(Duration::from_secs(1)) + Duration::from_secs(2)
}

/// How much later than the granted time to live a store may free a lock.
const SLACK: Duration = Duration::from_secs(4);
