//! Who is dead, and when.

use std::time::Duration;

use portunus_core::backend::{LockBackend, Turn};
#[cfg(target_os = "linux")]
use portunus_core::error::ErrorKind;
use tokio::time::{Instant, sleep, timeout};

use crate::{Client, LONG, Scene, attempt};

const TTL: Duration = Duration::from_millis(500);

/// Has a session look as if its process ran under another kernel.
fn move_elsewhere(scene: &Scene, client: &Client) {
    let sql = "UPDATE portunus_session SET kernel = 'elsewhere', renewed = 0 WHERE id = ?1";
    assert_eq!(scene.raw().execute(sql, [client.row()]).unwrap(), 1);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn on_one_kernel_the_time_of_the_renewal_is_compared() {
    // Not longer than any machine is up.
    let (scene, ttl) = (Scene::fast(), 20 * TTL);
    let (holder, other) = (scene.client(ttl).await, scene.client(LONG).await);
    holder.hold("a").await;
    let back = |part: f64| {
        let sql = "UPDATE portunus_session SET renewed = renewed - ?2 WHERE id = ?1";
        let nanos = i64::try_from(ttl.mul_f64(part).as_nanos()).unwrap();
        assert_eq!(scene.raw().execute(sql, [holder.row(), nanos]).unwrap(), 1);
    };
    back(0.5);
    assert!(!other.tries("a").await, "it has half of its time left");
    back(0.52);
    assert!(other.tries("a").await, "it is dead, and nobody had to wait for that");
    let renewal = holder.backend.renew(&holder.session, &[]).await;
    assert_eq!(renewal.unwrap_err().kind(), ErrorKind::Lost);
}

#[tokio::test]
async fn of_another_kernel_only_the_beat_is_believed() {
    // A busy machine may be late by two thirds of it.
    let (scene, ttl) = (Scene::fast(), 6 * TTL);
    let (holder, waiter) = (scene.client(ttl).await, scene.client(LONG).await);
    holder.hold("a").await;
    // Its time says that it died long ago.
    move_elsewhere(&scene, &holder);
    let waiting = attempt("a", false);
    let (entry, mut turn) = waiter.enter(&waiting).await;
    let renewing = async {
        let mut renewed = Instant::now();
        for _ in 0..4 {
            sleep(ttl / 3).await;
            renewed = Instant::now();
            holder.backend.renew(&holder.session, &[]).await.unwrap();
        }
        renewed
    };
    let turning = async {
        while let Turn::Waiting { .. } = turn {
            waiter.backend.changed(&waiter.session, &waiting, &entry, &turn).await.unwrap();
            turn = waiter.backend.look(&waiter.session, &waiting, &entry).await.unwrap();
        }
        Instant::now()
    };
    // Had it been judged by its time, or by what was seen of an earlier beat, it would have ended
    // while it was renewed.
    let both = async { tokio::join!(renewing, turning) };
    let (renewed, turned) = timeout(Duration::from_secs(30), both).await.unwrap();
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    assert!(turned.duration_since(renewed) > ttl, "{:?}", turned.duration_since(renewed));
}

/// Each of them begins and ends before a time to live is over, and none waits.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn tries_that_come_one_after_the_other_see_the_death_of_a_foreign_session() {
    let scene = Scene::fast();
    let holder = scene.client(TTL).await;
    holder.hold("a").await;
    move_elsewhere(&scene, &holder);
    let began = Instant::now();
    let mut tries = 0;
    loop {
        let one = scene.client(LONG).await;
        let is_held = one.tries("a").await;
        one.backend.close_session(&one.session).await.unwrap();
        if is_held {
            break;
        }
        tries += 1;
        assert_eq!(scene.count("sighting"), 1);
        assert!(began.elapsed() < Duration::from_secs(20), "{tries} tries in vain");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() > TTL, "after {:?}", began.elapsed());
    assert!(tries > 0);
    assert_eq!((scene.count("sighting"), scene.count("session")), (0, 0));
}

/// Who comes too late to be alive finds itself among the dead, and makes no entry that nobody would end.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_session_that_is_overdue_enters_nothing() {
    let scene = Scene::new();
    let (holder, late) = (scene.client(LONG).await, scene.client(LONG).await);
    holder.hold("a").await;
    let waiting = attempt("a", false);
    late.enter(&waiting).await;
    let sql = "UPDATE portunus_session SET ttl = 1 WHERE id = ?1";
    for attempt in [attempt("a", false), waiting, attempt("b", false)] {
        scene.raw().execute(sql, [late.row()]).unwrap();
        let refused = late.backend.enter(&late.session, &attempt).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Lost);
        assert_eq!((scene.count("entry"), scene.count("session")), (1, 1));
    }
}

/// What makes the name something else goes as well when it is dead.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_dead_holder_of_another_kind_is_no_conflict() {
    let scene = Scene::new();
    let (holder, other) = (scene.client(LONG).await, scene.client(LONG).await);
    let mut permit = attempt("a", false);
    permit.mode = portunus_core::backend::Mode::Permit { limit: 3 };
    holder.enter(&permit).await;
    let refused = other.backend.enter(&other.session, &attempt("a", false)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    scene
        .raw()
        .execute("UPDATE portunus_session SET ttl = 1 WHERE id = ?1", [holder.row()])
        .unwrap();
    other.hold("a").await;
}

/// Else those who only try would never find a dead holder of another kernel that is in conflict with them.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn what_a_try_in_conflict_saw_of_others_is_kept() {
    let scene = Scene::fast();
    let (holder, other) = (scene.client(LONG).await, scene.client(LONG).await);
    let mut permit = attempt("a", false);
    permit.mode = portunus_core::backend::Mode::Permit { limit: 3 };
    holder.enter(&permit).await;
    move_elsewhere(&scene, &holder);
    let refused = other.backend.enter(&other.session, &attempt("a", true)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!((scene.count("sighting"), scene.count("entry")), (1, 1));
}
