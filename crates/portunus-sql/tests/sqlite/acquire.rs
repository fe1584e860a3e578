//! Locks that end with the caller's own transaction.

use portunus_core::backend::LockBackend;
use portunus_core::error::ErrorKind;
use portunus_core::manager::LockManager;
use portunus_core::name::LockName;
use portunus_sql::sqlite::{Sqlite, SqliteConfig};
use rusqlite::{Connection, TransactionBehavior};

use crate::{LONG, Scene, attempt};

fn name(name: &str) -> LockName {
    LockName::new(name).unwrap()
}

/// How many rows the connection has written.
fn written(connection: &Connection) -> i64 {
    connection.query_row("SELECT total_changes()", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn the_token_is_the_next_of_the_lock_and_stays_with_a_commit() {
    let scene = Scene::new();
    let manager = LockManager::builder(scene.backend()).open().await.unwrap();
    let lock = manager.lock("a").unwrap();
    let before = lock.acquire().await.unwrap();
    let earlier = before.token();
    before.release().await.unwrap();
    let (backend, mut raw) = (scene.backend(), scene.raw());
    let take = |raw: &mut Connection, commits: bool| {
        let transaction = raw.transaction().unwrap();
        let token = backend.acquire_in(&transaction, &name("a")).unwrap().unwrap();
        if commits {
            transaction.commit().unwrap();
        }
        token
    };
    let taken_back = take(&mut raw, false);
    assert!(taken_back > earlier, "{taken_back} after {earlier}");
    // Nothing came of it, so the number is free again.
    let kept = take(&mut raw, true);
    assert_eq!(kept, taken_back);
    let later = lock.acquire().await.unwrap();
    assert!(later.token() > kept, "{} after {kept}", later.token());
    later.release().await.unwrap();
    assert_eq!((scene.count("entry"), scene.count("session")), (0, 1));
    manager.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn who_holds_or_waits_goes_first_and_nothing_is_written() {
    let scene = Scene::new();
    let client = scene.client(LONG).await;
    let (held, _) = client.hold("a").await;
    let waiter = attempt("a", false);
    client.enter(&waiter).await;
    let (backend, mut raw) = (scene.backend(), scene.raw());
    let mut refused = |expected: bool| {
        let before = written(&raw);
        let transaction = raw.transaction().unwrap();
        let none = backend.acquire_in(&transaction, &name("a")).unwrap().is_none();
        transaction.commit().unwrap();
        assert_eq!(none, expected);
        assert!(!none || written(&raw) == before, "it wrote");
    };
    refused(true);
    client.backend.leave(&client.session, &held, false).await.unwrap();
    // Nobody has looked for the waiter yet.
    refused(true);
    client.backend.leave(&client.session, &waiter, false).await.unwrap();
    refused(false);
    // Another name, and the same one in another namespace, are other locks.
    client.hold("b").await;
    refused(false);
}

#[tokio::test]
async fn nobody_takes_the_lock_while_the_transaction_lasts() {
    let scene = Scene::new();
    let client = scene.client(LONG).await;
    let (backend, mut raw) = (scene.backend(), scene.raw());
    let transaction = raw.transaction().unwrap();
    let token = backend.acquire_in(&transaction, &name("a")).unwrap().unwrap();
    let mut hasty = client.session.clone();
    hasty.request_timeout = std::time::Duration::from_millis(200);
    let entered = client.backend.enter(&hasty, &attempt("a", true)).await;
    assert_eq!(entered.unwrap_err().kind(), ErrorKind::Unavailable);
    let mut other = scene.raw();
    other.busy_timeout(std::time::Duration::from_millis(50)).unwrap();
    let second = other.transaction().unwrap();
    let busy = backend.acquire_in(&second, &name("a")).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Unavailable, "{busy}");
    assert!(!busy.to_string().contains("Immediate"), "{busy}");
    transaction.commit().unwrap();
    // The transaction that was turned away can still be used.
    let next = backend.acquire_in(&second, &name("a")).unwrap().unwrap();
    assert!(next > token);
}

/// Ten a thread with a manager in between: the order of the commits is that of the tokens.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_transactions_and_of_managers_are_in_one_order() {
    let scene = Scene::fast();
    let manager = LockManager::builder(scene.backend()).open().await.unwrap();
    scene.raw().execute_batch("CREATE TABLE log (token INTEGER NOT NULL)").unwrap();
    let threads = (0..4).map(|_| {
        let (backend, mut raw) = (scene.backend(), scene.raw());
        raw.busy_timeout(LONG).unwrap();
        std::thread::spawn(move || {
            let mut done = 0;
            while done < 10 {
                // To wait in a transaction that writes would hold up who is waited for.
                if raw.query_row(STANDING, [], |row| row.get(0)).unwrap() {
                    continue;
                }
                let transaction =
                    raw.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
                if let Some(token) = backend.acquire_in(&transaction, &name("a")).unwrap() {
                    log(&transaction, token.value());
                    transaction.commit().unwrap();
                    done += 1;
                }
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    let (lock, raw) = (manager.lock("a").unwrap(), scene.raw());
    raw.busy_timeout(LONG).unwrap();
    for _ in 0..10 {
        let guard = lock.acquire().await.unwrap();
        log(&raw, guard.token().value());
        guard.release().await.unwrap();
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let mut list = raw.prepare("SELECT token FROM log ORDER BY rowid").unwrap();
    let tokens: Vec<i64> =
        list.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(tokens.len(), 50);
    assert!(tokens.windows(2).all(|two| two[0] < two[1]), "{tokens:?}");
    manager.shutdown(LONG).await.unwrap();
}

const STANDING: &str = "SELECT EXISTS (SELECT 1 FROM portunus_entry)";

fn log(connection: &Connection, token: u64) {
    let token = i64::try_from(token).unwrap();
    connection.execute("INSERT INTO log VALUES (?1)", [token]).unwrap();
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_dead_holder_is_found_out() {
    let scene = Scene::new();
    let dead = scene.client(LONG).await;
    let (_, token) = dead.hold("a").await;
    let (backend, mut raw) = (scene.backend(), scene.raw());
    let transaction = raw.transaction().unwrap();
    assert!(backend.acquire_in(&transaction, &name("a")).unwrap().is_none());
    transaction.execute("UPDATE portunus_session SET ttl = 1", []).unwrap();
    let taken = backend.acquire_in(&transaction, &name("a")).unwrap().unwrap();
    assert!(taken.value() > token);
    transaction.commit().unwrap();
    assert_eq!((scene.count("entry"), scene.count("session")), (0, 0));
}

#[tokio::test]
async fn a_reader_that_is_too_late_to_write_is_told_how_to_begin() {
    let scene = Scene::new();
    let client = scene.client(LONG).await;
    let (backend, mut raw) = (scene.backend(), scene.raw());
    let transaction = raw.transaction().unwrap();
    let count = "SELECT count(*) FROM portunus_entry";
    transaction.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap();
    client.hold("b").await;
    let late = backend.acquire_in(&transaction, &name("a")).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Unavailable, "{late}");
    assert!(late.to_string().contains("TransactionBehavior::Immediate"), "{late}");
    drop(transaction);
    let transaction = raw.transaction().unwrap();
    assert!(backend.acquire_in(&transaction, &name("a")).unwrap().is_some());
}

#[tokio::test]
async fn a_transaction_in_which_the_lock_would_be_worth_nothing_is_refused() {
    let (scene, other) = (Scene::new(), Scene::new());
    let backend = scene.backend();
    let refused = |connection: &mut Connection, text: &str| {
        let transaction = connection.transaction().unwrap();
        let error = backend.acquire_in(&transaction, &name("a")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    refused(&mut scene.raw(), "schema_sql");
    drop(scene.client(LONG).await);
    drop(other.client(LONG).await);
    refused(&mut other.raw(), "the transaction is on");
    refused(&mut Connection::open_in_memory().unwrap(), "no file");
    let mut sloppy = scene.raw();
    sloppy.execute_batch("PRAGMA synchronous = NORMAL").unwrap();
    refused(&mut sloppy, "below `FULL`");
}

#[tokio::test]
async fn in_a_file_that_went_back_nothing_is_taken() {
    let scene = Scene::new();
    let backend = Sqlite::new(SqliteConfig::new(scene.path()).unwrap());
    let session = backend.open_session(LONG).await.unwrap();
    for _ in 0..3 {
        let held = attempt("a", false);
        backend.enter(&session, &held).await.unwrap();
        backend.leave(&session, &held, false).await.unwrap();
    }
    let mut raw = scene.raw();
    raw.execute("UPDATE portunus_meta SET position = 2", []).unwrap();
    let transaction = raw.transaction().unwrap();
    let back = backend.acquire_in(&transaction, &name("a")).unwrap_err();
    assert_eq!(back.kind(), ErrorKind::Regression, "{back}");
}
