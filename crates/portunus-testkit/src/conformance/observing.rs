//! What those see who take no lock, and the one thing that they may do.

use std::sync::Arc;

use futures_util::StreamExt;
use portunus_core::backend::{
    BoxStream, EntryId, LockBackend, LockObserver, Mode, Observation, Turn,
};
use portunus_core::error::{ErrorKind, Result};
use portunus_core::name::LockName;

use super::stage::{Stage, ids, token};
use super::wait::{PATIENCE, within};
use crate::harness::attempt;

#[doc(hidden)]
#[macro_export]
macro_rules! __observing {
    ([$($then:tt)+] $($context:tt)*) => { $($then)+! { $($context)*; observing:
        contenders_are_listed_in_order_with_their_records
        queue_and_contenders_agree
        names_are_listed_by_prefix_in_pages
        following_shows_each_change_of_holder
        following_goes_on_from_a_position
        evicting_compares_the_entry
        published_values_are_seen
        publishing_changes_nothing_but_the_value
        publishing_makes_no_entry
        the_longest_value_is_seen
        probing_names_the_incarnation_of_tokens
        capabilities_are_sound
    } };
}

/// Contenders are listed in the order of the queue, the holder first, each with who it is.
pub async fn contenders_are_listed_in_order_with_their_records(stage: &Stage) {
    let name = stage.name("lock");
    let manager = stage.manager().await;
    let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
    let client = stage.client().await;
    let mut waiter = attempt(&name, false);
    waiter.value = "a \"value\", in ünïcode\n".to_owned();
    waiter.holder =
        Arc::new(portunus_core::backend::Holder { host: "h".into(), pid: 7, app: "ä\"b".into() });
    let (entry, _) = client.enter(&waiter).await;
    let (_, last, _) = client.queue(&name).await;
    let listed = manager.contenders(&name).await.unwrap();
    assert_eq!(listed, stage.standing(&name, 3).await);
    assert_eq!(listed.iter().map(|one| one.holds).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(ids(&listed[1..]), [entry, last]);
    assert!(ids(&listed).is_sorted_by_key(|entry| entry.position));
    let holder = listed[0].record.holder.as_ref().expect("the holder says who it is");
    assert_eq!((holder.pid, &*holder.app), (std::process::id(), "conformance"));
    assert!(!holder.host.is_empty());
    assert!(listed[0].token.is_none_or(|token| token == guard.token().value()));
    assert_eq!(listed[1].record, waiter.record());
    assert_eq!(listed[1].record.mode, Mode::Exclusive);
}

/// The cheap listing has the same entries in the same order.
pub async fn queue_and_contenders_agree(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    assert!(stage.observer().queue(&name).await.unwrap().is_empty());
    assert!(stage.observer().contenders(&name).await.unwrap().is_empty());
    client.hold(&name).await;
    for _ in 0..3 {
        client.queue(&name).await;
    }
    let mut queue = stage.observer().queue(&name).await.unwrap();
    queue.sort_by_key(|entry| entry.id.position);
    let listed = stage.observer().contenders(&name).await.unwrap();
    assert_eq!(queue.iter().map(|entry| entry.id.clone()).collect::<Vec<_>>(), ids(&listed));
    assert!(queue.iter().all(|entry| entry.mode == Mode::Exclusive));
}

/// Names with entries are listed by prefix, each once over all pages; free ones are not.
pub async fn names_are_listed_by_prefix_in_pages(stage: &Stage) {
    const LOCKS: usize = 40;
    let client = stage.client().await;
    let mut held = Vec::new();
    let mut expected = Vec::new();
    for number in 0..LOCKS {
        let name = stage.name(&format!("in/{number:02}"));
        held.push(client.hold(&name).await.0);
        expected.push(name);
    }
    client.hold(&stage.name("in")).await;
    client.hold(&stage.name("in-between")).await;
    // One that is waited for is listed once as well.
    client.queue(&expected[0]).await;
    let prefix = format!("{}/in/", stage.prefix());
    let mut listed = all_names(stage, &prefix).await;
    listed.sort();
    assert_eq!(listed, expected);
    let one = all_names(stage, expected[7].as_str()).await;
    assert_eq!(one, &expected[7..8]);
    for attempt in &held[1..] {
        client.leave(attempt, false).await;
    }
    assert_eq!(all_names(stage, &prefix).await, &expected[..1]);
    assert!(all_names(stage, &format!("{}/none", stage.prefix())).await.is_empty());
}

/// A follower sees the holder now, then each change, at positions that grow.
pub async fn following_shows_each_change_of_holder(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let mut seen = stage.observer().follow(&name, 0).await.unwrap();
    let free = next(&mut seen).await;
    assert_eq!(free.holder, None);
    let (first, first_entry, granted) = client.hold(&name).await;
    let held = next(&mut seen).await;
    let holder = held.holder.expect("it is held");
    assert_eq!((&holder.entry, holder.holds), (&first_entry, true));
    assert!(holder.token.is_none_or(|token| token == granted));
    // Who waits is no change of holder.
    let second = client.queue(&name).await;
    let second_entry = second.1.clone();
    client.leave(&first, false).await;
    let taking = client.waits(second);
    let mut handed_over = next(&mut seen).await;
    if !stage.capabilities().fifo && handed_over.holder.is_none() {
        // It is free until one of those who wait takes it.
        handed_over = next(&mut seen).await;
    }
    assert!(matches!(taking.await.unwrap(), Turn::Held { .. }));
    assert_eq!(handed_over.holder.expect("it is held").entry, second_entry);
    assert!(stage.observer().evict(&name, &second_entry).await.unwrap());
    let freed = next(&mut seen).await;
    assert_eq!(freed.holder, None);
    let positions = [free.as_of, held.as_of, handed_over.as_of, freed.as_of];
    assert!(positions.is_sorted(), "{positions:?}");
}

/// A follower that lost its stream goes on from the last position that it saw; a store that is not
/// there yet has gone back, which is an error of kind `Regression`.
pub async fn following_goes_on_from_a_position(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (_, entry, _) = client.hold(&name).await;
    let mut seen = stage.observer().follow(&name, 0).await.unwrap();
    let last = next(&mut seen).await.as_of;
    drop(seen);
    let mut seen = stage.observer().follow(&name, last).await.unwrap();
    let now = next(&mut seen).await;
    assert_eq!(now.holder.expect("it is held").entry, entry);
    assert!(now.as_of >= last);
    // A store without positions can't tell.
    if last > 0 {
        let refused = match stage.observer().follow(&name, last + (1 << 40)).await {
            Ok(mut seen) => within(PATIENCE, "an answer", seen.next()).await.expect("an answer"),
            Err(error) => Err(error),
        };
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Regression);
    }
}

/// An eviction removes exactly the entry that it names, and says whether it was there.
pub async fn evicting_compares_the_entry(stage: &Stage) {
    let (name, other) = (stage.name("one"), stage.name("two"));
    let client = stage.client().await;
    let (_, entry, _) = client.hold(&name).await;
    let (_, waiting, _) = client.queue(&name).await;
    let (_, foreign, _) = client.hold(&other).await;
    let wrong = [
        EntryId { position: entry.position + (1 << 20), ..entry.clone() },
        EntryId { position: entry.position.wrapping_sub(1), ..entry.clone() },
        EntryId { position: waiting.position, ..entry.clone() },
        EntryId { key: format!("{}x", entry.key).into(), ..entry.clone() },
        foreign.clone(),
    ];
    for wrong in &wrong {
        let evicted = stage.observer().evict(&name, wrong).await;
        // A key of another lock may also be refused as what it is: no key of this one.
        assert!(!evicted.as_ref().is_ok_and(|evicted| *evicted), "{wrong:?}: {evicted:?}");
        assert!(evicted.is_ok() || *wrong == foreign, "{wrong:?}: {evicted:?}");
        let standing = stage.observer().contenders(&name).await.unwrap();
        assert_eq!(ids(&standing), [entry.clone(), waiting.clone()]);
        assert_eq!(stage.observer().contenders(&other).await.unwrap().len(), 1);
    }
    assert!(stage.observer().evict(&name, &waiting).await.unwrap());
    assert!(stage.observer().evict(&name, &entry).await.unwrap());
    assert!(!stage.observer().evict(&name, &entry).await.unwrap());
    assert!(stage.observer().contenders(&name).await.unwrap().is_empty());
    assert_eq!(stage.observer().contenders(&other).await.unwrap().len(), 1);
}

/// What a holder publishes is what others see; it keeps its entry, and after the loss of that it is
/// refused as `Lost`.
pub async fn published_values_are_seen(stage: &Stage) {
    let name = stage.name("lock");
    let client = stage.client().await;
    let (held, entry, _) = client.hold(&name).await;
    let (backend, session) = (&client.backend, &client.session);
    for value in ["first", "", "second \"quoted\" ü\n", &"long ".repeat(200)] {
        backend.publish(session, &held, &entry, value).await.unwrap();
        let standing = stage.standing(&name, 1).await.remove(0);
        assert_eq!((&*standing.record.value, &standing.entry), (value, &entry));
        assert_eq!(standing.record.holder.as_ref(), Some(&*held.holder));
    }
    let other = EntryId { position: entry.position + 1, ..entry.clone() };
    let refused = backend.publish(session, &held, &other, "another's").await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Lost);
    assert!(stage.observer().evict(&name, &entry).await.unwrap());
    let refused = backend.publish(session, &held, &entry, "too late").await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Lost);
    stage.standing(&name, 0).await;
}

/// A new value leaves the mode as a downgrade made it, and the downgrade leaves the value: entry,
/// token and holder stay, and readers come in.
pub async fn publishing_changes_nothing_but_the_value(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let (held, entry, granted) = client.hold(&name).await;
    let capabilities = stage.capabilities();
    let mut expected = held.record();
    // Each of them twice, as the engine does when an answer was lost.
    for value in ["before", "before", "after", "after"] {
        if value == "after" && capabilities.convert {
            client.backend.convert(&client.session, &held, &entry).await.unwrap();
            expected.mode = Mode::Shared;
            assert_eq!(stage.standing(&name, 1).await[0].record, expected);
        }
        client.backend.publish(&client.session, &held, &entry, value).await.unwrap();
        value.clone_into(&mut expected.value);
        let standing = stage.standing(&name, 1).await.remove(0);
        assert_eq!((&standing.record, &standing.entry), (&expected, &entry));
        assert_eq!(token(&client.look(&held, &entry).await), granted);
    }
    assert_eq!(stage.observer().queue(&name).await.unwrap()[0].mode, expected.mode);
    if capabilities.convert {
        assert!(other.try_as(&name, Mode::Shared).await.is_some(), "a reader holds");
    }
    // The entry is still known for the attempt's: one that enters again is granted the same.
    assert_eq!(client.enter(&held).await.0, entry);
}

/// What is published for an entry that left, was evicted or is another's is `Lost`, and changes
/// nothing.
pub async fn publishing_makes_no_entry(stage: &Stage) {
    let name = stage.name("lock");
    let (client, other) = (stage.client().await, stage.client().await);
    let publish = async |attempt, entry| {
        client.backend.publish(&client.session, attempt, entry, "too late").await
    };
    let (left, place, _) = client.hold(&name).await;
    client.leave(&left, false).await;
    let (evicted, entry, _) = client.hold(&name).await;
    assert!(stage.observer().evict(&name, &entry).await.unwrap());
    for (attempt, entry) in [(&left, &place), (&evicted, &entry)] {
        assert_eq!(publish(attempt, entry).await.unwrap_err().kind(), ErrorKind::Lost);
        stage.standing(&name, 0).await;
    }
    // Nor with another's in its place.
    let (_, next, _) = other.hold(&name).await;
    for (attempt, entry) in [(&left, &place), (&evicted, &entry), (&left, &next)] {
        assert_eq!(publish(attempt, entry).await.unwrap_err().kind(), ErrorKind::Lost);
        let standing = stage.standing(&name, 1).await.remove(0);
        assert_eq!((&standing.entry, &*standing.record.value), (&next, ""));
    }
}

/// A value as long as the store takes enters, is published and is seen, however long it gets on its
/// way; and so are the values of several who wait with such ones.
pub async fn the_longest_value_is_seen(stage: &Stage) {
    const WAITERS: usize = 7;
    let name = stage.name("lock");
    let client = stage.client().await;
    let longest = |byte: &str| byte.repeat(stage.capabilities().max_value);
    // Each byte of these is six of JSON.
    let values = ["\u{1}", "\u{2}", "\u{3}"].map(longest);
    let mut leader = attempt(&name, false);
    leader.value.clone_from(&values[0]);
    let (entry, turn) = client.enter(&leader).await;
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    let mut seen = stage.observer().follow(&name, 0).await.unwrap();
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            client.backend.publish(&client.session, &leader, &entry, value).await.unwrap();
        }
        let head = next(&mut seen).await.holder.expect("it is held");
        assert!(head.entry == entry && head.record.value == *value, "{at}: not followed");
        let standing = stage.standing(&name, 1).await.remove(0);
        assert!(standing.record.value == *value, "{at}: not listed");
    }
    let mut waiters = Vec::new();
    for _ in 0..WAITERS {
        let mut waiter = attempt(&name, false);
        waiter.value.clone_from(&values[0]);
        let (place, turn) = client.enter(&waiter).await;
        waiters.push((waiter, place, turn));
    }
    let listed = stage.observer().contenders(&name).await.unwrap();
    assert_eq!(listed.len(), 1 + WAITERS);
    assert!(
        listed[1..].iter().all(|one| one.record.value == values[0]),
        "a waiter's is not listed"
    );
    assert_eq!(stage.observer().queue(&name).await.unwrap().len(), 1 + WAITERS);
    let (first, place, turn) = waiters.remove(0);
    client.leave(&leader, false).await;
    assert!(matches!(client.turn(&first, &place, turn).await, Turn::Held { .. }));
    let head = next(&mut seen).await.holder.expect("it is held");
    assert!(head.entry == place && head.record.value == values[0], "the next is not followed");
}

/// Every client names the same life of the store, which sessions and tokens carry.
pub async fn probing_names_the_incarnation_of_tokens(stage: &Stage) {
    let name = stage.name("lock");
    let probe = stage.observer().probe().await.unwrap();
    assert!(!probe.version.is_empty());
    assert_eq!(stage.backend().await.probe().await.unwrap().incarnation, probe.incarnation);
    assert_eq!(stage.client().await.session.incarnation, probe.incarnation);
    let guard = stage.manager().await.lock(&name).unwrap().acquire().await.unwrap();
    assert_eq!(guard.token().origin().incarnation(), &probe.incarnation);
}

/// What the store says of itself makes sense, and its limits are kept.
pub async fn capabilities_are_sound(stage: &Stage) {
    let capabilities = stage.capabilities();
    assert!(!capabilities.store.is_empty());
    assert!(capabilities.min_ttl <= stage.ttl() && stage.ttl() <= capabilities.max_ttl);
    let backend = stage.backend().await;
    assert_eq!(backend.capabilities(), capabilities);
    let short = capabilities.min_ttl / 2;
    for ttl in [short, capabilities.max_ttl * 2] {
        let refused = stage.builder(&backend).ttl(ttl).open().await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let session = stage.client().await.session;
    assert!(session.validity < session.granted, "{session:?}");
    assert!(session.renew_every + session.request_timeout < session.validity, "{session:?}");
}

/// All pages of names with this prefix.
pub(super) async fn all_names(stage: &Stage, prefix: &str) -> Vec<LockName> {
    let (mut names, mut page) = (Vec::new(), None);
    loop {
        let next = stage.observer().names(prefix, page.as_deref()).await.unwrap();
        names.extend(next.names);
        match next.next {
            Some(next) => page = Some(next),
            None => return names,
        }
    }
}

async fn next(seen: &mut BoxStream<Result<Observation>>) -> Observation {
    let seen = within(PATIENCE, "the follower sees it", seen.next()).await;
    seen.expect("the stream goes on").unwrap()
}
