//! Permits: up to a limit together, the rest in order, each release one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use portunus_core::backend::{
    Entered, Left, LockBackend, LockObserver,
    Mode::{self, Exclusive, Shared},
    Turn,
};
use portunus_core::error::ErrorKind;
use portunus_core::guard::{Permit, Released};

use super::crowd::changing;
use super::stage::{Stage, token};
use super::wait::{PATIENCE, eventually, within};
use crate::harness::attempt_as;
use crate::tap::Verb;

#[doc(hidden)]
#[macro_export]
macro_rules! __permits {
    ([$($then:tt)+] $($context:tt)*) => { $($then)+! { $($context)*; permits:
        as_many_hold_as_the_limit_says
        each_release_lets_one_in_in_order
        the_first_waiter_is_woken_by_any_holder
        a_waiter_that_holds_is_told_to_the_one_behind
        a_grant_that_came_first_is_told_at_once
        several_releases_at_once_let_as_many_in
        a_cancelled_waiter_of_a_permit_leaves_no_ghost
        a_permit_s_try_is_granted_below_the_limit_only
        another_limit_or_mode_is_a_conflict
        a_permit_that_enters_again_has_one_entry
        a_permit_s_create_that_arrives_after_leave_has_no_effect
        an_evicted_permit_is_lost_and_lets_the_next_in
        a_release_costs_few_requests
        many_tasks_never_exceed_the_limit
        a_semaphore_gives_its_permits
        a_name_in_use_otherwise_is_a_conflict
    } };
}

/// As many hold at a time as the limit says, and the next one waits.
pub async fn as_many_hold_as_the_limit_says(stage: &Stage) {
    let (client, other) = (stage.client().await, stage.client().await);
    for limit in [1, 3] {
        let name = stage.name(&format!("of-{limit}"));
        for at in 0..limit {
            let by = if at % 2 == 0 { &client } else { &other };
            let (attempt, entry, _) = by.hold_as(&name, permit(limit)).await;
            assert!(matches!(by.look(&attempt, &entry).await, Turn::Held { .. }));
        }
        let (attempt, entry, _) = other.queue_as(&name, permit(limit)).await;
        client.queue_as(&name, permit(limit)).await;
        assert!(matches!(other.look(&attempt, &entry).await, Turn::Waiting { .. }));
        let count = usize::try_from(limit).unwrap();
        let listed = stage.standing(&name, count + 2).await;
        assert!(listed.iter().enumerate().all(|(at, one)| one.holds == (at < count)));
        let queue = stage.observer().queue(&name).await.unwrap();
        assert!(queue.iter().all(|entry| entry.mode == permit(limit)), "{queue:?}");
    }
}

/// Each release lets exactly one in, in the order of arrival where the store promises `fifo`.
pub async fn each_release_lets_one_in_in_order(stage: &Stage) {
    let (client, other) = (stage.client().await, stage.client().await);
    for limit in [1, 2] {
        let name = stage.name(&format!("of-{limit}"));
        let mut holding = VecDeque::new();
        for _ in 0..limit {
            holding.push_back((&client, client.hold_as(&name, permit(limit)).await.0));
        }
        let mut waiting = VecDeque::new();
        for at in 0..limit + 4 {
            let by = if at % 2 == 0 { &other } else { &client };
            let waiter = by.queue_as(&name, permit(limit)).await;
            waiting.push_back((by, waiter.0.clone(), by.waits(waiter)));
        }
        while let Some((by, attempt)) = holding.pop_front() {
            assert_eq!(by.leave(&attempt, false).await, Left::Removed);
            if let Some((next, attempt, turn)) = waiting.pop_front() {
                let turn = within(PATIENCE, "the next is served", turn).await.unwrap();
                assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
                holding.push_back((next, attempt));
            }
            assert!(waiting.iter().all(|(.., turn)| !turn.is_finished()), "two were let in");
        }
    }
}

/// The first waiter is woken by whichever of the holders goes first.
pub async fn the_first_waiter_is_woken_by_any_holder(stage: &Stage) {
    let (client, other) = (stage.client().await, stage.client().await);
    for gone in 0..3 {
        let name = stage.name(&format!("gone-{gone}"));
        let holders = client.fill(&name, 3).await;
        let first = other.waits(other.queue_as(&name, permit(3)).await);
        let second = other.waits(other.queue_as(&name, permit(3)).await);
        client.leave(&holders[gone], false).await;
        let turn = within(PATIENCE, "the first waiter holds", first).await.unwrap();
        assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
        assert!(!second.is_finished());
        client.leave(&holders[(gone + 1) % 3], false).await;
        within(PATIENCE, "the second waiter holds", second).await.unwrap();
    }
}

/// A waiter watches the one before it. When that one is granted, it stays; it must be told all the
/// same, for it is now the first to wait and any holder's going is its turn.
pub async fn a_waiter_that_holds_is_told_to_the_one_behind(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let [first, second] = client.fill(&name, 2).await.try_into().unwrap();
    let (third, place, turn) = client.queue_as(&name, permit(2)).await;
    let granted = client.waits((third.clone(), place.clone(), turn));
    let behind = [other.queue_as(&name, permit(2)).await, client.queue_as(&name, permit(2)).await];
    let looks = other.backend.calls(Verb::Look);
    let [fourth, fifth] = behind;
    let (fourth, fifth) = (other.waits(fourth), client.waits(fifth));
    client.leave(&first, false).await;
    within(PATIENCE, "the third holds", granted).await.unwrap();
    eventually(PATIENCE, "the fourth is told", async || {
        if other.backend.calls(Verb::Look) > looks { Ok(()) } else { Err(looks) }
    })
    .await;
    assert!(!fourth.is_finished() && !fifth.is_finished());
    // The third holds on.
    client.leave(&second, false).await;
    within(PATIENCE, "the fourth holds", fourth).await.unwrap();
    assert!(matches!(client.look(&third, &place).await, Turn::Held { .. }));
    client.leave(&third, false).await;
    within(PATIENCE, "the fifth holds", fifth).await.unwrap();
}

/// A waiter that begins to watch after the one before it was granted is told at once.
pub async fn a_grant_that_came_first_is_told_at_once(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let [first, second] = client.fill(&name, 2).await.try_into().unwrap();
    let (third, place, turn) = client.queue_as(&name, permit(2)).await;
    let fourth = other.queue_as(&name, permit(2)).await;
    client.leave(&first, false).await;
    assert!(matches!(client.turn(&third, &place, turn).await, Turn::Held { .. }));
    client.leave(&second, false).await;
    let turn = within(PATIENCE, "the fourth holds", other.waits(fourth)).await.unwrap();
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
}

/// Several releases at once let as many in, the first ones in the queue, and no more.
pub async fn several_releases_at_once_let_as_many_in(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let holders = client.fill(&name, 3).await;
    let mut waiting = Vec::new();
    for at in 0..8 {
        let by = if at % 2 == 0 { &other } else { &client };
        waiting.push(by.waits(by.queue_as(&name, permit(3)).await));
    }
    let [one, two, three] = [0, 1, 2].map(|at| client.leave(&holders[at], false));
    tokio::join!(one, two, three);
    for waiter in waiting.drain(..3) {
        let turn = within(PATIENCE, "one of the next three holds", waiter).await.unwrap();
        assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    }
    assert!(waiting.iter().all(|waiter| !waiter.is_finished()));
    let listed = stage.standing(&name, 8).await;
    assert_eq!(listed.iter().filter(|one| one.holds).count(), 3);
}

/// Waiters that give up go from the queue, and those behind them take their places.
pub async fn a_cancelled_waiter_of_a_permit_leaves_no_ghost(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let [first, second] = client.fill(&name, 2).await.try_into().unwrap();
    let (cancelled, ..) = other.queue_as(&name, permit(2)).await;
    let next = client.waits(client.queue_as(&name, permit(2)).await);
    let (doubted, ..) = other.queue_as(&name, permit(2)).await;
    let last = client.waits(client.queue_as(&name, permit(2)).await);
    assert_eq!(other.leave(&cancelled, false).await, Left::Removed);
    assert_eq!(other.leave(&doubted, true).await, Left::Removed);
    stage.standing(&name, 4).await;
    assert!(!next.is_finished() && !last.is_finished());
    client.leave(&second, false).await;
    within(PATIENCE, "the next holds", next).await.unwrap();
    assert!(!last.is_finished());
    client.leave(&first, false).await;
    within(PATIENCE, "the last holds", last).await.unwrap();
    stage.standing(&name, 2).await;
}

/// A try is granted while fewer than the limit stand in the queue; a refusal leaves no entry.
pub async fn a_permit_s_try_is_granted_below_the_limit_only(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let (first, _) = client.try_as(&name, permit(2)).await.expect("the lock is free");
    let (_, token) = other.try_as(&name, permit(2)).await.expect("one more may hold");
    assert!(client.try_as(&name, permit(2)).await.is_none(), "two hold");
    stage.standing(&name, 2).await;
    client.leave(&first, false).await;
    let (_, later) = client.try_as(&name, permit(2)).await.expect("one went");
    assert!(later > token);
    stage.standing(&name, 2).await;
}

/// Contenders that do not agree about the limit or the mode get an error of kind `Conflict` that
/// says both, and are not granted; those who hold are not disturbed.
pub async fn another_limit_or_mode_is_a_conflict(stage: &Stage) {
    let (client, other) = (stage.client().await, stage.client().await);
    let cases = [
        (permit(2), permit(3), ["limit 2", "limit 3"]),
        (permit(2), Exclusive, ["limit 2", "an exclusive lock"]),
        (permit(2), Shared, ["limit 2", "a shared lock"]),
        (Exclusive, permit(2), ["an exclusive lock", "limit 2"]),
        (Shared, permit(2), ["a shared lock", "limit 2"]),
    ];
    for (at, (held, asked, says)) in cases.into_iter().enumerate() {
        let name = stage.name(&format!("lock-{at}"));
        let (holder, entry, _) = client.hold_as(&name, held).await;
        let contender = attempt_as(&name, asked, false);
        let refused = other.backend.enter(&other.session, &contender).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
        for part in says {
            assert!(refused.to_string().contains(part), "{refused}");
        }
        other.leave(&contender, false).await;
        let trying = attempt_as(&name, asked, true);
        let refused = other.backend.enter(&other.session, &trying).await;
        assert!(
            matches!(&refused, Ok(Entered::Refused))
                || refused.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict),
            "{refused:?}"
        );
        other.leave(&trying, false).await;
        assert!(matches!(client.look(&holder, &entry).await, Turn::Held { .. }));
        stage.standing(&name, 1).await;
    }
}

/// A permit that enters ten times, holding or waiting, has one entry and one token.
pub async fn a_permit_that_enters_again_has_one_entry(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let holder = attempt_as(&name, permit(1), false);
    let first = client.enter(&holder).await;
    let waiter = attempt_as(&name, permit(1), false);
    let (place, _) = client.enter(&waiter).await;
    for _ in 1..10 {
        assert_eq!(client.enter(&holder).await, first);
        assert_eq!(client.enter(&waiter).await.0, place);
    }
    stage.standing(&name, 2).await;
}

/// Once a permit in doubt has left, a request of it that arrives later makes no entry.
pub async fn a_permit_s_create_that_arrives_after_leave_has_no_effect(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    other.hold_as(&name, permit(3)).await;
    for (entered, try_only) in [(false, false), (true, false), (false, true), (true, true)] {
        let doubted = attempt_as(&name, permit(3), try_only);
        if entered {
            client.enter(&doubted).await;
        }
        client.leave(&doubted, true).await;
        let late = client.backend.enter(&client.session, &doubted).await;
        assert!(!matches!(late, Ok(Entered::Queued { .. })), "it came back: {late:?}");
        stage.standing(&name, 1).await;
    }
}

/// A permit whose entry is removed by another's hand is `Lost` for ever, and its place is given to
/// the next.
pub async fn an_evicted_permit_is_lost_and_lets_the_next_in(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    client.hold_as(&name, permit(2)).await;
    let (evicted, entry, _) = client.hold_as(&name, permit(2)).await;
    let (waiter, place, _) = other.queue_as(&name, permit(2)).await;
    let next = other.waits(other.queue_as(&name, permit(2)).await);
    assert!(stage.observer().evict(&name, &place).await.unwrap());
    assert_eq!(other.look(&waiter, &place).await, Turn::Lost);
    assert!(stage.observer().evict(&name, &entry).await.unwrap());
    assert_eq!(client.look(&evicted, &entry).await, Turn::Lost);
    within(PATIENCE, "the next holds", next).await.unwrap();
    assert_eq!(client.look(&evicted, &entry).await, Turn::Lost);
    stage.standing(&name, 2).await;
}

/// Where the store pushes, a release costs a number of requests that grows with the limit and not
/// with the number of those who wait.
pub async fn a_release_costs_few_requests(stage: &Stage) {
    const LIMIT: u32 = 3;
    const WAITERS: usize = 30;
    const RELEASES: usize = 10;
    let name = stage.name("lock");
    let client = stage.client().await;
    let mut holding = VecDeque::from(client.fill(&name, LIMIT).await);
    let mut waiting = VecDeque::new();
    for _ in 0..WAITERS {
        let waiter = client.queue_as(&name, permit(LIMIT)).await;
        waiting.push_back((waiter.0.clone(), client.waits(waiter)));
    }
    let calls = |verb| client.backend.calls(verb);
    changing(&client.backend, WAITERS).await;
    let verbs = [Verb::Enter, Verb::Look, Verb::Changed, Verb::Leave];
    let requests = || verbs.map(calls);
    let before: usize = requests().iter().sum();
    for _ in 0..RELEASES {
        client.leave(&holding.pop_front().unwrap(), false).await;
        let (attempt, turn) = waiting.pop_front().unwrap();
        within(PATIENCE, "the next holds", turn).await.unwrap();
        holding.push_back(attempt);
    }
    let cost = requests().iter().sum::<usize>() - before;
    // One leaves and the first waiter looks; the one behind looks and watches, and may be woken
    // early by each holder that it then watches. All may look once more when their watch begins.
    let each = 4 + 2 * usize::try_from(LIMIT).unwrap();
    let push = stage.capabilities().push;
    let bound = if push { each * RELEASES + 2 * WAITERS } else { usize::MAX };
    assert!(cost <= bound, "{RELEASES} releases cost {cost} requests: {:?}", requests());
    waiting.iter().for_each(|(_, turn)| turn.abort());
}

/// Whatever the order of the steps, there are never more holders than the limit says, and everyone
/// gets a turn.
pub async fn many_tasks_never_exceed_the_limit(stage: &Stage) {
    const LIMIT: u32 = 2;
    let name = stage.name("lock");
    let holding = Arc::new(AtomicU32::new(0));
    let clients = [stage.client().await, stage.client().await];
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..6 {
        let (client, name) = (clients[task % 2].clone(), name.clone());
        let holding = Arc::clone(&holding);
        tasks.spawn(async move {
            for _ in 0..5 {
                let attempt = attempt_as(&name, permit(LIMIT), false);
                let (entry, turn) = client.enter(&attempt).await;
                let turn = client.turn(&attempt, &entry, turn).await;
                assert!(token(&turn) > 0);
                assert!(holding.fetch_add(1, Ordering::SeqCst) < LIMIT, "too many hold");
                tokio::task::yield_now().await;
                holding.fetch_sub(1, Ordering::SeqCst);
                client.leave(&attempt, false).await;
            }
        });
    }
    tasks.join_all().await;
}

/// A semaphore gives as many permits as its limit says and `None` beyond it; a permit has a fencing
/// token only if it is the only one.
pub async fn a_semaphore_gives_its_permits(stage: &Stage) {
    let manager = stage.manager().await;
    for limit in [1, 2] {
        let name = stage.name(&format!("of-{limit}"));
        let semaphore = manager.semaphore(&name, limit).unwrap();
        let mut permits = Vec::new();
        for _ in 0..limit {
            permits.push(semaphore.acquire().await.unwrap());
        }
        assert!(permits.iter().all(|permit| permit.token().is_some() == (limit == 1)));
        assert!(semaphore.try_acquire().await.unwrap().is_none());
        assert!(semaphore.acquire_timeout(Duration::from_secs(2)).await.unwrap().is_none());
        stage.standing(&name, permits.len()).await;
        assert_eq!(permits.remove(0).release().await.unwrap(), Released::Clean);
        let permit = semaphore.acquire_timeout(PATIENCE).await.unwrap().expect("one went");
        assert!(permit.is_held() && permits.iter().all(Permit::is_held));
    }
}

/// A name that is in use as a semaphore is refused to locks and to other limits, and a lock's to
/// semaphores: `Conflict`, with both named, and nothing is left in the queue.
pub async fn a_name_in_use_otherwise_is_a_conflict(stage: &Stage) {
    let name = stage.name("lock");
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let held = manager.semaphore(&name, 2).unwrap().acquire().await.unwrap();
    let limit = rival.semaphore(&name, 3).unwrap().acquire().await.unwrap_err();
    let lock = rival.lock(&name).unwrap().acquire().await.unwrap_err();
    stage.standing(&name, 1).await;
    assert_eq!(held.release().await.unwrap(), Released::Clean);
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let semaphore = rival.semaphore(&name, 2).unwrap().acquire().await.unwrap_err();
    stage.standing(&name, 1).await;
    assert!(guard.is_held());
    let exclusive = "an exclusive lock";
    for (refused, other) in [(limit, "limit 3"), (lock, exclusive), (semaphore, exclusive)] {
        let (kind, text) = (refused.kind(), refused.to_string());
        let named = text.contains("limit 2") && text.contains(other);
        assert!(kind == ErrorKind::Conflict && named, "{text}");
    }
}

fn permit(limit: u32) -> Mode {
    Mode::Permit { limit }
}
