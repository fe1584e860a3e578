//! The namespace's slot of a cluster goes to another master.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{LockBackend, LockObserver};
use portunus_core::error::ErrorKind;
use portunus_testkit::cluster::RedisGroup;
use tokio::time::{sleep, timeout};

use crate::group::{attempt, hold, namespace};
use crate::harness::client;

const TTL: Duration = Duration::from_secs(60);

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_slot_that_moves_is_followed_and_its_locks_are_told_lost() {
    let group = RedisGroup::cluster().await.unwrap();
    let namespace = namespace();
    let redis = client(&group.url(), &namespace);
    let session = redis.open_session(TTL).await.unwrap();
    let (held, entry, _) = hold(&redis, &session, "a").await;
    let held = Arc::new(held);
    // What scripts name themselves is in the slot, too.
    let listed = redis.contenders(&held.name).await.unwrap();
    assert_eq!(listed.len(), 1);
    let (other, of_other, _) = hold(&redis, &session, "b").await;
    assert!(redis.evict(&other.name, &of_other).await.unwrap());

    let key = format!("{{{namespace}}}:node");
    let slot = group.cli(0, &["cluster", "keyslot", &key]).await.unwrap();
    let slot = slot.trim();
    let from = group.master(&key).await.unwrap();
    let to = another_master(&group, from).await;
    let name = async |server| group.cli(server, &["cluster", "myid"]).await.unwrap();
    let (of_from, of_to) = (name(from).await, name(to).await);
    let set = async |server, words: &[&str]| {
        let command = [&["cluster", "setslot", slot], words].concat();
        group.cli(server, &command).await.unwrap();
    };
    set(to, &["importing", of_from.trim()]).await;
    set(from, &["migrating", of_to.trim()]).await;
    let keys = group.cli(from, &["cluster", "getkeysinslot", slot, "1000"]).await.unwrap();
    let address = group.address(to);
    let (host, port) = address.rsplit_once(':').unwrap();
    for moved in keys.lines() {
        let migrate = ["migrate", host, port, moved, "0", "5000"];
        group.cli(from, &migrate).await.unwrap();
        // Some keys are here and some there.
        let told = redis.enter(&session, &attempt("c", true)).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Unavailable, "{told:#}");
    }
    set(to, &["node", of_to.trim()]).await;
    set(from, &["node", of_to.trim()]).await;

    let renewing = async {
        loop {
            match redis.renew(&session, &[Arc::clone(&held)]).await {
                Err(told) if told.is_retryable() => sleep(Duration::from_millis(50)).await,
                told => return told,
            }
        }
    };
    let told = timeout(TTL, renewing).await.expect("it is not followed");
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Lost);
    let next = redis.open_session(TTL).await.unwrap();
    assert_ne!(next.incarnation, session.incarnation);
    let listed = redis.contenders(&held.name).await.unwrap();
    assert_eq!(listed.iter().map(|one| &one.entry).collect::<Vec<_>>(), [&entry]);
    redis.close_session(&session).await.unwrap();
    hold(&redis, &next, "a").await;
    redis.close_session(&next).await.unwrap();
}

async fn another_master(group: &RedisGroup, from: usize) -> usize {
    for server in 0..group.servers() {
        let role = group.cli(server, &["role"]).await.unwrap();
        if server != from && role.starts_with("master") {
            return server;
        }
    }
    panic!("there is one master alone");
}
