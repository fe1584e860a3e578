//! Requests that arrive late, as the network may bring them: each sent by hand, after what it should have come
//! before.

use std::time::Duration;

use portunus_core::backend::{Attempt, Entered, LockBackend, Session, Turn};
use portunus_core::error::ErrorKind;
use redis::Script;
use redis::aio::MultiplexedConnection;

use super::{attempt, hold, open};
use crate::harness::RedisHarness;

const TTL: Duration = Duration::from_secs(10);

macro_rules! script {
    ($name:literal) => {
        Script::new(concat!(
            include_str!("../../src/scripts/records.lua"),
            "\n",
            include_str!(concat!("../../src/scripts/", $name, ".lua")),
        ))
    };
}

/// One server and a session there.
struct Scene {
    harness: RedisHarness,
    redis: portunus_redis::Redis,
    session: Session,
    raw: MultiplexedConnection,
}

impl Scene {
    async fn new() -> Self {
        let harness = RedisHarness::open().await;
        let redis = harness.redis();
        let session = open(&redis, TTL).await;
        let raw = harness.raw();
        Self { harness, redis, session, raw }
    }

    fn node(&self) -> String {
        format!("{}:node", self.harness.namespace())
    }

    fn session_key(&self) -> String {
        format!("{}:session:{}", self.harness.namespace(), self.session.id)
    }

    fn lock(&self) -> String {
        format!("{}:{{a}}", self.harness.namespace())
    }

    /// Runs a script as it is sent by a connection of a number; its first word.
    async fn run(&mut self, script: &Script, keys: &[&str], args: &[&str], link: u64) -> String {
        let mut invocation = script.prepare_invoke();
        for key in keys {
            invocation.key(*key);
        }
        for arg in args {
            invocation.arg(*arg);
        }
        invocation.arg(link);
        let reply: Vec<redis::Value> = invocation.invoke_async(&mut self.raw).await.unwrap();
        redis::from_redis_value(reply.into_iter().next().unwrap()).unwrap()
    }

    async fn take(&mut self, attempt: &Attempt, round: u64, mode: &str, link: u64) -> String {
        self.take_as(attempt, round, mode, link, "0").await
    }

    /// The same on a server that is the only one, if `alone` is `1`.
    async fn take_as(
        &mut self,
        attempt: &Attempt,
        round: u64,
        mode: &str,
        link: u64,
        alone: &str,
    ) -> String {
        let (node, session, lock) = (self.node(), self.session_key(), self.lock());
        let line = format!("{lock}:line");
        let incarnation: String = redis::cmd("HGET")
            .arg(&node)
            .arg("incarnation")
            .query_async(&mut self.raw)
            .await
            .unwrap();
        let (id, round) = (attempt.id.to_string(), round.to_string());
        let owner = self.session.id.to_string();
        let args = [&*incarnation, &id, &round, &owner, "10000", "0", "{}", mode, alone];
        self.run(&script!("take"), &[&node, &session, &lock, &line], &args, link).await
    }

    async fn leave(&mut self, attempt: &Attempt, newest: u64, link: u64) -> String {
        let (session, lock) = (self.session_key(), self.lock());
        let line = format!("{lock}:line");
        let args = [attempt.id.to_string(), newest.to_string()];
        let args = [&*args[0], &*args[1]];
        self.run(&script!("leave"), &[&session, &lock, &line], &args, link).await
    }

    async fn undo(&mut self, attempt: &Attempt, round: u64, waits: bool, link: u64) -> String {
        let (session, lock) = (self.session_key(), self.lock());
        let line = format!("{lock}:line");
        let (id, round) = (attempt.id.to_string(), round.to_string());
        let owner = self.session.id.to_string();
        let args = [&*id, &round, &owner, "7", "{}", if waits { "1" } else { "0" }, "10000"];
        self.run(&script!("undo"), &[&session, &lock, &line], &args, link).await
    }

    async fn nonce(&mut self) -> String {
        let key = format!("{}:wiped", self.node());
        redis::cmd("HGET").arg(key).arg("nonce").query_async(&mut self.raw).await.unwrap()
    }

    async fn exists(&mut self, key: &str) -> bool {
        redis::cmd("EXISTS").arg(key).query_async(&mut self.raw).await.unwrap()
    }

    async fn of_session(&mut self, attempt: &Attempt) -> Option<String> {
        let key = self.session_key();
        let mut get = redis::cmd("HGET");
        get.arg(key).arg(attempt.id.to_string()).query_async(&mut self.raw).await.unwrap()
    }
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn what_comes_by_an_older_connection_makes_nothing() {
    let mut scene = Scene::new().await;
    let (late, lock) = (attempt("a", false), scene.lock());
    // Its take is lost with connection 2; it leaves by connection 3, which bars what came before.
    assert_eq!(scene.leave(&late, 2, 3).await, "absent");
    assert_eq!(scene.of_session(&late).await, None, "no tombstone is needed");
    for mode in ["enter", "stand", "try"] {
        assert_eq!(scene.take(&late, 1, mode, 2).await, "late", "{mode}");
    }
    assert_eq!(scene.undo(&late, 1, true, 2).await, "late");
    assert_eq!(scene.of_session(&late).await, None);
    assert!(!scene.exists(&lock).await && !scene.exists(&format!("{lock}:line")).await);
    // Others of this session go on, by the newest.
    assert_eq!(scene.take(&attempt("a", true), 1, "try", 3).await, "held");
}

/// A renewal that did not know of it may have moved the session's deadline beyond it.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_lock_whose_answer_was_lost_lasts_as_long_as_one_that_is_taken_now() {
    let mut scene = Scene::new().await;
    let (again, lock) = (attempt("a", false), scene.lock());
    assert_eq!(scene.take_as(&again, 1, "enter", 2, "1").await, "held");
    let mut shorten = redis::cmd("PEXPIRE");
    let () = shorten.arg(&lock).arg(4000).query_async(&mut scene.raw).await.unwrap();
    assert_eq!(scene.take_as(&again, 1, "enter", 2, "1").await, "held");
    let left: u64 = redis::cmd("PTTL").arg(&lock).query_async(&mut scene.raw).await.unwrap();
    assert!(left > 5000, "{left} ms");
}

/// Nothing that the session was asked by the newer one had an effect before.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn who_leaves_bars_what_was_lost_on_an_older_connection() {
    let mut scene = Scene::new().await;
    let (late, lock) = (attempt("a", false), scene.lock());
    assert_eq!(scene.leave(&late, 1, 2).await, "absent");
    assert_eq!(scene.take(&late, 1, "enter", 1).await, "late");
    assert!(!scene.exists(&lock).await);
    assert_eq!(scene.of_session(&late).await, None, "there is no tombstone");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn what_comes_late_by_a_newer_connection_meets_a_tombstone() {
    let mut scene = Scene::new().await;
    let late = attempt("a", false);
    // What was lost on the connection of the leave came before it.
    assert_eq!(scene.leave(&late, 3, 3).await, "absent");
    assert_eq!(scene.of_session(&late).await, None);
    assert_eq!(scene.leave(&late, 4, 3).await, "absent");
    assert_eq!(scene.take(&late, 1, "enter", 4).await, "left");
    assert_eq!(scene.undo(&late, 1, true, 4).await, "ok");
    let lock = scene.lock();
    assert!(!scene.exists(&lock).await && !scene.exists(&format!("{lock}:line")).await);
    // Once all is answered the tombstone goes.
    assert_eq!(scene.leave(&late, 0, 4).await, "absent");
    assert_eq!(scene.of_session(&late).await, None);
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_late_undo_makes_no_place_and_lowers_no_floor() {
    let mut scene = Scene::new().await;
    let (left, lock) = (attempt("a", false), scene.lock());
    let line = format!("{lock}:line");
    assert_eq!(scene.take(&left, 1, "enter", 1).await, "held");
    assert_eq!(scene.leave(&left, 0, 1).await, "removed");
    scene.undo(&left, 1, true, 1).await;
    assert!(!scene.exists(&line).await, "one that has left waits");
    // The undo of round 3 came before that of round 1, and bars all three.
    let waiter = attempt("a", false);
    scene.undo(&waiter, 3, false, 1).await;
    scene.undo(&waiter, 1, true, 1).await;
    for round in 1..=3 {
        assert_eq!(scene.take(&waiter, round, "enter", 1).await, "left", "round {round}");
    }
    assert_eq!(scene.take(&waiter, 4, "enter", 1).await, "held");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_late_place_does_not_take_a_later_one_back() {
    let mut scene = Scene::new().await;
    let (_holder, ..) = hold(&scene.redis, &scene.session, "a").await;
    let (waiter, lock) = (attempt("a", false), scene.lock());
    let (node, session, line) = (scene.node(), scene.session_key(), format!("{lock}:line"));
    assert_eq!(scene.take(&waiter, 1, "enter", 1).await, "taken");
    let id = waiter.id.to_string();
    for position in ["9", "8"] {
        let keys = [&*node, &*session, &*lock, &*line];
        assert_eq!(scene.run(&script!("place"), &keys, &[&id, position], 1).await, "ok");
    }
    let stands = scene.run(&script!("stand"), &[&lock, &line], &[&id, "0", "9"], 1).await;
    assert_eq!(stands, "waits");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_place_that_was_told_no_position_stands() {
    let mut scene = Scene::new().await;
    let (_holder, ..) = hold(&scene.redis, &scene.session, "a").await;
    let (waiter, lock) = (attempt("a", false), scene.lock());
    let line = format!("{lock}:line");
    assert_eq!(scene.take(&waiter, 1, "enter", 1).await, "taken");
    // Others agreed on one, and who waits asks for that.
    let id = waiter.id.to_string();
    let stands = scene.run(&script!("stand"), &[&lock, &line], &[&id, "0", "9"], 1).await;
    assert_eq!(stands, "waits");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_closed_session_is_not_brought_back() {
    let mut scene = Scene::new().await;
    let (node, session) = (scene.node(), scene.session_key());
    scene.redis.close_session(&scene.session).await.unwrap();
    let mut incarnation = redis::cmd("HGET");
    incarnation.arg(&node).arg("incarnation");
    let incarnation: String = incarnation.query_async(&mut scene.raw).await.unwrap();
    let args = [&*incarnation, "10000", "0", "namespace", "1"];
    assert_eq!(scene.run(&script!("open"), &[&node, &session], &args, 1).await, "closed");
    assert_eq!(scene.run(&script!("renew"), &[&session], &["10000"], 1).await, "ended");
    assert_eq!(scene.take(&attempt("a", true), 1, "try", 1).await, "ended");
    let refused = scene.redis.renew(&scene.session, &[]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Lost);
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_late_seed_fits_no_wipe_but_the_one_that_was_met() {
    let mut scene = Scene::new().await;
    let node = scene.node();
    let wiped = format!("{node}:wiped");
    let keys = [&*node, &*wiped];
    let wipe = async |raw: &mut MultiplexedConnection| {
        let () = redis::cmd("DEL").arg(&node).arg(&wiped).query_async(raw).await.unwrap();
    };
    wipe(&mut scene.raw).await;
    let seed = script!("seed");
    assert_eq!(scene.run(&seed, &keys, &["read", "a"], 1).await, "unseeded");
    let first = scene.nonce().await;
    // It loses everything once more, and nobody has noticed it when the first one's requests arrive.
    wipe(&mut scene.raw).await;
    for step in [
        &["propose", &first, "1f"][..],
        &["begin", &first, "1f", "5"],
        &["seed", &first, "1f", "5", "0", "0", ""],
        &["seed", &first, "1f", "5", "0", "0", ""],
    ] {
        assert_eq!(scene.run(&seed, &keys, step, 1).await, "unseeded", "{step:?}");
        assert!(!scene.exists(&node).await && !scene.exists(&wiped).await, "{step:?}");
    }
    // The first one's read is carried out again: it names another want.
    assert_eq!(scene.run(&seed, &keys, &["read", "a"], 1).await, "unseeded");
    let next = scene.nonce().await;
    assert_ne!(first, next);
    let again = ["seed", &*first, "1f", "5", "0", "0", ""];
    assert_eq!(scene.run(&seed, &keys, &again, 1).await, "unseeded");
    // Of one that was not noticed for long enough, and of one that was not proposed.
    let early = ["seed", &*next, "1f", "5", "0", "60000", ""];
    assert_eq!(scene.run(&seed, &keys, &early, 1).await, "unseeded");
    assert_eq!(scene.run(&seed, &keys, &["begin", &next, "1f", "5"], 1).await, "unseeded");
    assert_eq!(scene.run(&seed, &keys, &["propose", &next, "1f"], 1).await, "unseeded");
    assert_eq!(scene.run(&seed, &keys, &["begin", &next, "2e", "5"], 1).await, "unseeded");
    assert_eq!(scene.run(&seed, &keys, &["begin", &next, "1f", "5"], 1).await, "state");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn an_enter_that_comes_after_a_doubtful_leave_is_refused() {
    let scene = Scene::new().await;
    let (redis, session) = (&scene.redis, &scene.session);
    let late = attempt("a", false);
    redis.leave(session, &late, true).await.unwrap();
    let refused = redis.enter(session, &late).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Stale, "{refused}");
    // And one that was granted is not granted again once its entry has gone.
    let (held, entry, _) = hold(redis, session, "b").await;
    let name = &held.name;
    assert!(portunus_core::backend::LockObserver::evict(redis, name, &entry).await.unwrap());
    let refused = redis.enter(session, &held).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Stale | ErrorKind::Lost), "{refused}");
    let next = redis.enter(session, &attempt("b", true)).await.unwrap();
    assert!(matches!(next, Entered::Queued { turn: Turn::Held { .. }, .. }), "{next:?}");
    redis.close_session(session).await.unwrap();
}
