//! What the suite can't do: other clients, refused servers, and servers that fail.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

#[path = "../harness/mod.rs"]
mod harness;

mod access;
mod clocks;
mod counters;
mod interop;
mod masters;
mod renewals;

use std::sync::Arc;

use portunus_core::backend::{
    Attempt, AttemptId, Entered, EntryId, LockBackend, Mode, Session, Turn,
};
use portunus_core::name::LockName;
use portunus_redis::Redis;

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

/// Takes a lock that is free.
async fn hold(redis: &Redis, session: &Session, name: &str) -> (Attempt, EntryId, u64) {
    let attempt = attempt(name, true);
    match redis.enter(session, &attempt).await.unwrap() {
        Entered::Queued { entry, turn: Turn::Held { token, .. } } => (attempt, entry, token),
        other => panic!("not held: {other:?}"),
    }
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
