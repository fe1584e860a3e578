//! Servers that are refused, credentials and rights.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Entered, LockBackend, LockObserver};
use portunus_core::error::ErrorKind;
use portunus_testkit::cluster::{self, RedisMasters};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{hold, open};
use crate::harness::{client, raw};

const TTL: Duration = Duration::from_secs(10);

/// All that a user of the library's needs; the README lists it. With `layout=plain` these are the names of
/// locks in addition.
const RULES: &str = "~portunus:* &portunus:* +info +evalsha +script|load +get +set +del +hget +hset \
    +hsetnx +hmget +hdel +hincrby +hexists +hgetall +exists +pexpire +pttl +publish +subscribe \
    +unsubscribe +ping +scan +type +time";
const PLAIN: &str = "~stock/*";

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn the_rights_that_are_listed_suffice_for_one_namespace_and_its_password() {
    let server = cluster::Redis::builder().user("locker", "s3cret", RULES).start().await.unwrap();
    suffices(&server.url(), 1).await;
    // Keys of another namespace are not its own.
    let refused = client(&server.url(), "other").open_session(TTL).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:#}");
    let wrong = server.url().replace("s3cret", "wr0ng");
    let refused = client(&wrong, "portunus").open_session(TTL).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:#}");
    assert!(!format!("{refused:?}").contains("wr0ng"), "{refused:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn the_same_rights_suffice_on_several_masters_and_for_plain_names() {
    let rules = format!("{RULES} {PLAIN}");
    let masters = RedisMasters::<3>::builder().user("locker", "s3cret", &rules);
    let masters = masters.start().await.unwrap();
    suffices(&format!("{}?layout=plain", masters.url()), 3).await;
}

async fn suffices(url: &str, masters: usize) {
    let redis = client(url, "portunus");
    let session = open(&redis, TTL).await;
    let (held, entry, _) = hold(&redis, &session, "stock/a").await;
    redis.publish(&session, &held, &entry, "10.0.0.1").await.unwrap();
    redis.renew(&session, &[Arc::new(held.clone())]).await.unwrap();
    assert_eq!(redis.contenders(&held.name).await.unwrap().len(), 1);
    if !url.contains("layout=plain") {
        let names = redis.names("", None).await.unwrap().names;
        assert_eq!(names, std::slice::from_ref(&held.name));
    }
    // Who waits is told, long before it would look by itself.
    let waiter = super::attempt("stock/a", false);
    let Entered::Queued { entry: place, turn } = redis.enter(&session, &waiter).await.unwrap()
    else {
        panic!("it is refused");
    };
    let told = redis.changed(&session, &waiter, &place, &turn);
    let (told, evicted) = tokio::join!(timeout(TTL / 2, told), redis.evict(&held.name, &entry));
    assert!(evicted.unwrap());
    told.expect("it is not told").unwrap();
    redis.leave(&session, &waiter, false).await.unwrap();
    redis.leave(&session, &held, true).await.unwrap();
    let warnings = redis.probe().await.unwrap().warnings;
    let is_expected = |told: &String| told.contains("does not tell its appendfsync");
    assert!(warnings.len() == masters && warnings.iter().all(is_expected), "{warnings:?}");
    redis.close_session(&session).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn one_server_is_not_two_and_a_replica_is_none() {
    let pair = RedisMasters::<2>::builder().start().await.unwrap();
    let port = pair.endpoint(0).rsplit_once(':').unwrap().1.to_owned();
    // By two names, so that only the server itself can tell.
    let twice = format!("redlock://127.0.0.1:{port},localhost:{port}");
    let refused = client(&twice, "twice").open_session(TTL).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused:#}");
    assert!(refused.to_string().contains("the same server"), "{refused}");
    let redis = client(&pair.url(), "even");
    let warnings = redis.probe().await.unwrap().warnings;
    assert!(warnings.iter().any(|told| told.contains("2 masters")), "{warnings:?}");
    pair.replicate(1, 0).await.unwrap();
    let replica = client(&pair.node_url(1), "replica");
    let refused = replica.open_session(TTL).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused:#}");
    assert!(format!("{refused:#}").contains("a replica"), "{refused:#}");
    let warnings = client(&pair.node_url(0), "master").probe().await.unwrap().warnings;
    assert!(warnings.iter().any(|told| told.contains("1 replicas")), "{warnings:?}");
}

/// Where the others are a majority, too: whoever names it twice may mean another one.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn one_server_by_two_names_is_refused_though_others_make_a_majority() {
    let masters = RedisMasters::<3>::builder().start().await.unwrap();
    let [one, two, three] = [0, 1, 2].map(|node| masters.endpoint(node));
    let redis = client(&masters.url(), "aliased");
    let session = open(&redis, TTL).await;
    redis.close_session(&session).await.unwrap();
    let port = one.rsplit_once(':').unwrap().1;
    let (proxied, _leads_to) = name("127.0.0.1:0", two.clone()).await;
    for hosts in [
        format!("127.0.0.1:{port},localhost:{port},{three}"),
        format!("{two},{three},{proxied}"),
        format!("{proxied},{one},{two}"),
    ] {
        let redis = client(&format!("redlock://{hosts}"), "aliased");
        // Also when it is tried again.
        for _ in 0..3 {
            let refused = redis.open_session(TTL).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{hosts}: {refused:#}");
            assert!(refused.to_string().contains("the same server"), "{hosts}: {refused}");
        }
    }
}

/// The second name leads to the first one's server while the session lives: it has one vote, not two.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_name_that_leads_to_another_master_later_is_refused() {
    let masters = RedisMasters::<3>::builder().start().await.unwrap();
    let (address, leads_to) = name("127.0.0.1:0", masters.endpoint(1)).await;
    let url = format!("redlock://{},{address},{}", masters.endpoint(0), masters.endpoint(2));
    let redis = client(&url, "moved");
    let session = open(&redis, TTL).await;
    let (held, ..) = hold(&redis, &session, "a").await;
    redis.leave(&session, &held, false).await.unwrap();
    leads_to.send_replace(masters.endpoint(0));
    // The third master has it for somebody else: two names of one server are no majority.
    let mut node = raw(masters.node_url(2)).await;
    let () = redis::cmd("SET").arg("moved:{b}").arg("x").query_async(&mut node).await.unwrap();
    for _ in 0..5 {
        let taken = super::attempt("b", true);
        let entered = redis.enter(&session, &taken).await;
        assert!(!matches!(entered, Ok(Entered::Queued { .. })), "{entered:?}");
        redis.leave(&session, &taken, true).await.unwrap();
    }
}

/// An address that leads to a server, and to another one as soon as that is sent; then the connections
/// to the first end, as they do when the sender goes.
pub(super) async fn name(at: &str, first: String) -> (SocketAddr, watch::Sender<String>) {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut leads_to) = watch::channel(first);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let to = leads_to.borrow_and_update().clone();
            let mut moved = leads_to.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = moved.changed() => {}
                }
            });
        }
    });
    (address, sender)
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_node_of_a_cluster_is_no_independent_master() {
    let server = cluster::Redis::builder().start().await.unwrap();
    let in_cluster = "redis-server --port 7000 --bind '*' --protected-mode no --save '' \
        --dir /tmp --cluster-enabled yes --daemonize yes && \
        iptables -t nat -A PREROUTING -p tcp --dport 6379 -j REDIRECT --to-ports 7000";
    let done = server.exec(0, &["sh", "-c", in_cluster]).await.unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
    let host = server.endpoint(0);
    for url in [format!("redlock://{host},127.0.0.1:1,127.0.0.1:2"), format!("redis://{host}")] {
        let opening = client(&url, "cluster");
        // Its port may not be open yet.
        super::eventually(TTL, "it is refused", async || {
            let refused = opening.open_session(TTL).await.unwrap_err();
            match refused.kind() {
                ErrorKind::Unsupported if refused.to_string().contains("a node of a cluster") => {
                    Ok(())
                }
                _ => Err(format!("{refused:#}")),
            }
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn durable_servers_are_warned_of_nothing() {
    let server = cluster::Redis::shared().await.unwrap();
    let namespace = format!("test-{:032x}", rand::random::<u128>());
    let warnings = client(&server.url(), &namespace).probe().await.unwrap().warnings;
    assert_eq!(warnings, [""; 0]);
}
