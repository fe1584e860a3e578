//! Users, passwords and tokens that expire.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod harness;

use std::time::Duration;

use harness::scene::{LONG, PATIENCE, PROMPT, empty, eventually, within};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::manager::LockManager;
use portunus_core::url::StoreUrl;
use portunus_etcd::{Etcd, EtcdConfig};
use portunus_testkit::cluster::{self, Auth, Token};

const TOKEN_LIFE: Duration = Duration::from_secs(5);

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn locks_outlive_simple_tokens() {
    outlives(Token::Simple { ttl: TOKEN_LIFE }).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn locks_outlive_signed_tokens() {
    outlives(Token::Jwt { ttl: TOKEN_LIFE }).await;
}

async fn outlives(token: Token) {
    let etcd = cluster::Etcd::builder().auth(Auth::new("c0rrect").token(token));
    let etcd = etcd.start().await.unwrap();
    // Renewals come each 7 s: every connection is left alone for longer than a token lives.
    let manager = connect(&etcd, "root:c0rrect", "ttl=21s").await.unwrap();
    let guard = manager.lock("kept").unwrap().acquire().await.unwrap();
    let waiter = {
        let other = connect(&etcd, "root:c0rrect", "ttl=21s").await.unwrap();
        let lock = other.lock("kept").unwrap();
        tokio::spawn(async move { (lock.acquire().await, other) })
    };
    for _ in 0..2 {
        tokio::time::sleep(TOKEN_LIFE + Duration::from_secs(1)).await;
        assert!(guard.is_held());
        cycle(&manager).await;
    }
    // The store of users moves on, and every token with it is old.
    etcd.etcdctl(0, &["user", "add", "somebody:else"]).await.unwrap();
    cycle(&manager).await;
    let renewals = manager.stats().renewals;
    eventually(PATIENCE, "renewals go on", async || match manager.stats() {
        stats if stats.renewals > renewals => Ok(()),
        stats => Err(stats),
    })
    .await;
    assert!(guard.is_held() && !manager.stats().suspended);
    guard.release().await.unwrap();
    let (guard, other) = within(PROMPT, "the waiter is served", waiter).await.unwrap();
    guard.unwrap().release().await.unwrap();
    for manager in [manager, other] {
        manager.shutdown(PROMPT).await.unwrap();
    }
    empty(&etcd).await;
}

async fn cycle(manager: &LockManager) {
    let lock = manager.lock("other").unwrap();
    let guard = within(PROMPT, "another is acquired", lock.acquire()).await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn what_is_not_permitted_is_denied_at_once() {
    let etcd = cluster::Etcd::builder().auth(Auth::new("c0rrect")).start().await.unwrap();
    for login in ["root:s3cret", "nobody:s3cret"] {
        denied(within(PROMPT, login, connect(&etcd, login, "ttl=30s")).await.unwrap_err());
    }
    // A user, but without a role; then with one for another namespace.
    etcd.etcdctl(0, &["user", "add", "guest:s3cret"]).await.unwrap();
    let connecting = connect(&etcd, "guest:s3cret", "ttl=30s");
    denied(within(PROMPT, "a user without a role", connecting).await.unwrap_err());
    etcd.etcdctl(0, &["role", "add", "shop"]).await.unwrap();
    let grant = ["role", "grant-permission", "shop", "--prefix=true", "readwrite", "shop/"];
    etcd.etcdctl(0, &grant).await.unwrap();
    etcd.etcdctl(0, &["user", "grant-role", "guest", "shop"]).await.unwrap();
    let connecting = connect(&etcd, "guest:s3cret", "ttl=30s");
    denied(within(PROMPT, "another namespace", connecting).await.unwrap_err());
    let manager = connect(&etcd, "guest:s3cret", "ttl=30s&namespace=shop").await.unwrap();
    cycle(&manager).await;
    // What was permitted is so no more.
    etcd.etcdctl(0, &["user", "revoke-role", "guest", "shop"]).await.unwrap();
    let lock = manager.lock("a").unwrap();
    denied(within(PROMPT, "revoked", lock.acquire()).await.unwrap_err());
    etcd.etcdctl(0, &["user", "grant-role", "guest", "shop"]).await.unwrap();
    cycle(&manager).await;
    manager.shutdown(PROMPT).await.unwrap();
    let unauthenticated = StoreUrl::parse(&format!("etcd://{}", etcd.endpoints().join(",")));
    denied(within(PROMPT, "no login", open(unauthenticated.unwrap())).await.unwrap_err());
    empty(&etcd).await;
}

fn denied(error: Error) {
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    for shown in [format!("{error}"), format!("{error:#}"), format!("{error:?}")] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

async fn connect(etcd: &cluster::Etcd, login: &str, options: &str) -> Result<LockManager> {
    let hosts = etcd.endpoints().join(",");
    open(StoreUrl::parse(&format!("etcd://{login}@{hosts}?{options}"))?).await
}

async fn open(mut url: StoreUrl) -> Result<LockManager> {
    let backend = Etcd::new(EtcdConfig::from_url(&mut url)?)?;
    let manager = LockManager::builder(backend).ttl(LONG).options(&mut url)?.open().await;
    url.finish()?;
    manager
}
