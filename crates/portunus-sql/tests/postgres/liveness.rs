//! Who is dead, and when.

use std::time::Duration;

use portunus_core::backend::{Entered, LockBackend, Turn};
use portunus_core::error::ErrorKind;
use tokio::time::{Instant, sleep, timeout};

use crate::{LONG, Scene, attempt};

/// A busy machine may be late by two thirds of it.
const TTL: Duration = Duration::from_secs(4);

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_holder_lives_as_long_as_its_beat_is_raised() {
    let (scene, ttl) = (Scene::new().await, TTL);
    let (holder, waiter) = (scene.client(ttl).await, scene.client(LONG).await);
    holder.hold("a").await;
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
    let both = async { tokio::join!(renewing, turning) };
    let (renewed, turned) = timeout(Duration::from_secs(60), both).await.unwrap();
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    let taken = turned.duration_since(renewed);
    assert!(taken > ttl && taken < 4 * ttl, "{taken:?}");
    let renewal = holder.backend.renew(&holder.session, &[]).await;
    assert_eq!(renewal.unwrap_err().kind(), ErrorKind::Lost);
}

/// The verdict is of a beat, and a session that is renewed just then survives.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_renewal_that_comes_before_the_end_wins() {
    let scene = Scene::new().await;
    let (holder, other) = (scene.client(TTL).await, scene.client(LONG).await);
    holder.hold("a").await;
    assert!(!other.tries("a").await);
    sleep(TTL + TTL / 20).await;
    // The other has seen the beat of before for long enough; it deletes, and has to wait for this row.
    let raw = scene.raw().await;
    raw.batch_execute("BEGIN").await.unwrap();
    let raise = "UPDATE portunus_session SET beat = beat + 1 WHERE id = $1";
    raw.execute(raise, &[&holder.row()]).await.unwrap();
    let trying = attempt("a", true);
    let tried = scene
        .while_waiting(async || other.backend.enter(&other.session, &trying).await, async {
            raw.batch_execute("COMMIT").await.unwrap()
        });
    // Refused by the holder, or by the wait for the row; not held, in any case.
    assert!(!matches!(tried.await, Ok(Entered::Queued { .. })));
    holder.backend.renew(&holder.session, &[]).await.unwrap();
}

/// Each of them begins and ends before a time to live is over, and none waits.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
#[cfg(target_os = "linux")]
async fn tries_that_come_one_after_the_other_see_a_death() {
    let scene = Scene::new().await;
    let holder = scene.client(TTL).await;
    holder.hold("a").await;
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
        assert!(began.elapsed() < Duration::from_secs(60), "{tries} tries in vain");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() > TTL, "after {:?}", began.elapsed());
    assert!(tries > 0);
    assert_eq!((scene.count("sighting").await, scene.count("session").await), (0, 0));
}

/// A session that was put back from a copy has a beat that was confirmed before.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_beat_that_went_back_is_a_loss() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    client.backend.renew(&client.session, &[]).await.unwrap();
    client.backend.renew(&client.session, &[]).await.unwrap();
    scene.raw().await.execute("UPDATE portunus_session SET beat = 0", &[]).await.unwrap();
    let error = client.backend.renew(&client.session, &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error}");
}
