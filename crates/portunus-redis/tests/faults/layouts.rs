//! Two ways to call the key of a lock: they do not exclude each other, so one namespace has one of them.

use std::time::Duration;

use portunus_core::backend::LockBackend;
use portunus_core::error::ErrorKind;
use portunus_core::url::StoreUrl;
use portunus_redis::{Layout, Redis, RedisConfig};
use portunus_testkit::cluster::{self, RedisMasters};

use super::{attempt, eventually, hold, namespace};
use crate::harness::raw;

const TTL: Duration = Duration::from_secs(10);

fn client(url: &str, namespace: &str, layout: Layout) -> Redis {
    let mut url = StoreUrl::parse(url).unwrap();
    let config = RedisConfig::from_url(&mut url).unwrap().namespace(namespace).unwrap();
    Redis::new(config.layout(layout)).unwrap()
}

async fn one_refuses_the_other(url: &str) {
    for (first, second) in [(Layout::Plain, Layout::Namespace), (Layout::Namespace, Layout::Plain)]
    {
        let namespace = namespace();
        let redis = client(url, &namespace, first);
        let session = redis.open_session(TTL).await.unwrap();
        let other = client(url, &namespace, second);
        let refused = other.open_session(TTL).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused:#}");
        assert!(refused.to_string().contains("`layout="), "{refused}");
        hold(&redis, &session, &namespace).await;
        redis.close_session(&session).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_namespace_has_one_layout_on_one_server() {
    one_refuses_the_other(&cluster::Redis::shared().await.unwrap().url()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_namespace_has_one_layout_on_several_masters() {
    one_refuses_the_other(&RedisMasters::<5>::shared().await.unwrap().url()).await;
}

/// One holds a lock on a master of its own, the other on the majority of the rest.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_namespace_has_one_number_of_masters() {
    let masters = RedisMasters::<5>::shared().await.unwrap();
    let namespace = namespace();
    let several = client(&masters.url(), &namespace, Layout::Namespace);
    let session = several.open_session(TTL).await.unwrap();
    let first = masters.url().replace("redlock://", "redis://");
    let first = first.split(',').next().unwrap();
    let refused = client(first, &namespace, Layout::Namespace).open_session(TTL).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused:#}");
    assert!(refused.to_string().contains("on 5 master(s)"), "{refused}");
    several.close_session(&session).await.unwrap();
}

/// Whoever seeds it: also a client that the others refuse for its own layout.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_master_that_is_seeded_again_has_the_layout_of_the_others() {
    let masters = RedisMasters::<5>::shared().await.unwrap();
    let (namespace, brief) = (namespace(), TTL / 10);
    let several = client(&masters.url(), &namespace, Layout::Namespace);
    let session = several.open_session(brief).await.unwrap();
    several.close_session(&session).await.unwrap();
    let (node, first) = (format!("{namespace}:node"), raw(masters.node_url(0)).await);
    let () = redis::cmd("DEL").arg(&node).query_async(&mut first.clone()).await.unwrap();
    let plain = client(&masters.url(), &namespace, Layout::Plain);
    eventually(TTL, "it is seeded again", async || {
        let refused = plain.open_session(brief).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused:#}");
        let mut seeded = redis::cmd("HGET");
        let seeded = seeded.arg(&node).arg("incarnation").query_async(&mut first.clone()).await;
        seeded.unwrap_or(None::<String>).map(drop).ok_or("it has no life")
    })
    .await;
    let mut layout = redis::cmd("HGET");
    layout.arg(&node).arg("layout");
    let layout: String = layout.query_async(&mut first.clone()).await.unwrap();
    assert_eq!(layout, "namespace/5");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_plain_name_is_no_key_of_our_own() {
    let access = cluster::Redis::shared().await.unwrap();
    let namespace = namespace();
    let redis = client(&access.url(), &namespace, Layout::Plain);
    let session = redis.open_session(TTL).await.unwrap();
    for name in ["node", "node:wiped", "{a}", "{a}:line", "session:1"] {
        let taken = attempt(&format!("{namespace}:{name}"), true);
        let refused = redis.enter(&session, &taken).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused:#}");
    }
    hold(&redis, &session, &format!("{namespace}-node")).await;
    redis.close_session(&session).await.unwrap();
}
