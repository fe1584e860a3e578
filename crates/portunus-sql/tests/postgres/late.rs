//! Requests that arrive when nobody waits for them any more.

use portunus_core::backend::{Left, LockBackend};
use portunus_core::error::ErrorKind;

use crate::{LONG, Scene, attempt};

const INSERT: &str = "INSERT INTO portunus_entry \
    (attempt, session, key, position, mode, host, pid, app, value) \
    VALUES ($1, $2, 'portunus/a', 1, 'exclusive', '', 0, '', '')";

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_withdrawal_waits_for_an_insertion_that_is_parked_and_ends_it() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let parked = attempt("a", false);
    let id = parked.id.0.to_be_bytes().to_vec();
    let raw = scene.raw().await;
    raw.batch_execute("BEGIN").await.unwrap();
    raw.execute(INSERT, &[&id, &client.row()]).await.unwrap();
    let leave = || client.backend.leave(&client.session, &parked, true);
    assert_eq!(leave().await.unwrap_err().kind(), ErrorKind::Unavailable);
    raw.batch_execute("COMMIT").await.unwrap();
    assert_eq!(leave().await.unwrap(), Left::Removed);
    let refused = client.backend.enter(&client.session, &parked).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Lost);
    // Nothing is in the way of others.
    client.hold("a").await;
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn an_insertion_that_comes_after_the_withdrawal_is_refused() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let late = attempt("a", false);
    let id = late.id.0.to_be_bytes().to_vec();
    for left in [Left::Absent, Left::Absent] {
        assert_eq!(client.backend.leave(&client.session, &late, true).await.unwrap(), left);
    }
    let refused = scene.raw().await.execute(INSERT, &[&id, &client.row()]).await;
    assert_eq!(refused.unwrap_err().code().unwrap().code(), "23505");
    // With its session the tombstone goes.
    assert_eq!(scene.count("entry").await, 1);
    client.backend.close_session(&client.session).await.unwrap();
    assert_eq!(scene.count("entry").await, 0);
    let gone = scene.raw().await.execute(INSERT, &[&id, &client.row()]).await;
    assert_eq!(gone.unwrap_err().code().unwrap().code(), "23503");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_client_that_goes_while_its_server_process_waits_for_the_row_leaves_nothing() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let (before, _) = client.hold("a").await;
    client.leave(&before).await;
    let counter = "SELECT counter FROM portunus_key WHERE key = 'portunus/a'";
    let was: i64 = scene.one(counter).await.get(0);
    let raw = scene.raw().await;
    raw.batch_execute("BEGIN").await.unwrap();
    raw.execute("SELECT 1 FROM portunus_key FOR UPDATE", &[]).await.unwrap();
    let gone = attempt("a", false);
    let (tell, told) = tokio::sync::oneshot::channel();
    let entering =
        scene.while_waiting(async || client.backend.enter(&client.session, &gone).await, async {
            tell.send(()).unwrap();
            std::future::pending().await
        });
    tokio::select! {
        entered = entering => panic!("{entered:?}"),
        told = told => told.unwrap(),
    }
    raw.batch_execute("COMMIT").await.unwrap();
    assert_eq!(client.backend.leave(&client.session, &gone, true).await.unwrap(), Left::Absent);
    // Its process had the row, or gave up: either way it is free again, and nothing was raised.
    let (_, token) = client.holds_again("a").await;
    assert_eq!(i64::try_from(token).unwrap(), was + 1);
}

/// An older value must not overwrite a newer one, however late its request is executed.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_value_is_compared_with_what_was_there_when_it_was_sent() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let leader = attempt("a", false);
    let (entry, _) = client.enter(&leader).await;
    let publish =
        async |value| client.backend.publish(&client.session, &leader, &entry, value).await;
    let raw = scene.raw().await;
    raw.batch_execute("BEGIN").await.unwrap();
    raw.execute("UPDATE portunus_entry SET revision = revision + 1, value = 'new'", &[])
        .await
        .unwrap();
    let commit = async { raw.batch_execute("COMMIT").await.unwrap() };
    let published = scene.while_waiting(async || publish("old").await, commit).await;
    assert_eq!(published.unwrap_err().kind(), ErrorKind::Unavailable);
    let value = "SELECT value FROM portunus_entry";
    assert_eq!(scene.one(value).await.get::<_, String>(0), "new");
    publish("newer").await.unwrap();
    assert_eq!(scene.one(value).await.get::<_, String>(0), "newer");
}
