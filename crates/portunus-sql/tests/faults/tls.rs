//! Certificates of the server and of its clients.

use portunus_core::error::{Error, ErrorKind};
use portunus_testkit::cluster::{Certificates, Cluster, MariaDb, Postgres, Tls};

use crate::scene::{PATIENCE, TTL, open, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn postgres_lets_in_who_shows_a_certificate() {
    let server = Postgres::builder().tls(Tls::Mutual).start().await.unwrap();
    let stranger = Postgres::builder().tls(Tls::Server).start().await.unwrap();
    judge(&server, &server.url(), &stranger).await;
    only_the_servers(&stranger, &stranger.url()).await;
    let plain = Postgres::shared().await.unwrap();
    of_a_plain_server(&plain.url(), &stranger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: `cargo xtask test`"]
async fn mariadb_lets_in_who_shows_a_certificate() {
    let server = MariaDb::builder().tls(Tls::Mutual).start().await.unwrap();
    let stranger = MariaDb::builder().tls(Tls::Server).start().await.unwrap();
    judge(&server, &server.url(), &stranger).await;
    only_the_servers(&stranger, &stranger.url()).await;
    let plain = MariaDb::shared().await.unwrap();
    of_a_plain_server(&plain.url(), &stranger).await;
}

async fn judge(server: &Cluster, url: &str, stranger: &Cluster) {
    let (own, other) = (server.certificates().unwrap(), stranger.certificates().unwrap());
    works(&format!("{url}?tls=true&{}&{}", ca(own), identity(own))).await;
    // Nothing, no certificate, one of an authority that the server does not know, and a server of
    // an authority that the client does not know.
    for options in [
        String::new(),
        format!("?tls=true&{}", ca(own)),
        format!("?tls=true&{}&{}", ca(own), identity(other)),
        format!("?tls=true&{}&{}", ca(other), identity(own)),
    ] {
        let error = refused(&format!("{url}{options}")).await;
        println!("{options}: {error:#}");
        assert_eq!(error.kind(), ErrorKind::Denied, "{options}: {error:#}");
        if options.is_empty() {
            assert!(format!("{error:#}").contains("`tls=true`"), "{error:#}");
        }
    }
}

async fn only_the_servers(server: &Cluster, url: &str) {
    let files = server.certificates().unwrap();
    works(&format!("{url}?tls=true&{}", ca(files))).await;
    let error = refused(url).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
}

async fn of_a_plain_server(url: &str, stranger: &Cluster) {
    let error = refused(&format!("{url}?tls=true&{}", ca(stranger.certificates().unwrap()))).await;
    println!("of a plain server: {error:#}");
    assert!(
        matches!(error.kind(), ErrorKind::Denied | ErrorKind::Invalid),
        "of a plain server: {error:#}"
    );
    assert!(format!("{error:#}").contains("TLS"), "{error:#}");
}

async fn works(url: &str) {
    let manager = open(url, TTL).await.unwrap();
    let guard = manager.lock("tls").unwrap().acquire().await.unwrap();
    guard.release().await.unwrap();
}

/// The error that a manager ends with that can't be opened.
async fn refused(url: &str) -> Error {
    within(PATIENCE, url, open(url, TTL)).await.expect_err("it was let in")
}

fn ca(files: &Certificates) -> String {
    format!("ca={}", files.ca().display())
}

fn identity(files: &Certificates) -> String {
    let (cert, key) = (files.client_certificate(), files.client_key());
    format!("cert={}&key={}", cert.display(), key.display())
}
