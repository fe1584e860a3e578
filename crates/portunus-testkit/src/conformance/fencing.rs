//! The token: one per grant, fixed, unique, larger than those before.

use portunus_core::backend::{Entered, LockBackend, LockObserver, Turn};
use portunus_core::error::ErrorKind;
use portunus_core::guard::Released;

use super::stage::{Stage, token};
use super::wait::{PATIENCE, eventually, within};
use crate::harness::attempt;
use crate::tap::Verb;

#[doc(hidden)]
#[macro_export]
macro_rules! __fencing {
    ([$($then:tt)+] $($context:tt)*) => { $($then)+! { $($context)*; fencing:
        tokens_grow_across_managers_and_sessions
        tokens_grow_after_a_loss
        waiters_get_distinct_growing_tokens
        an_attempt_entered_ten_times_is_one_entry
        a_token_is_fixed_at_the_grant
        a_token_names_its_lock_and_store
        entering_goes_on_after_a_lost_reply
        a_try_goes_on_after_a_lost_reply
        converting_keeps_entry_and_token
    } };
}

/// Tokens of a lock grow with every grant, also when its queue was empty in between, whatever
/// manager or session it is granted to.
pub async fn tokens_grow_across_managers_and_sessions(stage: &Stage) {
    let name = stage.name("lock");
    let kept = stage.manager().await;
    let mut last = None;
    for _ in 0..3 {
        for manager in [&stage.manager().await, &kept, &kept] {
            let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
            let token = guard.token();
            assert!(last.is_none_or(|last| token > last), "{token} does not grow");
            last = Some(token);
            guard.release().await.unwrap();
        }
        stage.standing(&name, 0).await;
    }
}

/// A token is larger than that of a holder who was evicted or whose session was ended.
pub async fn tokens_grow_after_a_loss(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (_, entry, evicted) = client.hold(&name).await;
    assert!(stage.observer().evict(&name, &entry).await.unwrap());
    let killed = stage.client().await;
    let (_, _, second) = killed.hold(&name).await;
    stage.end_session(&killed.session).await;
    stage.standing(&name, 0).await;
    let (_, _, third) = client.hold(&name).await;
    assert!(evicted < second && second < third, "{evicted} {second} {third}");
}

/// Those who wait at the same time get distinct tokens, which grow in the order of their grants.
pub async fn waiters_get_distinct_growing_tokens(stage: &Stage) {
    let name = stage.name("lock");
    let clients = [stage.client().await, stage.client().await];
    let (mut holder, _, mut last) = clients[0].hold(&name).await;
    let mut waiting = Vec::new();
    for client in clients.iter().cycle().take(6) {
        waiting.push((client, client.queue(&name).await));
    }
    let mut left_by = &clients[0];
    for (client, (waiter, entry, turn)) in waiting {
        left_by.leave(&holder, false).await;
        let next = token(&client.turn(&waiter, &entry, turn).await);
        assert!(next > last, "{next} after {last}");
        (holder, last, left_by) = (waiter, next, client);
    }
}

/// The same attempt entered ten times gives one entry and one token, whether it holds or waits.
pub async fn an_attempt_entered_ten_times_is_one_entry(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (held, entry, first) = client.hold(&name).await;
    for _ in 1..10 {
        let (again, turn) = client.enter(&held).await;
        assert_eq!((again, token(&turn)), (entry.clone(), first));
    }
    assert_eq!(stage.standing(&name, 1).await[0].entry, entry);
    let (waiter, place, turn) = client.queue(&name).await;
    for _ in 1..10 {
        let (again, turn) = client.enter(&waiter).await;
        assert_eq!(again, place);
        assert!(matches!(turn, Turn::Waiting { .. }));
    }
    stage.standing(&name, 2).await;
    client.leave(&held, false).await;
    let second = token(&client.turn(&waiter, &place, turn).await);
    let (again, turn) = client.enter(&waiter).await;
    assert_eq!((again, token(&turn)), (place, second));
    assert!(second > first);
    stage.standing(&name, 1).await;
}

/// A grant has one token from its first moment to its last: renewals, looks, published values and
/// listings do not change it.
pub async fn a_token_is_fixed_at_the_grant(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).ttl(stage.ttl()).open().await.unwrap();
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let granted = guard.token();
    let limit = 4 * backend.session().granted + PATIENCE;
    eventually(limit, "two renewals", async || match manager.stats().renewals {
        2.. => Ok(()),
        fewer => Err(fewer),
    })
    .await;
    assert_eq!(guard.token(), granted);
    let listed = stage.standing(&name, 1).await.remove(0).token;
    assert!(listed.is_none_or(|listed| listed == granted.value()), "{listed:?}");
    guard.release().await.unwrap();

    let client = stage.client().await;
    let (held, entry, granted) = client.hold(&name).await;
    client.backend.publish(&client.session, &held, &entry, "a value").await.unwrap();
    client.queue(&name).await;
    client.backend.renew(&client.session, &[held.clone().into()]).await.unwrap();
    assert_eq!(token(&client.look(&held, &entry).await), granted);
}

/// A token's origin is its lock in this life of the store: the same through every manager, another
/// for another lock.
pub async fn a_token_names_its_lock_and_store(stage: &Stage) {
    let (name, other) = (stage.name("one"), stage.name("two"));
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let mut tokens = Vec::new();
    for manager in [&manager, &rival] {
        let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
        tokens.push(guard.token());
        guard.release().await.unwrap();
    }
    assert_eq!(tokens[0].origin(), tokens[1].origin());
    assert_eq!(tokens[0].origin().name(), &name);
    let incarnation = stage.observer().probe().await.unwrap().incarnation;
    assert_eq!(tokens[0].origin().incarnation(), &incarnation);
    assert_eq!(rival.probe().await.unwrap().incarnation, incarnation);
    let foreign = manager.lock(&other).unwrap().acquire().await.unwrap().token();
    assert_eq!(foreign.partial_cmp(&tokens[0]), None);
    assert_eq!(foreign.origin().incarnation(), &incarnation);
}

/// An acquire whose entering request was applied and its answer lost goes on with the entry that it
/// made.
pub async fn entering_goes_on_after_a_lost_reply(stage: &Stage) {
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).open().await.unwrap();
    backend.lose_replies(Verb::Enter, 2);
    let lock = manager.lock(&name).unwrap();
    let guard = within(PATIENCE, "the lock is held", lock.acquire()).await.unwrap();
    assert_eq!(backend.calls(Verb::Enter), 3);
    let listed = stage.standing(&name, 1).await.remove(0).token;
    assert!(listed.is_none_or(|listed| listed == guard.token().value()), "{listed:?}");
    assert_eq!(guard.release().await.unwrap(), Released::Clean);
    stage.standing(&name, 0).await;
}

/// The same for a try: granted with the token of its one entry, or refused without any.
pub async fn a_try_goes_on_after_a_lost_reply(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let tried = attempt(&name, true);
    let (entry, turn) = client.enter(&tried).await;
    assert_eq!(client.enter(&tried).await, (entry, turn));
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).open().await.unwrap();
    backend.lose_replies(Verb::Enter, 1);
    let refused = within(PATIENCE, "the answer", manager.lock(&name).unwrap().try_acquire()).await;
    assert!(refused.unwrap().is_none());
    stage.standing(&name, 1).await;
    client.leave(&tried, false).await;
    backend.lose_replies(Verb::Enter, 1);
    let granted = within(PATIENCE, "the answer", manager.lock(&name).unwrap().try_acquire()).await;
    assert_eq!(granted.unwrap().unwrap().release().await.unwrap(), Released::Clean);
}

/// Where the store can convert, an exclusive grant becomes a shared one with the same entry and
/// token, and the next shared one holds beside it; elsewhere it says that it can't.
pub async fn converting_keeps_entry_and_token(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (held, entry, granted) = client.hold(&name).await;
    let converted = client.backend.convert(&client.session, &held, &entry).await;
    if !stage.capabilities().convert {
        return assert_eq!(converted.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    converted.unwrap();
    assert_eq!(token(&client.look(&held, &entry).await), granted);
    let mut shared = attempt(&name, false);
    shared.mode = portunus_core::backend::Mode::Shared;
    match client.backend.enter(&client.session, &shared).await.unwrap() {
        Entered::Queued { turn, .. } => assert!(token(&turn) > granted),
        Entered::Refused => panic!("an attempt that would wait was refused"),
    }
    client.queue(&name).await;
    client.leave(&held, false).await;
    let gone = client.backend.convert(&client.session, &held, &entry).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::Lost);
}
