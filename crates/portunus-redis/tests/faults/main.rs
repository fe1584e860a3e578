//! What the suite can't do: other clients, refused servers, and servers that fail.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

#[path = "../harness/mod.rs"]
mod harness;

mod access;
mod cleanup;
mod clocks;
mod counters;
mod delays;
mod forgotten;
mod interop;
mod late;
mod layouts;
mod masters;
mod probe;
mod renewals;
mod strays;
mod tls;
mod votes;
mod wakeups;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{
    Attempt, AttemptId, Entered, EntryId, LockBackend, Mode, Session, Turn,
};
use portunus_core::name::LockName;
use portunus_redis::Redis;
use portunus_testkit::cluster::RedisMasters;
use tokio::time::timeout;

use crate::harness::raw;

fn namespace() -> String {
    format!("test-{:032x}", rand::random::<u128>())
}

fn attempt(name: &str, try_only: bool) -> Attempt {
    Attempt {
        id: AttemptId(rand::random()),
        name: LockName::new(name).unwrap(),
        mode: Mode::Exclusive,
        try_only,
        value: String::new(),
        holder: Arc::default(),
    }
}

/// Opens a session as the engine does: a busy machine may take longer than one try allows.
async fn open(redis: &Redis, ttl: Duration) -> Session {
    let opening = async {
        loop {
            match redis.open_session(ttl).await {
                Err(error) if error.is_retryable() => {}
                opened => return opened.unwrap(),
            }
        }
    };
    timeout(PATIENCE, opening).await.expect("no session is opened")
}

/// Takes a lock that is free.
async fn hold(redis: &Redis, session: &Session, name: &str) -> (Attempt, EntryId, u64) {
    let attempt = attempt(name, true);
    match redis.enter(session, &attempt).await.unwrap() {
        Entered::Queued { entry, turn: Turn::Held { token, .. } } => (attempt, entry, token),
        other => panic!("not held: {other:?}"),
    }
}

/// Takes a lock that is free on all servers: for a grant a majority is enough.
async fn hold_on_all<const N: usize>(
    masters: &RedisMasters<N>,
    namespace: &str,
    (redis, session): (&Redis, &Session),
    name: &str,
) -> (Attempt, EntryId, u64) {
    let key = format!("{namespace}:{{{name}}}");
    let stand = async || {
        for node in 0..N {
            while !exists(masters, node, &key).await {}
        }
    };
    loop {
        let taken = hold(redis, session, name).await;
        // One that was not connected to in time was not asked, and will be the next time.
        if timeout(Duration::from_secs(5), stand()).await.is_ok() {
            return taken;
        }
        redis.leave(session, &taken.0, false).await.unwrap();
    }
}

async fn exists<const N: usize>(masters: &RedisMasters<N>, node: usize, key: &str) -> bool {
    let mut raw = raw(masters.node_url(node)).await;
    redis::cmd("EXISTS").arg(key).query_async(&mut raw).await.unwrap()
}

async fn is_taken(redis: &Redis, session: &Session, name: &str) -> bool {
    let attempt = attempt(name, true);
    let entered = redis.enter(session, &attempt).await.unwrap();
    if entered == Entered::Refused {
        return true;
    }
    redis.leave(session, &attempt, false).await.unwrap();
    false
}

/// Asks again and again until the answer is `Ok`; fails with the last `Err` after `limit`.
async fn eventually<E: Debug>(limit: Duration, what: &str, ask: impl AsyncFn() -> Result<(), E>) {
    let began = tokio::time::Instant::now();
    loop {
        match ask().await {
            Ok(()) => return,
            Err(last) if began.elapsed() > limit => panic!("not in time: {what}: {last:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
