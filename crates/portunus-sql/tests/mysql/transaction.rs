//! A lock that ends with the caller's own transaction.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{IsolationLevel, TxOpts};
use portunus_core::backend::LockBackend;
use portunus_core::error::ErrorKind;
use portunus_core::name::LockName;
use portunus_testkit::proxy::Proxy;

use crate::{LOGIN, LONG, Scene, attempt, held, kind};

/// Somewhat more than the limits of three requests.
const SOON: Duration = Duration::from_secs(20);

fn options(level: IsolationLevel) -> TxOpts {
    let mut options = TxOpts::default();
    options.with_isolation_level(level);
    options
}

const LEVELS: [IsolationLevel; 4] = [
    IsolationLevel::ReadUncommitted,
    IsolationLevel::ReadCommitted,
    IsolationLevel::RepeatableRead,
    IsolationLevel::Serializable,
];

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn it_excludes_all_others_until_the_transaction_ends() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let name = LockName::new("a").unwrap();
    let mut last = 0;
    let (mut raw, mut second) = (scene.raw().await, scene.raw().await);
    second.query_drop("SET SESSION innodb_lock_wait_timeout = 1").await.unwrap();
    for (at, level) in LEVELS.into_iter().enumerate() {
        let mut transaction = raw.start_transaction(options(level)).await.unwrap();
        let token = client.backend.acquire_in(&mut transaction, &name).await.unwrap().unwrap();
        assert!(token.value() > last, "{level}");
        last = token.value();
        assert!(!client.tries("a").await, "{level}");
        // Other names are kept waiting by no lock of a gap, before it and after it.
        for other in ["0", "z"] {
            client.hold(&format!("{other}{at}")).await;
        }
        let mut other = second.start_transaction(TxOpts::default()).await.unwrap();
        let busy = client.backend.acquire_in(&mut other, &name).await;
        assert_eq!(kind(busy), ErrorKind::Unavailable, "{level}");
        other.rollback().await.unwrap();
        transaction.commit().await.unwrap();
        let (next, token) = client.hold("a").await;
        assert!(token > last, "{level}");
        last = token;
        client.backend.leave(&client.session, &next, false).await.unwrap();
    }
}

/// And the lock is free as soon as that transaction has ended.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_lock_that_is_held_is_not_taken() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let name = LockName::new("a").unwrap();
    let mut raw = scene.raw().await;
    for level in LEVELS {
        let (holder, token) = client.hold("a").await;
        let mut transaction = raw.start_transaction(options(level)).await.unwrap();
        let taken = client.backend.acquire_in(&mut transaction, &name).await.unwrap();
        assert_eq!(taken, None, "{level}");
        // Before the transaction has ended.
        client.backend.renew(&client.session, &[]).await.unwrap();
        client.backend.leave(&client.session, &holder, false).await.unwrap();
        // What the transaction did stays its own.
        transaction.rollback().await.unwrap();
        let mut transaction = raw.start_transaction(options(level)).await.unwrap();
        let taken = client.backend.acquire_in(&mut transaction, &name).await.unwrap().unwrap();
        assert!(taken.value() > token, "{level}");
        assert_eq!(taken.origin().name(), &name);
        // With its number.
        transaction.rollback().await.unwrap();
        let (holder, again) = client.hold("a").await;
        assert_eq!(again, taken.value());
        client.backend.leave(&client.session, &holder, false).await.unwrap();
    }
}

/// Another connection says whether the queue is empty: it has to be the same queue.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_transaction_in_another_database_is_refused() {
    let (scene, copy) = (Scene::new().await, Scene::new().await);
    let client = scene.client(LONG).await;
    copy.backend().create_schema().await.unwrap();
    let name = LockName::new("a").unwrap();
    let mut raw = copy.raw().await;
    for is_copy in [false, true] {
        if is_copy {
            let life = format!("(SELECT incarnation FROM {}.portunus_meta)", scene.database);
            let copied = &copy.database;
            copy.root(&format!("UPDATE {copied}.portunus_meta SET incarnation = {life}")).await;
        }
        let mut transaction = raw.start_transaction(TxOpts::default()).await.unwrap();
        let refused = client.backend.acquire_in(&mut transaction, &name).await;
        assert_eq!(kind(refused), ErrorKind::Invalid);
        transaction.rollback().await.unwrap();
    }
    assert_eq!(copy.count("key").await, 0);
}

/// Its connection is kept between calls, and may have ended.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_witness_that_was_killed_is_replaced() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let name = LockName::new("a").unwrap();
    let mut raw = scene.raw().await;
    for _ in 0..2 {
        let mut transaction = raw.start_transaction(TxOpts::default()).await.unwrap();
        client.backend.acquire_in(&mut transaction, &name).await.unwrap().unwrap();
        transaction.rollback().await.unwrap();
        let all = "SELECT id FROM information_schema.processlist \
                   WHERE db = database() AND id <> connection_id()";
        let ids: Vec<u64> = raw.query(all).await.unwrap();
        assert!(!ids.is_empty());
        for id in ids {
            // One that was killed before may go just now.
            raw.query_drop(format!("KILL CONNECTION {id}")).await.ok();
        }
    }
}

/// It takes the store's word for nothing, and waits for none: meanwhile the name's row is locked.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_witness_that_fell_silent_is_replaced() {
    let scene = Scene::new().await;
    let proxy = Proxy::start(scene.server.endpoint(0)).await.unwrap();
    let url = scene.url(LOGIN).replace(&scene.server.endpoint(0), &proxy.address().to_string());
    let (backend, name) = (crate::backend(&url), LockName::new("a").unwrap());
    let mut raw = scene.raw().await;
    for _ in 0..2 {
        let mut transaction = raw.start_transaction(TxOpts::default()).await.unwrap();
        let taking = backend.acquire_in(&mut transaction, &name);
        let taken = tokio::time::timeout(SOON, taking).await.expect("it waits for the silent one");
        taken.unwrap().unwrap();
        transaction.rollback().await.unwrap();
        proxy.forget();
    }
}

/// A savepoint of the caller's own: what the documentation says of the server.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_savepoint_keeps_the_lock_or_frees_it() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let (first, token) = client.hold("old").await;
    client.backend.leave(&client.session, &first, false).await.unwrap();
    let mut raw = scene.raw().await;
    for (is_in_use, frees) in [(true, ["new"].as_slice()), (false, &["newer", "old"])] {
        let mut transaction = raw.start_transaction(TxOpts::default()).await.unwrap();
        if is_in_use {
            transaction.query_drop("SELECT version FROM portunus_meta").await.unwrap();
        }
        transaction.query_drop("SAVEPOINT sooner").await.unwrap();
        for name in ["old", frees[0]] {
            let name = LockName::new(name).unwrap();
            client.backend.acquire_in(&mut transaction, &name).await.unwrap().unwrap();
        }
        transaction.query_drop("ROLLBACK TO SAVEPOINT sooner").await.unwrap();
        for name in frees {
            client.hold(name).await;
        }
        assert!(!client.tries("old").await, "the row is kept, or held");
        transaction.commit().await.unwrap();
        if is_in_use {
            let (second, again) = client.hold("old").await;
            assert_eq!(again, token + 1, "the token was taken back");
            client.backend.leave(&client.session, &second, false).await.unwrap();
        }
    }
}

/// What it would read is of before the lock. This server says so.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_snapshot_that_is_older_than_the_last_holder_is_refused() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let (first, _) = client.hold("a").await;
    client.backend.leave(&client.session, &first, false).await.unwrap();
    let name = LockName::new("a").unwrap();
    let mut raw = scene.raw().await;
    let mut options = options(IsolationLevel::RepeatableRead);
    options.with_consistent_snapshot(true);
    let mut transaction = raw.start_transaction(options).await.unwrap();
    let (second, _) = client.hold("a").await;
    client.backend.leave(&client.session, &second, false).await.unwrap();
    let refused = client.backend.acquire_in(&mut transaction, &name).await;
    assert_eq!(kind(refused), ErrorKind::Unavailable);
}

/// The transaction that waited for another to end reads what that one left, and not what was there
/// when it began to wait.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn one_that_waited_sees_who_entered_meanwhile() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let (first, _) = client.hold("a").await;
    client.backend.leave(&client.session, &first, false).await.unwrap();
    let name = LockName::new("a").unwrap();
    let row = u64::try_from(client.session.id.0).unwrap();
    for level in LEVELS {
        let (mut one, mut two) = (scene.raw().await, scene.raw().await);
        // As a client that enters, by hand.
        one.query_drop("START TRANSACTION").await.unwrap();
        one.query_drop("UPDATE portunus_key SET counter = counter + 1").await.unwrap();
        let late = attempt("a", false);
        let insert = format!(
            "INSERT INTO portunus_entry \
             (attempt, session, lock_key, position, mode, host, pid, app, value) \
             SELECT UNHEX('{}'), {row}, lock_key, counter, 'exclusive', '', 1, '', '' FROM portunus_key",
            late.id
        );
        one.query_drop(insert).await.unwrap();
        let mut transaction = two.start_transaction(options(level)).await.unwrap();
        let mut taking = Box::pin(client.backend.acquire_in(&mut transaction, &name));
        tokio::select! {
            biased;
            taken = &mut taking => panic!("{level}: {taken:?}"),
            () = scene.waits_for_a_row() => {}
        }
        one.query_drop("COMMIT").await.unwrap();
        match taking.await {
            Ok(taken) => assert_eq!(taken, None, "{level}"),
            // MariaDB takes the snapshot of a serializable transaction before it waits.
            Err(error) => {
                assert_eq!(level, IsolationLevel::Serializable, "{error:#}");
                assert_eq!(error.kind(), ErrorKind::Unavailable);
            }
        }
        transaction.rollback().await.unwrap();
        client.backend.leave(&client.session, &late, false).await.unwrap();
    }
    held(&client.enter(&attempt("a", false)).await.1);
}
