//! Who is asked for the master, and is none who can tell it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{LockBackend, LockObserver};
use portunus_core::error::{Error, ErrorKind};
use portunus_testkit::cluster::{Redis, RedisGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::group::{hold, namespace};
use crate::harness::client;

const TTL: Duration = Duration::from_secs(10);

async fn refused(url: &str) -> Error {
    client(url, &namespace()).open_session(TTL).await.unwrap_err()
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn an_address_that_is_taken_for_another_kind_says_what_is_accepted() {
    let sentinels = RedisGroup::sentinels().await.unwrap();
    let cluster = RedisGroup::cluster().await.unwrap();
    let alone = Redis::shared().await.unwrap();
    let (url, server, node) = (sentinels.url(), sentinels.address(0), cluster.address(0));
    let first = url.split(['/', ',']).nth(2).unwrap();
    for (url, kind, text) in [
        (url.replace("=main", "=other"), ErrorKind::Invalid, "no master `other`"),
        (format!("redis://{first}"), ErrorKind::Invalid, "`sentinel=<master>`"),
        (format!("redlock://{first}"), ErrorKind::Invalid, "`sentinel=<master>`"),
        (format!("redis://{server}?sentinel=main"), ErrorKind::Invalid, "no Sentinel"),
        (format!("redis://{node}"), ErrorKind::Unsupported, "`cluster=true`"),
        (format!("redlock://{node}"), ErrorKind::Unsupported, "`cluster=true`"),
        (format!("redis://{server}?cluster=true"), ErrorKind::Invalid, "no node of a cluster"),
        (format!("redis://{}?cluster=true", alone.endpoint(0)), ErrorKind::Invalid, "no node"),
        ("redis://127.0.0.1:1?sentinel=main".to_owned(), ErrorKind::Unavailable, "`main`"),
        ("redis://127.0.0.1:1,127.0.0.1:2?cluster=true".to_owned(), ErrorKind::Unavailable, "slot"),
    ] {
        let told = refused(&url).await;
        assert_eq!(told.kind(), kind, "{url}: {told:#}");
        assert!(format!("{told:#}").contains(text), "{url}: {told:#}");
    }
    // One of them that answers is enough.
    let some = url.replacen("redis://", "redis://127.0.0.1:1,", 1);
    client(&some, &namespace()).open_session(TTL).await.unwrap();
    let some = format!("redis://127.0.0.1:1,{node}?cluster=true");
    client(&some, &namespace()).open_session(TTL).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_sentinel_that_is_behind_gives_no_replica() {
    let group = RedisGroup::sentinels().await.unwrap();
    let behind = sentinel_that_names(&group.address(1)).await;
    let told = refused(&format!("redis://{behind}?sentinel=main")).await;
    assert_eq!(told.kind(), ErrorKind::Unavailable, "{told:#}");
    assert!(format!("{told:#}").contains("is a replica"), "{told:#}");
    let url = group.url();
    let first = url.split(['/', ',']).nth(2).unwrap();
    let both = format!("redis://{behind},{first}?sentinel=main");
    client(&both, &namespace()).open_session(TTL).await.unwrap();
}

/// All that a user needs, besides the keys; the README lists it.
const RULES: &str = "+info +evalsha +script|load +get +set +del +hget +hset +hsetnx +hmget +hdel \
    +hincrby +hexists +hgetall +exists +pexpire +pttl +publish +subscribe +unsubscribe +ping +scan +type \
    +time";

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn the_login_is_for_the_servers_and_the_least_rights_suffice() {
    let of_cluster = "~{portunus}:* &{portunus}:* +cluster|keyslot +cluster|slots";
    for (group, rules) in [
        (RedisGroup::sentinels().await.unwrap(), "~portunus:* &portunus:*"),
        (RedisGroup::cluster().await.unwrap(), of_cluster),
    ] {
        let rules = format!("{rules} {RULES}");
        for server in 0..group.servers() {
            let user = ["acl", "setuser", "locker", "on", ">s3cret"];
            let user: Vec<&str> = user.into_iter().chain(rules.split_whitespace()).collect();
            group.cli(server, &user).await.unwrap();
        }
        let url = group.url().replacen("redis://", "redis://locker:s3cret@", 1);
        let redis = client(&url, "portunus");
        let session = redis.open_session(TTL).await.unwrap();
        let (held, entry, _) = hold(&redis, &session, "a").await;
        let renewed = redis.renew(&session, &[Arc::new(held.clone())]).await.unwrap();
        assert_eq!(renewed.lost, []);
        let turn = redis.look(&session, &held, &entry).await.unwrap();
        let ended = tokio::time::timeout(TTL, redis.changed(&session, &held, &entry, &turn));
        let other = client(&url, "portunus");
        let (ended, evicted) = tokio::join!(ended, other.evict(&held.name, &entry));
        assert!(evicted.unwrap());
        ended.expect("it is not told").unwrap();
        redis.close_session(&session).await.unwrap();
        let wrong = url.replace("s3cret", "wr0ng");
        let refused = client(&wrong, "portunus").open_session(TTL).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:#}");
        assert!(!format!("{refused:?}").contains("wr0ng"), "{refused:?}");
    }
}

/// Answers every question with one address.
async fn sentinel_that_names(server: &str) -> SocketAddr {
    let (host, port) = server.rsplit_once(':').unwrap();
    let named = format!("*2\r\n${}\r\n{host}\r\n${}\r\n{port}\r\n", host.len(), port.len());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let named = named.clone();
            tokio::spawn(async move {
                let (mut heard, mut answered) = (String::new(), 0);
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
                    // Each request is a list; what a client says of itself is answered, too.
                    let requests: Vec<&str> = heard.split('*').skip(1).collect();
                    for request in &requests[answered..] {
                        let is_asked = request.contains("SENTINEL");
                        let answer = if is_asked { named.as_str() } else { "+OK\r\n" };
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                    answered = requests.len();
                }
            });
        }
    });
    address
}
