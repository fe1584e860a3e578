//! A counter that is gone: fails closed, and the tokens of the next life are of another origin.

use std::time::Duration;

use portunus_core::backend::LockBackend;
use portunus_core::error::ErrorKind;

use super::{attempt, hold};
use crate::harness::RedisHarness;

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn without_its_counter_a_server_gives_no_token_and_begins_another_life() {
    let harness = RedisHarness::open().await;
    let redis = harness.redis();
    let session = redis.open_session(TTL).await.unwrap();
    hold(&redis, &session, "a").await;
    let node = format!("{}:node", harness.namespace());
    let mut raw = harness.raw();
    let () = redis::cmd("DEL").arg(&node).query_async(&mut raw).await.unwrap();
    let refused = redis.enter(&session, &attempt("b", true)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Regression, "{refused}");
    let other = harness.redis();
    let next = other.open_session(TTL).await.unwrap();
    assert_ne!(next.incarnation, session.incarnation);
    hold(&other, &next, "b").await;
    // The old session is of the old life.
    let refused = redis.enter(&session, &attempt("c", true)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Regression, "{refused}");
    for (redis, session) in [(&redis, &session), (&other, &next)] {
        redis.close_session(session).await.unwrap();
    }
}
