//! What is left: rows, numbers, connections.

use futures_util::FutureExt;
use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use portunus_core::backend::{Left, LockBackend};
use portunus_core::manager::LockManager;
use tokio::time::timeout;

use crate::{LONG, Scene, attempt, held};

/// Else an old token would pass a fence.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn tokens_grow_past_a_pruned_key() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let mut last = 0;
    for _ in 0..3 {
        let (held, token) = client.hold("often").await;
        assert!(token > last);
        last = token;
        client.backend.leave(&client.session, &held, false).await.unwrap();
    }
    for name in 0..7 {
        let (held, _) = client.hold(&format!("once/{name}")).await;
        assert_eq!(
            client.backend.leave(&client.session, &held, false).await.unwrap(),
            Left::Removed
        );
    }
    let (kept, _) = client.hold("kept").await;
    assert_eq!((scene.count("key").await, scene.count("entry").await), (9, 1));
    assert_eq!(client.backend.prune().await.unwrap(), 8);
    assert_eq!((scene.count("key").await, client.backend.prune().await.unwrap()), (1, 0));
    let (_, token) = client.hold("often").await;
    assert!(token > last, "{token} after {last}");
    // What was held all the time goes on from where it was.
    assert!(!client.tries("kept").await);
    client.backend.leave(&client.session, &kept, false).await.unwrap();
    assert!(client.tries("kept").await);
}

/// More than one transaction removes.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn one_call_prunes_keys_by_the_thousand() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    client.hold("kept").await;
    let keys: Vec<_> = (1..=1500).map(|key| format!("('portunus/k{key}', {key})")).collect();
    let keys = format!("INSERT INTO {}.portunus_key VALUES {}", scene.database, keys.join(", "));
    scene.raw().await.query_drop(keys).await.unwrap();
    assert_eq!(client.backend.prune().await.unwrap(), 1500);
    assert_eq!(scene.count("key").await, 1);
    assert!(client.hold("k1").await.1 > 1500);
}

/// While others enter and leave: no grant is given twice, and no token goes back.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn pruning_beside_those_who_enter_takes_back_no_number() {
    let scene = Scene::new().await;
    let (one, two, pruner) =
        (scene.client(LONG).await, scene.client(LONG).await, scene.client(LONG).await);
    let entering = |client: &'static crate::Client| async move {
        let mut tokens = Vec::new();
        for _ in 0..40 {
            let trying = attempt("a", true);
            let entered = client.backend.enter(&client.session, &trying).await;
            let Ok(portunus_core::backend::Entered::Queued { turn, .. }) = entered else {
                continue;
            };
            tokens.push(held(&turn));
            client.backend.leave(&client.session, &trying, false).await.unwrap();
        }
        tokens
    };
    let (one, two): (&'static _, &'static _) = (Box::leak(Box::new(one)), Box::leak(Box::new(two)));
    let pruning = async {
        for _ in 0..40 {
            pruner.backend.prune().await.ok();
        }
    };
    let (first, second, ()) = tokio::join!(entering(one), entering(two), pruning);
    for tokens in [&first, &second] {
        assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    }
    assert!(first.iter().all(|token| !second.contains(token)), "{first:?} {second:?}");
    assert!(!first.is_empty() && !second.is_empty());
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn names_are_compared_byte_by_byte() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let names = ["a", "A", "a ", "a\t", "ä", "a\u{308}", "ａ", "ß", "ss", "a/b", "a%", "a_", "🦀"];
    for name in names {
        client.hold(name).await;
    }
    for name in names {
        assert!(!client.tries(name).await, "{name}");
    }
    assert_eq!(scene.count("key").await, names.len() as u64);
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_manager_has_three_connections_at_most_however_many_wait() {
    let scene = Scene::new().await;
    let open = || LockManager::builder(scene.backend()).ttl(LONG).open();
    let (holder, manager) = (open().await.unwrap(), open().await.unwrap());
    let guard = holder.lock("a").unwrap().acquire().await.unwrap();
    let lock = manager.lock("a").unwrap();
    let mut waiting = Box::pin(join_all((0..100).map(|_| lock.acquire())));
    let all_wait = async {
        while scene.count("entry").await < 101 {}
        scene.connections("true").await
    };
    let connections = tokio::select! {
        _ = &mut waiting => panic!("they hold"),
        connections = all_wait => connections,
    };
    // Of two managers.
    assert!(connections <= 6, "{connections} connections");
    drop(waiting);
    guard.release().await.unwrap();
    manager.shutdown(LONG).await.unwrap();
    holder.shutdown(LONG).await.unwrap();
    assert_eq!((scene.count("entry").await, scene.count("session").await), (0, 0));
}

/// There are more of them than one statement reads.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn who_waits_for_hundreds_of_locks_is_told_of_each_that_is_free() {
    const LOCKS: usize = 250;
    let scene = Scene::new().await;
    let (holder, waiter) = (&scene.client(LONG).await, &scene.client(LONG).await);
    let holding = (0..LOCKS).map(async |lock| {
        let name = format!("k{lock}");
        (holder.hold(&name).await.0, attempt(&name, false))
    });
    let held: Vec<_> = join_all(holding).await;
    let mut waiting = Vec::new();
    for (_, attempt) in &held {
        let (entry, turn) = waiter.enter(attempt).await;
        let mut changed = Box::pin(async move {
            waiter.backend.changed(&waiter.session, attempt, &entry, &turn).await.unwrap();
        });
        assert!(changed.as_mut().now_or_never().is_none());
        waiting.push(changed);
    }
    for lock in (0..LOCKS).step_by(7) {
        holder.backend.leave(&holder.session, &held[lock].0, false).await.unwrap();
        timeout(LONG, &mut waiting[lock]).await.unwrap();
    }
    for (lock, changed) in waiting.iter_mut().enumerate().filter(|(lock, _)| lock % 7 != 0) {
        assert!(changed.as_mut().now_or_never().is_none(), "{lock} is held as before");
    }
}

/// A session's row may be deleted by any tool.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn all_of_a_session_goes_with_its_row() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    client.hold("a").await;
    let ended = attempt("b", false);
    client.enter(&ended).await;
    client.backend.leave(&client.session, &ended, true).await.unwrap();
    assert_eq!(scene.count("entry").await, 2);
    scene.root(&format!("DELETE FROM {}.portunus_session", scene.database)).await;
    assert_eq!((scene.count("entry").await, scene.count("sighting").await), (0, 0));
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn four_thousand_grants_leave_a_row_for_each_key() {
    let scene = Scene::new().await;
    let client = &scene.client(LONG).await;
    join_all((0..20).map(|key| async move {
        for _ in 0..200 {
            let (held, _) = client.hold(&format!("k{key}")).await;
            client.backend.leave(&client.session, &held, false).await.unwrap();
        }
    }))
    .await;
    assert_eq!((scene.count("key").await, scene.count("entry").await), (20, 0));
}
