//! What is left: rows, connections, numbers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use portunus_core::backend::{Left, LockBackend, Mode, Turn};
use portunus_core::clock::{BootClock, Clock, Moment};
use portunus_core::error::ErrorKind;
use portunus_sql::sqlite::{Sqlite, SqliteConfig};
use tokio::time::timeout;

use crate::{Client, LONG, Scene, attempt};

/// Names that are used once and never again are forgotten, and tokens grow all the same.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_acquisitions_leave_no_rows() {
    let scene = Scene::fast();
    let client = scene.client(LONG).await;
    let mut last = 0;
    for number in 0..10_000 {
        let (held, token) = client.hold(&format!("coupon/{number}")).await;
        assert!(token > last);
        last = token;
        // One in a hundred in doubt: these leave what their session takes along.
        let left = client.backend.leave(&client.session, &held, number % 100 == 0).await;
        assert_eq!(left.unwrap(), Left::Removed);
    }
    assert_eq!((scene.count("entry"), scene.count("session")), (100, 1));
    client.backend.close_session(&client.session).await.unwrap();
    for table in ["entry", "session", "sighting"] {
        assert_eq!(scene.count(table), 0, "{table}");
    }
    // Another process, later, and the file cleaned up meanwhile.
    drop(client);
    scene.raw().execute_batch("VACUUM").unwrap();
    let (_, token) = scene.client(LONG).await.hold("coupon/0").await;
    assert!(token > last, "{token} after {last}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn a_manager_has_three_connections_at_most_however_many_wait() {
    let scene = Scene::new();
    let (holder, client) = (scene.client(LONG).await, scene.client(LONG).await);
    let connections = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = open.filter_map(|one| std::fs::read_link(one.unwrap().path()).ok());
        targets.filter(|target| *target == scene.path()).count()
    };
    let mut waiting = Vec::new();
    for number in 0..40 {
        let name = format!("lock-{number}");
        holder.hold(&name).await;
        let waiter = attempt(&name, false);
        let (entry, turn) = client.enter(&waiter).await;
        waiting.push((waiter, entry, turn));
    }
    let changed = waiting
        .iter()
        .map(|(waiter, entry, turn)| client.backend.changed(&client.session, waiter, entry, turn));
    let all = futures_util::future::join_all(changed);
    let seen = async {
        while connections() < 5 {
            tokio::task::yield_now().await;
        }
        for (waiter, ..) in &waiting {
            client.backend.renew(&client.session, &[]).await.unwrap();
            // Two of the holder, which waits for nothing.
            assert_eq!(connections(), 5);
            client.backend.leave(&client.session, waiter, false).await.unwrap();
        }
    };
    let (told, ()) = tokio::join!(all, seen);
    assert!(told.iter().all(Result::is_ok));
}

#[tokio::test]
async fn namespaces_of_one_file_do_not_meet() {
    let scene = Scene::new();
    let config = portunus_sql::sqlite::SqliteConfig::new(scene.path()).unwrap();
    let other = portunus_sql::sqlite::Sqlite::new(config.namespace("other").unwrap());
    let session = other.open_session(LONG).await.unwrap();
    let client = scene.client(LONG).await;
    client.hold("a").await;
    let entered = other.enter(&session, &attempt("a", true)).await.unwrap();
    assert!(matches!(entered, portunus_core::backend::Entered::Queued { .. }), "{entered:?}");
    // Nor does an entry of one have a place in the other.
    let stranger = attempt("b", false);
    let refused = client.backend.publish(&session, &stranger, &entry_of(&entered), "v").await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Lost);
}

fn entry_of(entered: &portunus_core::backend::Entered) -> portunus_core::backend::EntryId {
    match entered {
        portunus_core::backend::Entered::Queued { entry, .. } => entry.clone(),
        portunus_core::backend::Entered::Refused => panic!("it was refused"),
    }
}

/// Whose turn it is when its request comes once more looks no more: the next waiter learns of it all the
/// same.
#[tokio::test]
async fn a_permit_that_is_granted_to_a_repeated_request_is_marked() {
    let scene = Scene::new();
    let client = scene.client(LONG).await;
    let [first, second] = [(); 2].map(|()| {
        let mut permit = attempt("a", false);
        permit.mode = Mode::Permit { limit: 1 };
        permit
    });
    client.enter(&first).await;
    let (entry, turn) = client.enter(&second).await;
    assert!(matches!(turn, Turn::Waiting { .. }), "{turn:?}");
    client.backend.leave(&client.session, &first, false).await.unwrap();
    let (same, turn) = client.enter(&second).await;
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    assert_eq!(same, entry);
    let marked = "SELECT marked FROM portunus_entry WHERE ended = 0";
    assert!(scene.raw().query_row(marked, [], |row| row.get::<_, bool>(0)).unwrap());
}

/// Panics once, on the thread that watches.
#[derive(Debug)]
struct Stumbling(BootClock, AtomicBool);

impl Clock for Stumbling {
    fn now(&self) -> Moment {
        let is_watch = std::thread::current().name() == Some("portunus-sqlite-watch");
        assert!(!is_watch || self.1.swap(true, Ordering::SeqCst), "on purpose");
        self.0.now()
    }

    fn sleep_until(&self, moment: Moment) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.sleep_until(moment)
    }
}

#[tokio::test]
async fn a_panic_of_the_watch_is_told_and_the_next_watch_works() {
    let scene = Scene::new();
    let clock = Arc::new(Stumbling(BootClock::new(), AtomicBool::new(false)));
    let backend = Sqlite::with_clock(SqliteConfig::new(scene.path()).unwrap(), clock);
    let session = backend.open_session(LONG).await.unwrap();
    let client = Client { backend, session };
    let (held, _) = client.hold("a").await;
    let waiter = attempt("a", false);
    let (entry, turn) = client.enter(&waiter).await;
    let changed = || client.backend.changed(&client.session, &waiter, &entry, &turn);
    let told = timeout(LONG, changed()).await.expect("a panic is told");
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Unavailable);
    let leaving = client.backend.leave(&client.session, &held, false);
    let (told, left) = tokio::join!(timeout(LONG, changed()), leaving);
    told.expect("it is watched").unwrap();
    assert_eq!(left.unwrap(), Left::Removed);
}
