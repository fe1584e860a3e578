//! Votes that are split among those who contend, with one master away.

use std::time::Duration;

use portunus_core::backend::{Entered, LockBackend, Turn};
use portunus_core::error::ErrorKind;
use portunus_testkit::cluster::RedisMasters;
use tokio::time::timeout;

use super::{attempt, namespace, open};
use crate::harness::{client, raw};

const TTL: Duration = Duration::from_secs(60);

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn who_meets_a_round_that_nobody_confirmed_pauses_though_it_may_have_a_majority() {
    let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
    let namespace = namespace();
    let redis = client(&masters.url(), &namespace);
    let session = open(&redis, TTL).await;
    masters.kill(2).await.unwrap();
    let mut second = raw(masters.node_url(1)).await;
    for (name, token, is_split) in [("a", 0, true), ("b", 7, false)] {
        // Another client was first on the second master: in a round that is open, or as the one who holds.
        let other = format!("{:032x}:1:{:032x}:0:7:{token}:0:{{}}", 1, 2);
        let mut set = redis::cmd("SET");
        set.arg(format!("{namespace}:{{{name}}}")).arg(other).arg("PX").arg(20_000);
        let () = set.query_async(&mut second).await.unwrap();
        let contends = attempt(name, false);
        let entered = redis.enter(&session, &contends).await.unwrap();
        let Entered::Queued { entry, turn: turn @ Turn::Waiting { .. } } = entered else {
            panic!("{name}: {entered:?}");
        };
        let told = redis.changed(&session, &contends, &entry, &turn);
        match timeout(TTL / 60, told).await {
            Ok(told) => assert!(
                is_split && told.is_err_and(|told| told.kind() == ErrorKind::Unavailable),
                "{name}: it does not wait"
            ),
            Err(_) => assert!(!is_split, "{name}: it waits for one who may hold nothing"),
        }
    }
}
