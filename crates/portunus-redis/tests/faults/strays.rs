//! Those who wait on masters of which one forgot their session: they stand there again.

use std::time::Duration;

use portunus_core::backend::{Attempt, Entered, EntryId, LockBackend, LockObserver, Session, Turn};
use portunus_core::error::ErrorKind;
use portunus_redis::Redis;
use portunus_testkit::cluster::RedisMasters;
use tokio::time::timeout;

use super::{attempt, eventually, hold_on_all, namespace, open};
use crate::harness::{client, raw};

const TTL: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);

/// Three masters, and one who holds `a` and is not the one under test.
struct Scene {
    masters: RedisMasters<3>,
    namespace: String,
    redis: Redis,
    session: Session,
    holder: (Redis, Session, Attempt),
}

impl Scene {
    async fn new() -> Self {
        let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
        let namespace = namespace();
        let [redis, other] = [(); 2].map(|()| client(&masters.url(), &namespace));
        let (session, held_by) = (open(&redis, TTL).await, open(&other, TTL).await);
        for node in 0..3 {
            stands(&masters, &namespace, (&redis, &session), node).await;
        }
        // By then its connections stand, too.
        let (warm, ..) = hold_on_all(&masters, &namespace, (&redis, &session), "a").await;
        redis.leave(&session, &warm, false).await.unwrap();
        let (held, ..) = hold_on_all(&masters, &namespace, (&other, &held_by), "a").await;
        Self { masters, namespace, redis, session, holder: (other, held_by, held) }
    }

    /// Waits in the line of every master: a majority is enough for an answer.
    async fn wait(&self) -> (Attempt, EntryId, Turn) {
        let waiter = attempt("a", false);
        let entered = self.redis.enter(&self.session, &waiter).await.unwrap();
        let Entered::Queued { entry, turn: turn @ Turn::Waiting { .. } } = entered else {
            panic!("it does not wait: {entered:?}")
        };
        let line = format!("{}:{{a}}:line", self.namespace);
        for node in 0..3 {
            let raw = raw(self.masters.node_url(node)).await;
            let mut stands = redis::cmd("HEXISTS");
            stands.arg(&line).arg(waiter.id.to_string());
            eventually(PATIENCE, "it waits there, too", async || {
                match stands.query_async::<bool>(&mut raw.clone()).await.unwrap() {
                    true => Ok(()),
                    false => Err(node),
                }
            })
            .await;
        }
        (waiter, entry, turn)
    }

    /// A master forgets the session, as after a time to live without a renewal; a renewal brings it back. The
    /// line of the lock goes as well, if it was restarted without its data.
    async fn lapse(&self, node: usize, with_line: bool) {
        let mut raw = raw(self.masters.node_url(node)).await;
        let session = format!("{}:session:{}", self.namespace, self.session.id);
        let lapsed = with_line.then(|| format!("{}:{{a}}:line", self.namespace));
        let mut forget = redis::cmd("DEL");
        let () = forget.arg(&session).arg(lapsed).query_async(&mut raw).await.unwrap();
        stands(&self.masters, &self.namespace, (&self.redis, &self.session), node).await;
    }

    async fn let_go(&self) {
        let (redis, session, held) = &self.holder;
        redis.leave(session, held, false).await.unwrap();
    }

    /// Looks, as the engine does after errors and wake-ups, until the lock is held.
    async fn granted(&self, waiter: &Attempt, entry: &EntryId) {
        let looking = async {
            loop {
                match self.redis.look(&self.session, waiter, entry).await {
                    Ok(Turn::Held { .. }) => return,
                    Ok(Turn::Lost) => panic!("nobody removed it"),
                    Ok(Turn::Waiting { .. }) | Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        timeout(PATIENCE, looking).await.expect("it waits for ever");
    }
}

/// Waits until a session is on a master, to which renewals bring it.
async fn stands(
    masters: &RedisMasters<3>,
    namespace: &str,
    (redis, session): (&Redis, &Session),
    node: usize,
) {
    let raw = raw(masters.node_url(node)).await;
    let mut stands = redis::cmd("HEXISTS");
    stands.arg(format!("{namespace}:session:{}", session.id)).arg("live");
    eventually(PATIENCE, "the session is there", async || {
        redis.renew(session, &[]).await.map_err(|error| error.to_string())?;
        match stands.query_async::<bool>(&mut raw.clone()).await.unwrap() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_waiter_stands_again_on_a_master_that_lost_its_session() {
    for with_line in [false, true] {
        let scene = Scene::new().await;
        let (waiter, entry, _) = scene.wait().await;
        scene.lapse(0, with_line).await;
        // Now it needs the first one to be one of a majority.
        scene.masters.kill(1).await.unwrap();
        scene.let_go().await;
        scene.granted(&waiter, &entry).await;
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn who_waits_behind_another_outlives_one_master_after_the_other() {
    let scene = Scene::new().await;
    let (first, ..) = scene.wait().await;
    let (second, entry, mut turn) = scene.wait().await;
    for node in [0, 1, 2] {
        scene.lapse(node, true).await;
        let told = scene.redis.changed(&scene.session, &second, &entry, &turn);
        timeout(PATIENCE, told).await.expect("nobody has it look").unwrap();
        turn = scene.redis.look(&scene.session, &second, &entry).await.unwrap();
        assert!(matches!(turn, Turn::Waiting { .. }), "after {node}: {turn:?}");
    }
    scene.redis.leave(&scene.session, &first, false).await.unwrap();
    scene.let_go().await;
    scene.granted(&second, &entry).await;
}

/// Also where it does not stand just then, for its next round may come there.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn who_was_evicted_stands_nowhere_again() {
    let scene = Scene::new().await;
    let (waiter, entry, _) = scene.wait().await;
    scene.lapse(0, true).await;
    let turn = scene.redis.look(&scene.session, &waiter, &entry).await.unwrap();
    assert!(matches!(turn, Turn::Waiting { .. }), "{turn:?}");
    // The third one lists it, and does not remove it.
    let mut third = raw(scene.masters.node_url(2)).await;
    let mut rights = redis::cmd("ACL");
    rights.arg("SETUSER").arg("default");
    let () = rights.clone().arg("-hdel").arg("-publish").query_async(&mut third).await.unwrap();
    assert!(scene.holder.0.evict(&waiter.name, &entry).await.unwrap());
    let () = rights.arg("+hdel").arg("+publish").query_async(&mut third).await.unwrap();
    let turn = scene.redis.look(&scene.session, &waiter, &entry).await.unwrap();
    assert_eq!(turn, Turn::Lost);
}

/// Also if the master where it was barred forgets that, and the other one can't be asked just then.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn an_eviction_outlives_a_master_that_forgot_it() {
    let scene = Scene::new().await;
    let (waiter, entry, _) = scene.wait().await;
    let mut second = raw(scene.masters.node_url(1)).await;
    let mut rights = redis::cmd("ACL");
    rights.arg("SETUSER").arg("default");
    let () = rights.clone().arg("-hdel").arg("-publish").query_async(&mut second).await.unwrap();
    assert!(scene.holder.0.evict(&waiter.name, &entry).await.unwrap());
    let () = rights.arg("+hdel").arg("+publish").query_async(&mut second).await.unwrap();
    let look = async || scene.redis.look(&scene.session, &waiter, &entry).await;
    scene.masters.pause(2).await.unwrap();
    look().await.unwrap_err();
    scene.masters.unpause(2).await.unwrap();
    scene.lapse(2, true).await;
    scene.masters.pause(0).await.unwrap();
    for _ in 0..3 {
        look().await.unwrap_err();
    }
    scene.masters.unpause(0).await.unwrap();
    eventually(PATIENCE, "it is told", async || match look().await {
        Ok(Turn::Lost) => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn an_eviction_that_bars_no_majority_is_not_confirmed() {
    let scene = Scene::new().await;
    let (waiter, entry, _) = scene.wait().await;
    let mut first = raw(scene.masters.node_url(0)).await;
    let session = format!("{}:session:{}", scene.namespace, scene.session.id);
    let line = format!("{}:{{a}}:line", scene.namespace);
    let () = redis::cmd("DEL").arg(&session).arg(&line).query_async(&mut first).await.unwrap();
    let mut third = raw(scene.masters.node_url(2)).await;
    let mut rights = redis::cmd("ACL");
    rights.arg("SETUSER").arg("default").arg("-hdel").arg("-publish");
    let () = rights.query_async(&mut third).await.unwrap();
    let told = scene.holder.0.evict(&waiter.name, &entry).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Denied, "{told:#}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_waiter_that_could_not_look_stands_again_later() {
    let scene = Scene::new().await;
    let (_first, ..) = scene.wait().await;
    let (second, entry, turn) = scene.wait().await;
    scene.lapse(0, true).await;
    let changed = async || {
        let told = scene.redis.changed(&scene.session, &second, &entry, &turn);
        timeout(PATIENCE, told).await.expect("nobody has it look")
    };
    let look = async || scene.redis.look(&scene.session, &second, &entry).await;
    changed().await.unwrap();
    for node in [1, 2] {
        scene.masters.pause(node).await.unwrap();
    }
    look().await.unwrap_err();
    for node in [1, 2] {
        scene.masters.unpause(node).await.unwrap();
    }
    let mut first = raw(scene.masters.node_url(0)).await;
    let mut stands = redis::cmd("HEXISTS");
    stands.arg(format!("{}:{{a}}:line", scene.namespace)).arg(second.id.to_string());
    while !stands.query_async::<bool>(&mut first).await.unwrap() {
        changed().await.ok();
        look().await.ok();
    }
}
