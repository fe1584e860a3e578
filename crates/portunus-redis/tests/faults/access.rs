//! Servers that are refused, credentials, TLS, and what the servers are warned of.

use std::time::Duration;

use portunus_core::backend::{LockBackend, LockObserver};
use portunus_core::error::ErrorKind;
use portunus_core::url::StoreUrl;
use portunus_redis::{Redis, RedisConfig};
use portunus_testkit::cluster::{self, RedisMasters};

use super::{hold, is_taken};
use crate::harness::client;

const TTL: Duration = Duration::from_secs(10);

/// All that a user of the library's needs; the README lists it.
const RULES: &str = "~portunus:* &portunus:* +info +evalsha +eval +script|load +get +set +del +hget \
    +hset +hsetnx +hmget +hdel +hincrby +hexists +hgetall +exists +pexpire +pttl +publish +subscribe \
    +unsubscribe +scan +type +time";

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn the_least_rights_suffice_and_fewer_are_refused() {
    let server = cluster::Redis::builder().user("locker", "s3cret", RULES).start().await.unwrap();
    let redis = client(&server.url(), "portunus");
    let session = redis.open_session(TTL).await.unwrap();
    let (held, ..) = hold(&redis, &session, "a").await;
    assert!(is_taken(&redis, &session, "a").await);
    redis.renew(&session, &[std::sync::Arc::new(held.clone())]).await.unwrap();
    assert_eq!(redis.contenders(&held.name).await.unwrap().len(), 1);
    let names = redis.names("", None).await.unwrap().names;
    assert_eq!(names, std::slice::from_ref(&held.name));
    let warnings = redis.probe().await.unwrap().warnings;
    assert!(warnings[0].contains("does not tell its appendfsync"), "{warnings:?}");
    redis.leave(&session, &held, true).await.unwrap();
    redis.close_session(&session).await.unwrap();
    // Keys of another namespace are not its own.
    let refused = client(&server.url(), "other").open_session(TTL).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:#}");
    let wrong = server.url().replace("s3cret", "wr0ng");
    let refused = client(&wrong, "portunus").open_session(TTL).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:#}");
    assert!(!format!("{refused:?}").contains("wr0ng"), "{refused:?}");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn one_server_is_not_two_and_a_replica_is_none() {
    let pair = RedisMasters::<2>::builder().start().await.unwrap();
    let port = pair.endpoint(0).rsplit_once(':').unwrap().1.to_owned();
    let twice = format!("redlock://{},localhost:{port}", pair.endpoint(0));
    if pair.endpoint(0) != format!("localhost:{port}") {
        let refused = client(&twice, "twice").open_session(TTL).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused:#}");
        assert!(refused.to_string().contains("the same server"), "{refused}");
    }
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

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn durable_servers_are_warned_of_nothing() {
    let server = cluster::Redis::shared().await.unwrap();
    let namespace = format!("test-{:032x}", rand::random::<u128>());
    let warnings = client(&server.url(), &namespace).probe().await.unwrap().warnings;
    assert_eq!(warnings, [""; 0]);
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn mutual_tls_works_and_without_a_certificate_nothing_does() {
    let server = cluster::Redis::builder().tls(cluster::Tls::Mutual).start().await.unwrap();
    let certificates = server.certificates().unwrap();
    let (ca, cert, key) =
        (certificates.ca(), certificates.client_certificate(), certificates.client_key());
    let host = server.endpoint(0);
    let open = |options: String| {
        let mut url = StoreUrl::parse(&format!("rediss://{host}?{options}")).unwrap();
        Redis::new(RedisConfig::from_url(&mut url).unwrap()).unwrap()
    };
    let (ca, cert, key) = (ca.display(), cert.display(), key.display());
    let redis = open(format!("ca={ca}&cert={cert}&key={key}"));
    let session = redis.open_session(TTL).await.unwrap();
    let (held, entry, _) = hold(&redis, &session, "a").await;
    let turn = redis.look(&session, &held, &entry).await.unwrap();
    assert!(matches!(turn, portunus_core::backend::Turn::Held { .. }));
    redis.close_session(&session).await.unwrap();
    open(format!("ca={ca}")).open_session(TTL).await.unwrap_err();
}
