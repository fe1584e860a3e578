//! Other clients on the same key: each excludes the other.

use std::time::Duration;

use portunus_core::backend::{Attempt, Entered, EntryId, LockBackend, LockObserver, Session, Turn};
use portunus_core::error::ErrorKind;
use portunus_core::url::StoreUrl;
use portunus_redis::{Layout, Redis, RedisConfig};
use portunus_testkit::cluster;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::{attempt, hold, is_taken};
use crate::harness::{RedisHarness, raw};

const TTL: Duration = Duration::from_secs(10);

/// As `SET key value NX PX ttl` by hand, redis-py's `Lock.acquire` and redsync send it.
async fn foreign_set(raw: &mut MultiplexedConnection, key: &str) -> bool {
    let mut set = redis::cmd("SET");
    set.arg(key).arg("7e8f1c0a9b").arg("NX").arg("PX").arg(10_000);
    set.query_async::<Option<String>>(raw).await.unwrap().is_some()
}

async fn plain() -> (cluster::Access<cluster::Redis>, Redis, MultiplexedConnection) {
    let access = cluster::Redis::shared().await.unwrap();
    let mut url = StoreUrl::parse(&access.url()).unwrap();
    let config = RedisConfig::from_url(&mut url).unwrap().layout(Layout::Plain);
    let config = config.namespace(format!("test-{:032x}", rand::random::<u128>())).unwrap();
    let raw = raw(access.url()).await;
    (access, Redis::new(config).unwrap(), raw)
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_set_nx_px_on_the_same_key_excludes_ours_and_the_reverse() {
    let (_access, redis, mut raw) = plain().await;
    let session = redis.open_session(TTL).await.unwrap();
    let name = format!("stock/{:x}", rand::random::<u64>());
    assert!(foreign_set(&mut raw, &name).await);
    assert!(is_taken(&redis, &session, &name).await);
    let listed = redis.contenders(&attempt(&name, true).name).await.unwrap();
    assert_eq!((listed.len(), &*listed[0].record.value), (1, "7e8f1c0a9b"));
    // One who waits gets it when the other goes, who tells nobody.
    let waiter = attempt(&name, false);
    let entered = redis.enter(&session, &waiter).await.unwrap();
    let Entered::Queued { entry, turn } = entered else { panic!("{entered:?}") };
    let () = redis::cmd("DEL").arg(&name).query_async(&mut raw).await.unwrap();
    wait(&redis, &session, &waiter, &entry, turn).await;
    assert!(!foreign_set(&mut raw, &name).await, "ours excludes it");
    redis.leave(&session, &waiter, false).await.unwrap();
    assert!(foreign_set(&mut raw, &name).await);
    // An operator may remove it, as it is listed.
    let holder = redis.contenders(&waiter.name).await.unwrap().remove(0);
    assert!(redis.evict(&waiter.name, &holder.entry).await.unwrap());
    assert!(!is_taken(&redis, &session, &name).await);
    redis.close_session(&session).await.unwrap();
}

/// Looks until it holds, as the engine does for one who waits.
async fn wait(redis: &Redis, session: &Session, waiter: &Attempt, entry: &EntryId, turn: Turn) {
    let mut turn = turn;
    while let Turn::Waiting { .. } = turn {
        redis.changed(session, waiter, entry, &turn).await.unwrap();
        turn = redis.look(session, waiter, entry).await.unwrap();
    }
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn an_empty_value_holds_as_any_other() {
    let (_access, redis, mut raw) = plain().await;
    let session = redis.open_session(TTL).await.unwrap();
    let name = format!("stock/{:x}", rand::random::<u64>());
    let mut set = redis::cmd("SET");
    let () = set.arg(&name).arg("").arg("PX").arg(60_000).query_async(&mut raw).await.unwrap();
    assert!(is_taken(&redis, &session, &name).await);
    let waiter = attempt(&name, false);
    let entered = redis.enter(&session, &waiter).await.unwrap();
    let Entered::Queued { entry, turn } = entered else { panic!("{entered:?}") };
    // Who waits looks now and then; a lock that is held for free would be looked at all the time.
    let mut looks = 0;
    let waits = async {
        loop {
            redis.changed(&session, &waiter, &entry, &turn).await.unwrap();
            looks += 1;
        }
    };
    assert!(timeout(BRIEF, waits).await.is_err());
    assert!(looks <= 4, "it looked {looks} times");
    let listed = redis.contenders(&waiter.name).await.unwrap();
    assert!(listed[0].holds && listed[0].entry.key.is_empty(), "{listed:?}");
    assert!(redis.evict(&waiter.name, &listed[0].entry).await.unwrap());
    wait(&redis, &session, &waiter, &entry, turn).await;
    redis.close_session(&session).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn the_lock_of_redis_py_excludes_ours_and_the_reverse() {
    let (access, redis, _) = plain().await;
    let session = redis.open_session(Duration::from_secs(60)).await.unwrap();
    let name = format!("stock/{:x}", rand::random::<u64>());
    let (ours, _, token) = hold(&redis, &session, &name).await;
    let python = async || access.spawn_python(0, REDIS_PY, &[&name]).await.unwrap();
    let mut theirs = python().await;
    assert_eq!(theirs.line().await.unwrap(), "taken");
    assert!(timeout(BRIEF, theirs.line()).await.is_err(), "two hold");
    redis.leave(&session, &ours, false).await.unwrap();
    assert_eq!(theirs.line().await.unwrap(), "in");

    // Theirs is released: they compare the value that they wrote.
    assert!(is_taken(&redis, &session, &name).await);
    let waiter = attempt(&name, false);
    let entered = redis.enter(&session, &waiter).await.unwrap();
    let Entered::Queued { entry, turn } = entered else { panic!("{entered:?}") };
    let waits = wait(&redis, &session, &waiter, &entry, turn.clone());
    assert!(timeout(BRIEF, waits).await.is_err(), "two hold");
    theirs.signal("TERM").await.unwrap();
    assert_eq!(theirs.output().await.unwrap().code, Some(0));
    wait(&redis, &session, &waiter, &entry, turn).await;
    redis.leave(&session, &waiter, false).await.unwrap();

    // Theirs dies, and expires.
    let mut theirs = python().await;
    assert_eq!(theirs.line().await.unwrap(), "in");
    theirs.signal("KILL").await.unwrap();
    let waiter = attempt(&name, false);
    let entered = redis.enter(&session, &waiter).await.unwrap();
    let Entered::Queued { entry, turn } = entered else { panic!("{entered:?}") };
    assert!(matches!(turn, Turn::Waiting { .. }), "{turn:?}");
    wait(&redis, &session, &waiter, &entry, turn).await;
    redis.leave(&session, &waiter, false).await.unwrap();
    assert!(hold(&redis, &session, &name).await.2 > token);
    redis.close_session(&session).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn the_scripts_of_redis_py_touch_nothing_of_ours() {
    // `Lock.LUA_RELEASE_SCRIPT` and `LUA_EXTEND_SCRIPT` of redis-py compare the whole value.
    const RELEASE: &str = "local token = redis.call('get', KEYS[1]) \
        if not token or token ~= ARGV[1] then return 0 end redis.call('del', KEYS[1]) return 1";
    let (_access, redis, mut raw) = plain().await;
    let session = redis.open_session(TTL).await.unwrap();
    let name = format!("stock/{:x}", rand::random::<u64>());
    let (held, entry, _) = hold(&redis, &session, &name).await;
    let script = redis::Script::new(RELEASE);
    let mut release = script.key(&name);
    let released: i64 = release.arg("7e8f1c0a9b").invoke_async(&mut raw).await.unwrap();
    assert_eq!(released, 0);
    let turn = redis.look(&session, &held, &entry).await.unwrap();
    assert!(matches!(turn, Turn::Held { .. }));
    redis.close_session(&session).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_key_of_another_type_is_a_conflict_and_left_alone() {
    let harness = RedisHarness::open().await;
    let redis = harness.redis();
    let session = redis.open_session(TTL).await.unwrap();
    let key = format!("{}:{{a}}", harness.namespace());
    let mut raw = harness.raw();
    let () = redis::cmd("LPUSH").arg(&key).arg("x").query_async(&mut raw).await.unwrap();
    for try_only in [false, true] {
        let refused = redis.enter(&session, &attempt("a", try_only)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
        assert!(refused.to_string().contains("list"), "{refused}");
    }
    let length: u64 = redis::cmd("LLEN").arg(&key).query_async(&mut raw).await.unwrap();
    assert_eq!(length, 1);
    redis.close_session(&session).await.unwrap();
}

/// Takes the lock by redis-py's `Lock`, first without waiting; releases it after SIGTERM.
const REDIS_PY: &str = r#"
import signal, sys
from redis import Redis
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
lock = Redis().lock(sys.argv[1], timeout=5, sleep=0.02)
if not lock.acquire(blocking=False):
    print("taken")
    lock.acquire()
print("in")
while signal.sigtimedwait([signal.SIGTERM], 1) is None:
    lock.reacquire()
lock.release()
"#;
/// Long enough for one who does not respect the other to be in.
const BRIEF: Duration = Duration::from_millis(700);
