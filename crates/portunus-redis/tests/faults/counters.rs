//! A counter that is gone: fails closed, and the tokens of the next life are of another origin.

use std::time::Duration;

use portunus_core::backend::LockBackend;
use portunus_core::error::ErrorKind;
use portunus_testkit::cluster::RedisMasters;

use super::{attempt, hold, namespace, open};
use crate::harness::{RedisHarness, client, raw};

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn without_its_counter_a_server_gives_no_token_and_begins_another_life() {
    let harness = RedisHarness::open().await;
    let redis = harness.redis();
    let session = open(&redis, TTL).await;
    hold(&redis, &session, "a").await;
    let node = format!("{}:node", harness.namespace());
    let mut raw = harness.raw();
    let () = redis::cmd("DEL").arg(&node).query_async(&mut raw).await.unwrap();
    let refused = redis.enter(&session, &attempt("b", true)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Regression, "{refused}");
    let other = harness.redis();
    let next = open(&other, TTL).await;
    assert_ne!(next.incarnation, session.incarnation);
    hold(&other, &next, "b").await;
    // The old session is of the old life.
    let refused = redis.enter(&session, &attempt("c", true)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Regression, "{refused}");
    for (redis, session) in [(&redis, &session), (&other, &next)] {
        redis.close_session(session).await.unwrap();
    }
}

/// Neither is one that makes no sense a vote, nor does it keep out the majority that does.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_garbled_master_has_no_vote_and_a_majority_goes_on() {
    for field in ["counter", "longest"] {
        let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
        let namespace = namespace();
        let redis = client(&masters.url(), &namespace);
        let session = open(&redis, TTL).await;
        let garble = async |node: usize| {
            let mut raw = raw(masters.node_url(node)).await;
            let mut set = redis::cmd("HSET");
            set.arg(format!("{namespace}:node")).arg(field).arg("x");
            let () = set.query_async(&mut raw).await.unwrap();
        };
        garble(0).await;
        let next = open(&redis, TTL).await;
        assert_eq!(next.incarnation, session.incarnation, "{field}");
        hold(&redis, &next, "a").await;
        garble(1).await;
        let refused = redis.open_session(TTL).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Protocol, "{field}: {refused:#}");
    }
}
