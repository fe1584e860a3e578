//! A lock that ends with the caller's own transaction.

use std::time::Duration;

use portunus_core::backend::{LockBackend, LockObserver, Mode};
use portunus_core::error::ErrorKind;
use portunus_core::name::LockName;
use tokio_postgres::IsolationLevel;

use crate::{LONG, Scene, attempt};

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn it_excludes_until_the_transaction_ends() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let name = LockName::new("a").unwrap();
    let (mut first, mut second) = (scene.raw().await, scene.raw().await);
    let transaction = first.transaction().await.unwrap();
    let token = client.backend.acquire_in(&transaction, &name).await.unwrap().unwrap();
    assert_eq!(*token.origin().incarnation(), client.session.incarnation);
    // Another transaction waits for it, as it says itself.
    let other = second.transaction().await.unwrap();
    other.batch_execute("SET LOCAL lock_timeout = 100").await.unwrap();
    let error = client.backend.acquire_in(&other, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // It can go on, with another name.
    other.batch_execute("SELECT 1").await.unwrap();
    let free = LockName::new("b").unwrap();
    assert!(client.backend.acquire_in(&other, &free).await.unwrap().is_some());
    // Who only tries is refused, and who may wait is told to come again.
    assert!(!client.tries("a").await);
    let waiting = attempt("a", false);
    let error = client.backend.enter(&client.session, &waiting).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    transaction.commit().await.unwrap();
    assert_eq!(client.hold("a").await.1, token.value() + 1);
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn it_is_refused_while_somebody_holds_or_waits_in_any_mode() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let mut raw = scene.raw().await;
    for mode in [Mode::Exclusive, Mode::Shared, Mode::Permit { limit: 3 }] {
        let name = LockName::new(format!("{mode:?}")).unwrap();
        let mut holding = attempt(name.as_str(), false);
        holding.mode = mode;
        client.enter(&holding).await;
        let transaction = raw.transaction().await.unwrap();
        assert_eq!(client.backend.acquire_in(&transaction, &name).await.unwrap(), None);
        // The refusal keeps nothing: the holder can leave, and another enter.
        client.leave(&holding).await;
        let (again, _) = client.hold(name.as_str()).await;
        client.leave(&again).await;
        let token = client.backend.acquire_in(&transaction, &name).await.unwrap();
        assert!(token.is_some());
        transaction.rollback().await.unwrap();
        let queue = client.backend.queue(&name).await.unwrap();
        assert_eq!(queue, []);
    }
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn what_is_rolled_back_was_never_held() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let name = LockName::new("a").unwrap();
    let mut raw = scene.raw().await;
    let transaction = raw.transaction().await.unwrap();
    let token = client.backend.acquire_in(&transaction, &name).await.unwrap().unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(client.hold("a").await.1, token.value());
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_snapshot_that_may_be_older_than_the_lock_is_refused() {
    let scene = Scene::new().await;
    let backend = scene.backend();
    backend.create_schema().await.unwrap();
    let name = LockName::new("a").unwrap();
    let mut raw = scene.raw().await;
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let transaction = raw.build_transaction().isolation_level(level).start().await.unwrap();
        let error = backend.acquire_in(&transaction, &name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("READ COMMITTED"), "{error}");
        transaction.batch_execute("SELECT 1").await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_dead_holder_is_ended_for_it() {
    let scene = Scene::new().await;
    let ttl = Duration::from_secs(3);
    let (holder, other) = (scene.client(ttl).await, scene.backend());
    holder.hold("a").await;
    let name = LockName::new("a").unwrap();
    let mut raw = scene.raw().await;
    let transaction = raw.transaction().await.unwrap();
    assert_eq!(other.acquire_in(&transaction, &name).await.unwrap(), None);
    tokio::time::sleep(ttl + ttl / 10).await;
    assert!(other.acquire_in(&transaction, &name).await.unwrap().is_some());
    let entered = holder.backend.enter(&holder.session, &attempt("b", false)).await;
    assert_eq!(entered.unwrap_err().kind(), ErrorKind::Lost);
}
