//! Transactions that stand still while others want what they have locked.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use portunus_core::backend::{Left, LockBackend, Turn};
use portunus_core::error::ErrorKind;
use tokio::time::timeout;

use crate::{LONG, Scene, attempt, held, kind};

/// Where the key's row is locked, who only tries is turned away, and who may wait is told that nothing was
/// applied; neither for long.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_name_that_somebody_s_transaction_holds_is_busy() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let (first, token) = client.hold("a").await;
    client.backend.leave(&client.session, &first, false).await.unwrap();
    let mut other = scene.raw().await;
    other.query_drop("START TRANSACTION").await.unwrap();
    other.query_drop("SELECT counter FROM portunus_key FOR UPDATE").await.unwrap();
    let waiting = attempt("a", false);
    let busy = client.backend.enter(&client.session, &waiting);
    assert_eq!(kind(timeout(LONG, busy).await.unwrap()), ErrorKind::Unavailable);
    assert!(!client.tries("a").await);
    assert_eq!(scene.count("entry").await, 0);
    other.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(held(&client.enter(&waiting).await.1), token + 1, "nothing was counted in vain");
}

/// One statement for the lock and the queue would read what was there before it waited: two would hold.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn one_that_waited_for_the_row_sees_who_entered_meanwhile() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let (first, token) = client.hold("a").await;
    client.backend.leave(&client.session, &first, false).await.unwrap();
    let row = u64::try_from(client.session.id.0).unwrap();
    let mut other = scene.raw().await;
    other.query_drop("START TRANSACTION").await.unwrap();
    other.query_drop("UPDATE portunus_key SET counter = counter + 1").await.unwrap();
    let insert = format!(
        "INSERT INTO portunus_entry (attempt, session, lock_key, position, mode, host, pid, app, value) \
         SELECT UNHEX(MD5('x')), {row}, lock_key, counter, 'exclusive', '', 1, '', '' FROM portunus_key"
    );
    other.query_drop(insert).await.unwrap();
    let second = attempt("a", false);
    let mut entering = Box::pin(client.enters_again(&second));
    tokio::select! {
        biased;
        (_, turn) = &mut entering => panic!("{turn:?}"),
        () = scene.waits_for_a_row() => {}
    }
    other.query_drop("COMMIT").await.unwrap();
    let (entry, turn) = entering.await;
    assert_eq!(entry.position, token + 2);
    assert!(matches!(turn, Turn::Waiting { .. }), "{turn:?}");
}

/// The server goes on with the statement of a client that is gone: what it does then has no effect.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_client_that_is_gone_while_it_waits_for_a_row_leaves_nothing() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let (first, token) = client.hold("a").await;
    client.backend.leave(&client.session, &first, false).await.unwrap();
    let mut other = scene.raw().await;
    other.query_drop("START TRANSACTION").await.unwrap();
    other.query_drop("SELECT counter FROM portunus_key FOR UPDATE").await.unwrap();
    let gone = scene.client(LONG).await;
    let late = attempt("a", false);
    tokio::select! {
        biased;
        entered = gone.backend.enter(&gone.session, &late) => panic!("{entered:?}"),
        () = scene.waits_for_a_row() => {}
    }
    drop(gone);
    other.query_drop("ROLLBACK").await.unwrap();
    // Its thread may still be at it.
    assert_eq!(held(&client.enters_again(&attempt("a", false)).await.1), token + 1);
    assert_eq!(scene.count("entry").await, 1);
}

/// A client that is frozen in the middle of entering, with its connection alive.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_transaction_that_stands_idle_is_ended_by_the_server() {
    let scene = Scene::new().await;
    let (frozen, other) = (scene.client(LONG).await, scene.client(LONG).await);
    let mut raw = scene.raw().await;
    let first = {
        let (first, _) = other.hold("a").await;
        other.backend.leave(&other.session, &first, false).await.unwrap();
        attempt("a", false)
    };
    raw.query_drop("START TRANSACTION").await.unwrap();
    raw.query_drop("SELECT counter FROM portunus_key FOR UPDATE").await.unwrap();
    let mut entering = Box::pin(frozen.backend.enter(&frozen.session, &first));
    tokio::select! {
        biased;
        entered = &mut entering => panic!("{entered:?}"),
        () = scene.waits_for_a_row() => {}
    }
    // From here on it does nothing, and has the key's row.
    raw.query_drop("ROLLBACK").await.unwrap();
    let (_, turn) = other.enters_again(&attempt("a", false)).await;
    held(&turn);
    assert!(entering.await.unwrap_err().is_retryable());
    assert_eq!(scene.count("entry").await, 1);
    assert!(matches!(frozen.enters_again(&first).await.1, Turn::Waiting { .. }));
}

/// A client that is kept from running, wherever it is in entering, has nothing locked that its renewals need.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_renewal_waits_for_no_entry_of_its_session() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let mut raw = scene.raw().await;
    let busy = "SELECT count(*) FROM information_schema.processlist \
                WHERE db = database() AND command = 'Query' AND id <> connection_id()";
    for polls in 1.. {
        let entered = attempt(&format!("a{polls}"), false);
        let mut entering = pin!(client.backend.enter(&client.session, &entered));
        let mut left = polls;
        let stopped = poll_fn(|cx| match entering.as_mut().poll(cx) {
            Poll::Ready(entered) => Poll::Ready(Some(entered)),
            Poll::Pending => {
                left -= 1;
                if left == 0 { Poll::Ready(None) } else { Poll::Pending }
            }
        })
        .await;
        // What it had sent is done.
        let idle = async { while raw.query_first(busy).await.unwrap() != Some(0) {} };
        timeout(LONG, idle).await.unwrap();
        client.backend.renew(&client.session, &[]).await.unwrap();
        if let Some(entered) = stopped {
            entered.unwrap();
            assert!(polls > 4, "it asks the server so often");
            break;
        }
    }
}

/// Its insertion waits for the row of the session, which somebody has.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn an_entry_that_can_t_be_inserted_in_time_is_nothing_applied() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let mut raw = scene.raw().await;
    for try_only in [true, false] {
        raw.query_drop("START TRANSACTION").await.unwrap();
        raw.query_drop("SELECT beat FROM portunus_session FOR UPDATE").await.unwrap();
        let one = attempt("a", try_only);
        let busy = client.backend.enter(&client.session, &one);
        assert_eq!(kind(timeout(LONG, busy).await.unwrap()), ErrorKind::Unavailable);
        raw.query_drop("ROLLBACK").await.unwrap();
        assert_eq!((scene.count("entry").await, scene.count("key").await), (0, 0));
    }
    assert_eq!(client.hold("a").await.1, 1);
}

/// An insertion that is under way is waited for, and taken back.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn withdrawing_waits_for_an_insertion_of_the_same_attempt() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let parked = attempt("a", false);
    let row = u64::try_from(client.session.id.0).unwrap();
    let insert = format!(
        "INSERT INTO portunus_entry (attempt, session, lock_key, position, mode, host, pid, app, value) \
         VALUES (UNHEX('{}'), {row}, 'portunus/a', 7, 'exclusive', '', 1, '', '')",
        parked.id
    );
    let mut raw = scene.raw().await;
    raw.query_drop("START TRANSACTION").await.unwrap();
    raw.query_drop(&insert).await.unwrap();
    let mut leaving = Box::pin(async {
        loop {
            match client.backend.leave(&client.session, &parked, true).await {
                // It waits for a row no longer than a second.
                Err(error) if error.kind() == ErrorKind::Unavailable => {}
                left => return left,
            }
        }
    });
    tokio::select! {
        biased;
        left = &mut leaving => panic!("{left:?}"),
        () = scene.waits_for_a_row() => {}
    }
    raw.query_drop("COMMIT").await.unwrap();
    assert_eq!(leaving.await.unwrap(), Left::Removed);
    // And one that comes later is barred, however it comes.
    let barred = raw.query_drop(&insert).await.unwrap_err();
    assert!(barred.to_string().contains("1062"), "{barred}");
    let refused = client.backend.enter(&client.session, &parked).await;
    assert_eq!(kind(refused), ErrorKind::Lost);
    held(&client.enter(&attempt("a", false)).await.1);
    // As long as the session lives.
    assert_eq!(scene.count("entry").await, 2);
    client.backend.close_session(&client.session).await.unwrap();
    assert_eq!(scene.count("entry").await, 0);
}

/// The server rolls one of two back that wait for each other.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_deadlock_is_nothing_applied() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let (first, token) = client.hold("a").await;
    client.backend.leave(&client.session, &first, false).await.unwrap();
    let row = u64::try_from(client.session.id.0).unwrap();
    let mut raw = scene.raw().await;
    raw.query_drop("CREATE TABLE heavy (n INT) ENGINE = InnoDB").await.unwrap();
    raw.query_drop("START TRANSACTION").await.unwrap();
    // The one that has written less is rolled back.
    raw.query_drop("INSERT INTO heavy SELECT seq FROM seq_1_to_1000").await.unwrap();
    let lock = "SELECT beat FROM portunus_session WHERE id = ? FOR UPDATE";
    raw.exec_drop(lock, (row,)).await.unwrap();
    let second = attempt("a", false);
    let mut entering = Box::pin(client.backend.enter(&client.session, &second));
    tokio::select! {
        biased;
        entered = &mut entering => panic!("{entered:?}"),
        () = scene.waits_for_a_row() => {}
    }
    let crossing = raw.query_drop("SELECT counter FROM portunus_key FOR UPDATE");
    let (entered, _) = tokio::join!(entering, crossing);
    assert_eq!(kind(entered), ErrorKind::Unavailable);
    raw.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(held(&client.enter(&second).await.1), token + 1);
}

/// A value that arrives late does not overwrite what came after it.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_value_that_arrives_late_is_refused() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let leading = attempt("a", false);
    let (entry, turn) = client.enter(&leading).await;
    held(&turn);
    let mut raw = scene.raw().await;
    raw.query_drop("START TRANSACTION").await.unwrap();
    raw.query_drop("UPDATE portunus_entry SET value = 'newer', revision = revision + 1")
        .await
        .unwrap();
    let mut late = Box::pin(client.backend.publish(&client.session, &leading, &entry, "older"));
    tokio::select! {
        biased;
        published = &mut late => panic!("{published:?}"),
        () = scene.waits_for_a_row() => {}
    }
    raw.query_drop("COMMIT").await.unwrap();
    assert_eq!(kind(late.await), ErrorKind::Unavailable);
    let value: Option<String> = raw.query_first("SELECT value FROM portunus_entry").await.unwrap();
    assert_eq!(value.as_deref(), Some("newer"));
    // The engine calls again.
    client.backend.publish(&client.session, &leading, &entry, "newest").await.unwrap();
    let value: Option<String> = raw.query_first("SELECT value FROM portunus_entry").await.unwrap();
    assert_eq!(value.as_deref(), Some("newest"));
}

/// Of a holder that is renewed no observer says that it is dead, and of one that is not everybody does.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn only_a_beat_that_stands_still_is_a_death() {
    let scene = Scene::new().await;
    let ttl = Duration::from_secs(3);
    let (holder, waiter) = (scene.client(ttl).await, scene.client(LONG).await);
    holder.hold("a").await;
    let waiting = attempt("a", false);
    let (entry, mut turn) = waiter.enter(&waiting).await;
    let renewing = async {
        let mut renewed = tokio::time::Instant::now();
        for _ in 0..5 {
            tokio::time::sleep(ttl / 3).await;
            renewed = tokio::time::Instant::now();
            holder.backend.renew(&holder.session, &[]).await.unwrap();
        }
        renewed
    };
    let turning = async {
        while let Turn::Waiting { .. } = turn {
            waiter.backend.changed(&waiter.session, &waiting, &entry, &turn).await.unwrap();
            turn = waiter.backend.look(&waiter.session, &waiting, &entry).await.unwrap();
        }
        tokio::time::Instant::now()
    };
    let both = async { tokio::join!(renewing, turning) };
    let (renewed, turned) = timeout(LONG, both).await.unwrap();
    held(&turn);
    assert!(turned.duration_since(renewed) > ttl, "{:?}", turned.duration_since(renewed));
    assert_eq!(kind(holder.backend.renew(&holder.session, &[]).await), ErrorKind::Lost);
}
