//! Shared holds: readers together, writers alone, nobody starved.

use std::time::Duration;

use portunus_core::backend::{
    Entered, Left, LockBackend, LockObserver,
    Mode::{Exclusive, Shared},
    Turn,
};
use portunus_core::error::ErrorKind;
use portunus_core::guard::{DowngradeError, Released, SharedGuard};

use super::stage::{Stage, token};
use super::wait::{PATIENCE, within};
use crate::harness::attempt_as;

#[doc(hidden)]
#[macro_export]
macro_rules! __shared {
    ([$($then:tt)+] $($context:tt)*) => { $($then)+! { $($context)*; shared:
        readers_hold_together
        a_writer_waits_for_all_readers_before_it
        a_reader_waits_behind_a_waiting_writer
        readers_are_all_woken_when_the_writer_releases
        readers_and_writers_are_served_in_order
        a_reader_s_try_is_granted_beside_readers_only
        tokens_of_writers_grow_past_those_of_readers
        a_reader_that_enters_again_has_one_entry
        a_reader_s_create_that_arrives_after_leave_has_no_effect
        an_evicted_reader_is_lost
        a_downgrade_keeps_the_token_and_lets_readers_in
        a_downgrade_that_came_first_is_told_at_once
        a_read_write_lock_is_held_as_it_says
        a_guard_is_downgraded_or_given_back
    } };
}

/// Readers of one session and of several hold at the same time, and the listings say so.
pub async fn readers_hold_together(stage: &Stage) {
    let name = stage.name("lock");
    let (one, two) = (stage.client().await, stage.client().await);
    let mut held = Vec::new();
    for client in [&one, &two, &one] {
        let (attempt, entry, _) = client.hold_as(&name, Shared).await;
        held.push((client, attempt, entry));
    }
    for (client, attempt, entry) in &held {
        assert!(matches!(client.look(attempt, entry).await, Turn::Held { .. }));
    }
    let listed = stage.standing(&name, 3).await;
    assert!(listed.iter().all(|one| one.holds && one.record.mode == Shared), "{listed:#?}");
    let queue = stage.observer().queue(&name).await.unwrap();
    assert!(queue.iter().all(|entry| entry.mode == Shared), "{queue:?}");
}

/// A writer waits until the last of the readers before it has gone, in whatever order they go.
pub async fn a_writer_waits_for_all_readers_before_it(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let mut readers = Vec::new();
    for reader in [&client, &other, &client] {
        readers.push((reader, reader.hold_as(&name, Shared).await.0));
    }
    let waiter = other.queue(&name).await;
    let (writer, entry, _) = waiter.clone();
    let waiting = other.waits(waiter);
    for gone in [2, 0] {
        let (reader, attempt) = readers.remove(gone);
        reader.leave(&attempt, false).await;
        assert!(matches!(other.look(&writer, &entry).await, Turn::Waiting { .. }));
        assert!(!waiting.is_finished());
    }
    let (last, attempt) = readers.remove(0);
    last.leave(&attempt, false).await;
    let turn = within(PATIENCE, "the writer holds", waiting).await.unwrap();
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
}

/// A reader that comes after a waiting writer waits for it, so that readers do not starve a writer;
/// it is woken when that writer gives up.
pub async fn a_reader_waits_behind_a_waiting_writer(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let (first, place, _) = client.hold_as(&name, Shared).await;
    let (writer, ..) = other.queue(&name).await;
    let reader = client.queue_as(&name, Shared).await;
    let (attempt, entry, _) = reader.clone();
    let waiting = client.waits(reader);
    assert!(matches!(client.look(&attempt, &entry).await, Turn::Waiting { .. }));
    other.leave(&writer, false).await;
    let turn = within(PATIENCE, "the reader holds", waiting).await.unwrap();
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    // Together with the one before, which noticed nothing.
    assert!(matches!(client.look(&first, &place).await, Turn::Held { .. }));
}

/// All readers up to the next writer hold when the writer before them releases.
pub async fn readers_are_all_woken_when_the_writer_releases(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let (writer, ..) = client.hold(&name).await;
    let mut readers = Vec::new();
    for reader in [&client, &other, &client] {
        readers.push(reader.waits(reader.queue_as(&name, Shared).await));
    }
    let (next, place, _) = other.queue(&name).await;
    let (late, behind, _) = client.queue_as(&name, Shared).await;
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    client.leave(&writer, false).await;
    for reader in readers {
        let turn = within(PATIENCE, "a reader holds", reader).await.unwrap();
        assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    }
    assert!(matches!(other.look(&next, &place).await, Turn::Waiting { .. }));
    assert!(matches!(client.look(&late, &behind).await, Turn::Waiting { .. }));
}

/// Who came first is served first, whatever the mode.
pub async fn readers_and_writers_are_served_in_order(stage: &Stage) {
    if !stage.capabilities().fifo {
        return;
    }
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let (first, ..) = client.hold(&name).await;
    let mut waiting = std::collections::VecDeque::new();
    for (at, mode) in [Shared, Exclusive, Shared, Shared, Exclusive].into_iter().enumerate() {
        let by = if at % 2 == 0 { &client } else { &other };
        let waiter = by.queue_as(&name, mode).await;
        waiting.push_back((by, waiter.0.clone(), by.waits(waiter)));
    }
    client.leave(&first, false).await;
    let mut last = 0;
    for together in [1, 1, 2, 1] {
        let mut served = Vec::new();
        for (by, attempt, turn) in waiting.drain(..together) {
            let turn = within(PATIENCE, "the next is served", turn).await.unwrap();
            last = token(&turn).max(last);
            served.push((by, attempt));
        }
        assert!(waiting.iter().all(|(.., turn)| !turn.is_finished()), "one was served early");
        for (by, attempt) in served {
            assert_eq!(by.leave(&attempt, false).await, Left::Removed);
        }
    }
    assert!(client.hold(&name).await.2 > last);
}

/// A reader's try is granted when the lock is free or held by readers, and refused beside a writer
/// that holds or waits; a writer's try is refused beside a reader. A refusal leaves no entry.
pub async fn a_reader_s_try_is_granted_beside_readers_only(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let (first, _) = client.try_as(&name, Shared).await.expect("the lock is free");
    let (second, _) = other.try_as(&name, Shared).await.expect("readers hold together");
    let (third, _) = client.try_as(&name, Shared).await.expect("readers hold together");
    assert!(other.try_as(&name, Exclusive).await.is_none(), "a reader holds");
    assert_eq!(stage.standing(&name, 3).await.iter().filter(|one| one.holds).count(), 3);
    let (writer, ..) = other.queue(&name).await;
    assert!(client.try_as(&name, Shared).await.is_none(), "a writer waits");
    stage.standing(&name, 4).await;
    for (by, attempt) in [(&client, first), (&other, second), (&client, third), (&other, writer)] {
        assert_eq!(by.leave(&attempt, false).await, Left::Removed);
    }
    client.hold(&name).await;
    assert!(other.try_as(&name, Shared).await.is_none(), "a writer holds");
    stage.standing(&name, 1).await;
}

/// A writer's token is higher than that of every grant before it, also of a reader; a reader's is
/// no lower than that of the writers before it.
pub async fn tokens_of_writers_grow_past_those_of_readers(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let mut last = 0;
    for _ in 0..3 {
        let (writer, _, alone) = client.hold(&name).await;
        assert!(alone > last, "{alone} is not above {last}");
        client.leave(&writer, false).await;
        let (one, _, first) = client.hold_as(&name, Shared).await;
        let (two, _, second) = other.hold_as(&name, Shared).await;
        assert!(first >= alone && second >= alone, "{first} and {second} after {alone}");
        last = first.max(second);
        client.leave(&one, false).await;
        other.leave(&two, false).await;
    }
}

/// A reader that enters ten times, holding or waiting, has one entry and one token.
pub async fn a_reader_that_enters_again_has_one_entry(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let holder = attempt_as(&name, Shared, false);
    let first = client.enter(&holder).await;
    client.queue(&name).await;
    let waiter = attempt_as(&name, Shared, false);
    let (place, _) = client.enter(&waiter).await;
    for _ in 1..10 {
        assert_eq!(client.enter(&holder).await, first);
        let (again, turn) = client.enter(&waiter).await;
        assert_eq!(again, place);
        assert!(matches!(turn, Turn::Waiting { .. }), "{turn:?}");
    }
    stage.standing(&name, 3).await;
}

/// Once a reader in doubt has left, a request of it that arrives later makes no entry.
pub async fn a_reader_s_create_that_arrives_after_leave_has_no_effect(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    other.hold_as(&name, Shared).await;
    for (entered, try_only) in [(false, false), (true, false), (false, true), (true, true)] {
        let doubted = attempt_as(&name, Shared, try_only);
        if entered {
            client.enter(&doubted).await;
        }
        let left = client.leave(&doubted, true).await;
        assert_eq!(left, if entered { Left::Removed } else { Left::Absent });
        for _ in 0..2 {
            let late = client.backend.enter(&client.session, &doubted).await;
            assert!(!matches!(late, Ok(Entered::Queued { .. })), "it came back: {late:?}");
            stage.standing(&name, 1).await;
        }
    }
}

/// A reader whose entry is removed by another's hand is told, is `Lost` for ever, and keeps no
/// writer waiting; the readers beside it go on.
pub async fn an_evicted_reader_is_lost(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (kept, place, _) = client.hold_as(&name, Shared).await;
    let (evicted, entry, _) = client.hold_as(&name, Shared).await;
    let (writer, behind, turn) = client.queue(&name).await;
    let held = client.look(&evicted, &entry).await;
    let told = tokio::spawn({
        let (client, evicted, entry) = (client.clone(), evicted.clone(), entry.clone());
        async move { client.backend.changed(&client.session, &evicted, &entry, &held).await }
    });
    assert!(stage.observer().evict(&name, &entry).await.unwrap());
    within(PATIENCE, "the reader is told", told).await.unwrap().unwrap();
    assert_eq!(client.look(&evicted, &entry).await, Turn::Lost);
    assert!(matches!(client.look(&kept, &place).await, Turn::Held { .. }));
    assert!(matches!(client.look(&writer, &behind).await, Turn::Waiting { .. }));
    client.leave(&kept, false).await;
    assert!(matches!(client.turn(&writer, &behind, turn).await, Turn::Held { .. }));
    assert_eq!(client.look(&evicted, &entry).await, Turn::Lost);
}

/// A writer that becomes a reader keeps its entry and its token, and the readers behind it hold at
/// once; a writer behind them waits on. Where the store can't, it says `Unsupported`, and the
/// writer holds as before.
pub async fn a_downgrade_keeps_the_token_and_lets_readers_in(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let (writer, entry, granted) = client.hold(&name).await;
    // Watched from the first, as the engine does: a downgrade is no loss.
    let held = client.look(&writer, &entry).await;
    let watch = {
        let (client, writer, entry) = (client.clone(), writer.clone(), entry.clone());
        tokio::spawn(async move {
            client.backend.changed(&client.session, &writer, &entry, &held).await
        })
    };
    let reader = client.waits(client.queue_as(&name, Shared).await);
    let second = other.waits(other.queue_as(&name, Shared).await);
    let (next, place, _) = other.queue(&name).await;
    let converted = client.backend.convert(&client.session, &writer, &entry).await;
    assert_eq!(token(&client.look(&writer, &entry).await), granted);
    if stage.capabilities().convert {
        converted.unwrap();
        for reader in [reader, second] {
            let turn = within(PATIENCE, "the reader holds", reader).await.unwrap();
            assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
        }
        let listed = stage.standing(&name, 4).await;
        let expected = [(Shared, true), (Shared, true), (Shared, true), (Exclusive, false)];
        let found: Vec<_> = listed.iter().map(|one| (one.record.mode, one.holds)).collect();
        assert_eq!((found, &listed[0].entry), (expected.to_vec(), &entry));
        assert_eq!(token(&client.look(&writer, &entry).await), granted);
    } else {
        assert_eq!(converted.unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(!reader.is_finished() && !second.is_finished());
        let listed = stage.standing(&name, 4).await;
        assert_eq!(listed[0].record.mode, Exclusive);
        assert_eq!(listed.iter().filter(|one| one.holds).count(), 1);
        client.leave(&writer, false).await;
        for reader in [reader, second] {
            within(PATIENCE, "the reader holds", reader).await.unwrap();
        }
    }
    assert!(matches!(other.look(&next, &place).await, Turn::Waiting { .. }));
    watch.abort();
}

/// A reader that begins to watch after the downgrade is told at once; a downgrade of an entry that
/// is gone is `Lost`, and makes none.
pub async fn a_downgrade_that_came_first_is_told_at_once(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let (writer, entry, _) = client.hold(&name).await;
    let reader = client.queue_as(&name, Shared).await;
    let second = other.queue_as(&name, Shared).await;
    let converts = stage.capabilities().convert;
    let convert = async || client.backend.convert(&client.session, &writer, &entry).await;
    let converted = convert().await;
    assert_eq!(converted.is_ok(), converts, "{converted:?}");
    if !converts {
        client.leave(&writer, false).await;
    }
    for (by, (attempt, entry, turn)) in [(&client, reader), (&other, second)] {
        assert!(matches!(by.turn(&attempt, &entry, turn).await, Turn::Held { .. }));
    }
    if converts {
        client.leave(&writer, false).await;
    }
    let expected = if converts { ErrorKind::Lost } else { ErrorKind::Unsupported };
    assert_eq!(convert().await.unwrap_err().kind(), expected);
    stage.standing(&name, 2).await;
}

/// A read/write lock's readers hold together and its writer alone; a try is `None` and a limit
/// passes while others hold, and then nothing is left.
pub async fn a_read_write_lock_is_held_as_it_says(stage: &Stage) {
    const LIMIT: Duration = Duration::from_secs(2);
    let name = stage.name("lock");
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let (lock, other) = (manager.rwlock(&name).unwrap(), rival.rwlock(&name).unwrap());
    let readers = [lock.read().await.unwrap(), other.try_read().await.unwrap().unwrap()];
    assert!(readers[1].token().value() > 0 && readers.iter().all(SharedGuard::is_held));
    assert!(other.try_write().await.unwrap().is_none());
    assert!(manager.lock(&name).unwrap().try_acquire().await.unwrap().is_none());
    let waited = within(PATIENCE, "the time is over", other.write_timeout(LIMIT)).await;
    assert!(waited.unwrap().is_none());
    stage.standing(&name, 2).await;
    for reader in readers {
        assert_eq!(reader.release().await.unwrap(), Released::Clean);
    }
    let writer = lock.write_timeout(PATIENCE).await.unwrap().expect("nobody holds");
    assert!(other.try_read().await.unwrap().is_none());
    assert!(other.try_write().await.unwrap().is_none());
    let waited = within(PATIENCE, "the time is over", other.read_timeout(LIMIT)).await;
    assert!(waited.unwrap().is_none());
    stage.standing(&name, 1).await;
    let waiter = tokio::spawn(async move { other.read().await });
    stage.standing(&name, 2).await;
    let token = writer.token().value();
    assert_eq!(writer.release().await.unwrap(), Released::Clean);
    let reader = within(PATIENCE, "the reader holds", waiter).await.unwrap().unwrap();
    assert!(reader.token().value() > token);
}

/// A writer's guard becomes a reader's with the same token, and readers come in; where the store
/// can't, the error is `Unsupported` and gives the writer's guard back, held.
pub async fn a_guard_is_downgraded_or_given_back(stage: &Stage) {
    let name = stage.name("lock");
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let (lock, other) = (manager.rwlock(&name).unwrap(), rival.rwlock(&name).unwrap());
    let writer = lock.write().await.unwrap();
    let (token, entry) = (writer.token().value(), stage.standing(&name, 1).await.remove(0).entry);
    match writer.downgrade().await {
        Ok(reader) => {
            assert!(stage.capabilities().convert, "it was said that it can't");
            assert!(reader.is_held() && reader.token().value() == token);
            assert_eq!(stage.standing(&name, 1).await[0].entry, entry);
            assert!(other.try_write().await.unwrap().is_none());
            drop(other.try_read().await.unwrap().expect("readers hold together"));
            assert_eq!(reader.release().await.unwrap(), Released::Clean);
        }
        Err(DowngradeError { error, guard }) => {
            assert!(!stage.capabilities().convert, "{error}");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let guard = guard.expect("it is given back");
            assert!(guard.is_held() && guard.token().value() == token);
            assert!(other.try_read().await.unwrap().is_none());
            assert_eq!(guard.release().await.unwrap(), Released::Clean);
        }
    }
    let writer = other.write().await.unwrap();
    assert!(writer.token().value() > token);
    let entry = stage.standing(&name, 1).await.remove(0).entry;
    assert!(stage.observer().evict(&name, &entry).await.unwrap());
    // Whether it is known or not: one who holds no more becomes no reader.
    if stage.capabilities().convert {
        let refused = writer.downgrade().await.unwrap_err();
        assert_eq!((refused.error.kind(), refused.guard.is_none()), (ErrorKind::Lost, true));
    }
}
