//! What a user can get wrong: each is a typed error that says what was wrong and what is accepted. Nothing
//! hangs, and no password is shown. No server is needed.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::manager::LockManager;
use portunus_core::url::StoreUrl;
use portunus_redis::{Redis, RedisConfig};
use tokio::time::timeout;

/// As the facade does it.
async fn connect(url: &str) -> Result<LockManager> {
    let mut url = StoreUrl::parse(url)?;
    let redis = Redis::new(RedisConfig::from_url(&mut url)?)?;
    let builder = LockManager::builder(redis).options(&mut url)?;
    url.finish()?;
    builder.open().await
}

async fn refused(url: &str) -> Error {
    let tried = timeout(Duration::from_secs(5), connect(url)).await;
    let error = tried.unwrap_or_else(|_| panic!("hangs: {url}")).expect_err(url);
    for shown in [format!("{error}"), format!("{error:#}"), format!("{error:?}")] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    error
}

async fn assert_invalid(url: &str, words: &[&str]) {
    let error = refused(url).await;
    let text = format!("{error:#}");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{url}: {text}");
    for word in words {
        assert!(text.contains(word), "{url}: `{text}` lacks `{word}`");
    }
}

#[tokio::test]
async fn an_unknown_option_lists_the_known() {
    let known = ["`typo`", "allow_weak, ca, cert, cluster, connect_timeout", "layout", "sentinel"];
    for place in ["redis://u:s3cret@a", "redlock://u:s3cret@a,b,c"] {
        assert_invalid(&format!("{place}?typo=1"), &known).await;
    }
}

#[tokio::test]
async fn a_time_to_live_out_of_its_range() {
    for ttl in ["0s", "1ms", "499ms", "25h"] {
        let accepted = ["ttl", "accepted are 500ms to 86400s"];
        assert_invalid(&format!("redis://u:s3cret@a?ttl={ttl}"), &accepted).await;
    }
}

#[tokio::test]
async fn files_of_tls_that_cannot_be_used() {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (options, words) in [
        ("ca=/no/such/ca.pem".to_owned(), ["/no/such/ca.pem", "`ca`"]),
        (format!("ca={text}"), ["Cargo.toml", "PEM"]),
        (format!("ca={text}&cert={text}"), ["`cert`", "`key`"]),
        (format!("ca={text}&key={text}"), ["`key`", "`cert`"]),
        ("typo=1".to_owned(), ["`ca`", "TLS"]),
    ] {
        assert_invalid(&format!("rediss://u:s3cret@a?{options}"), &words).await;
        assert_invalid(&format!("redlock://u:s3cret@a,b?tls=true&{options}"), &words).await;
    }
}

/// A closed port, and one that takes the connection and never says a word.
#[tokio::test]
async fn no_server_is_an_error_within_the_connect_timeout() {
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let address = |listener: &TcpListener| -> SocketAddr { listener.local_addr().unwrap() };
    let (mute, closed) = (listen(), address(&listen()));
    let mute = address(&mute);
    for place in [
        format!("redis://u:s3cret@{closed}"),
        format!("redis://u:s3cret@{mute}"),
        format!("redlock://u:s3cret@{closed},{mute}"),
        format!("redis://u:s3cret@{closed},{mute}?sentinel=main"),
        format!("redis://u:s3cret@{mute},{closed}?cluster=true"),
    ] {
        let sign = if place.contains('?') { '&' } else { '?' };
        let error = refused(&format!("{place}{sign}connect_timeout=1s")).await;
        let text = format!("{error:#}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{place}: {text}");
        assert!(text.contains("within 1s"), "{place}: {text}");
    }
}
