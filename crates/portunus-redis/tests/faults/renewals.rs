//! Renewals: in batches, and a single loss is told.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::LockBackend;
use portunus_core::error::ErrorKind;

use super::hold;
use crate::harness::RedisHarness;

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_renewal_extends_each_lock_and_tells_of_the_one_that_is_gone() {
    let harness = RedisHarness::open().await;
    let redis = harness.redis();
    let session = redis.open_session(TTL).await.unwrap();
    let mut held = Vec::new();
    for number in 0..250 {
        held.push(Arc::new(hold(&redis, &session, &number.to_string()).await.0));
    }
    let mut raw = harness.raw();
    let key = |number: usize| format!("{}:{{{number}}}", harness.namespace());
    for number in [7, 8] {
        let () =
            redis::cmd("PEXPIRE").arg(key(number)).arg(3_000).query_async(&mut raw).await.unwrap();
    }
    // Another client took one that an operator had deleted.
    let () = redis::cmd("SET").arg(key(120)).arg("x").query_async(&mut raw).await.unwrap();
    let () = redis::cmd("DEL").arg(key(249)).query_async(&mut raw).await.unwrap();
    let renewal = redis.renew(&session, &held).await.unwrap();
    assert_eq!(renewal.lost, [held[120].id, held[249].id]);
    let left: u64 = redis::cmd("PTTL").arg(key(7)).query_async(&mut raw).await.unwrap();
    assert!(left > 5_000, "{left}");
    let taken: i64 = redis::cmd("PTTL").arg(key(120)).query_async(&mut raw).await.unwrap();
    assert_eq!(taken, -1, "another's lock is not extended");
    redis.close_session(&session).await.unwrap();
    let refused = redis.renew(&session, &held).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Lost);
    let exists: u64 = redis::cmd("EXISTS").arg(key(120)).query_async(&mut raw).await.unwrap();
    assert_eq!(exists, 1, "another's lock is left");
}
