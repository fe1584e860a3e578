//! The story of a fail-over that loses the lock: a replica is promoted that lacks the last grants. Two believe for
//! a while, and what they write is in order all the same.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use portunus::{ErrorKind, LossReason};
use portunus_fence::{Fence, MemoryFence};
use portunus_testkit::cluster::RedisMasters;
use std::time::Duration;
use tokio::time::timeout;

const TTL: Duration = Duration::from_secs(15);

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn who_got_the_lock_by_a_fail_over_writes_nothing_below_what_was_written() {
    let pair = RedisMasters::<2>::builder().start().await.unwrap();
    let url = |node| format!("{}?ttl=15s&allow_weak=true", pair.node_url(node));
    let (fence, shelf) = (MemoryFence::new(), "shelf");
    let first = portunus::connect(url(0)).await.unwrap();
    let lock = first.lock("stock").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    pair.replicate(1, 0).await.unwrap();
    // From here on the replica hears of nothing, and nobody is told.
    let deaf = pair.exec(1, &["redis-cli", "replicaof", "127.0.0.1", "1"]).await.unwrap();
    assert_eq!(deaf.code, Some(0), "{deaf:?}");
    for _ in 0..2 {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    let held = lock.acquire().await.unwrap();
    fence.open(shelf, &held.token()).await.unwrap();
    fence.admit(shelf, &held.token(), b"7 left").await.unwrap();
    pair.kill(0).await.unwrap();
    pair.promote(1).await.unwrap();

    // It has the life and an old counter, and knows of no holder.
    let second = portunus::connect(url(1)).await.unwrap();
    let lock = second.lock("stock").unwrap();
    let early = lock.acquire().await.unwrap();
    assert!(held.is_held() && early.is_held(), "two believe: it is what weak means");
    assert!(early.token() < held.token(), "{:?} after {:?}", early.token(), held.token());
    let refused = fence.open(shelf, &early.token()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Stale, "{refused}");
    early.release().await.unwrap();

    // The first one is told by its own clock, for its server is gone.
    let reason = timeout(TTL, held.lost()).await.expect("the loss is not told");
    assert_eq!(reason, LossReason::Expired);
    assert!(!held.is_held());

    // Tokens grow again, and as soon as one is above all, the first one's write that was on its way is late.
    let mut written = None;
    for _ in 0..4 {
        if written.is_some() {
            break;
        }
        let guard = lock.acquire().await.unwrap();
        match fence.open(shelf, &guard.token()).await {
            // The same number was given twice, and passes: no fence tells such two apart.
            Ok(_) if guard.token() == held.token() => {}
            Ok(read) => {
                assert_eq!(read.as_deref(), Some(&b"7 left"[..]));
                fence.admit(shelf, &guard.token(), b"6 left").await.unwrap();
                written = Some(guard.token());
            }
            Err(refused) => assert_eq!(refused.kind(), ErrorKind::Stale, "{refused}"),
        }
        guard.release().await.unwrap();
    }
    assert!(written.expect("no token is above") > held.token());
    let late = fence.admit(shelf, &held.token(), b"5 left").await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Stale, "{late}");
    second.shutdown(TTL).await.unwrap();
    drop(first);
}
