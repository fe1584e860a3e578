//! Certificates of the server and of its clients.

use std::time::Duration;

use portunus_core::backend::{LockBackend, Turn};
use portunus_core::error::{Error, ErrorKind};
use portunus_core::manager::LockManager;
use portunus_core::url::StoreUrl;
use portunus_redis::{Redis, RedisConfig};
use portunus_testkit::cluster::{self, Certificates, Tls};
use tokio::time::timeout;

use super::access::name;
use super::{hold, open};

const TTL: Duration = Duration::from_secs(10);
/// Much less than the manager would try for.
const PROMPT: Duration = Duration::from_secs(8);

fn redis(url: &str) -> Redis {
    let mut url = StoreUrl::parse(url).unwrap();
    Redis::new(RedisConfig::from_url(&mut url).unwrap()).unwrap()
}

fn ca(files: &Certificates) -> String {
    format!("ca={}", files.ca().display())
}

fn identity(files: &Certificates) -> String {
    let (cert, key) = (files.client_certificate(), files.client_key());
    format!("cert={}&key={}", cert.display(), key.display())
}

/// The error that a manager ends with which may try for `limit`.
async fn refused(url: &str, limit: Duration) -> Error {
    let opening = LockManager::builder(redis(url)).connect_timeout(limit).open();
    let opened = timeout(PROMPT, opening).await.unwrap_or_else(|_| panic!("it tries on: {url}"));
    opened.expect_err("it was let in")
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn mutual_tls_works_and_a_failed_handshake_is_denied_at_once() {
    let server = cluster::Redis::builder().tls(Tls::Mutual).start().await.unwrap();
    let stranger = cluster::Redis::builder().tls(Tls::Server).start().await.unwrap();
    let (own, other) = (server.certificates().unwrap(), stranger.certificates().unwrap());
    let (host, identities) = (server.endpoint(0), [identity(own), identity(other)]);
    let works = redis(&format!("rediss://{host}?{}&{}", ca(own), identities[0]));
    let session = open(&works, TTL).await;
    let (held, entry, _) = hold(&works, &session, "a").await;
    let turn = works.look(&session, &held, &entry).await.unwrap();
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    works.close_session(&session).await.unwrap();
    // Its certificates name 127.0.0.1 and not this one.
    let (elsewhere, _leads_to) = name("127.0.0.2:0", host.clone()).await;
    let stranger = stranger.endpoint(0);
    for (url, text) in [
        (format!("{host}?{}", ca(own)), "TLS"),
        (format!("{host}?{}&{}", ca(own), identities[1]), "TLS"),
        (format!("{host}?{}&{}", ca(other), identities[0]), "certificate"),
        (format!("{elsewhere}?{}&{}", ca(own), identities[0]), "certificate"),
        (format!("{stranger}?{}", ca(own)), "certificate"),
    ] {
        let error = refused(&format!("rediss://{url}"), TTL * 3).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{url}: {error:#}");
        assert!(format!("{error:#}").contains(text), "{url}: {error:#}");
    }
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn one_side_that_speaks_tls_alone_is_told_within_the_connect_timeout() {
    let server = cluster::Redis::builder().tls(Tls::Server).start().await.unwrap();
    let error = refused(&format!("redis://{}", server.endpoint(0)), PROMPT / 4).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    assert!(format!("{error:#}").contains("TLS"), "{error:#}");
    let plain = cluster::Redis::shared().await.unwrap();
    let ca = ca(server.certificates().unwrap());
    let error = refused(&format!("rediss://{}?{ca}", plain.endpoint(0)), PROMPT / 4).await;
    // It may take what comes for a command that is not complete yet, and answer nothing.
    assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unavailable), "{error:#}");
    assert!(format!("{error:#}").contains("TLS"), "{error:#}");
}
