//! Certificates of the server, and of the client.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

mod harness;

use std::path::Path;
use std::time::Duration;

use harness::scene::{PATIENCE, PROMPT, acquire, eventually, within};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::manager::LockManager;
use portunus_core::url::StoreUrl;
use portunus_testkit::cluster::{self, Tls};
use portunus_zookeeper::{ZooKeeper, ZooKeeperConfig};
use tokio::sync::OnceCell;

/// One whose servers show a certificate, and one whose clients do as well; each has an authority
/// of its own. They go with the process.
struct Ensembles {
    server: cluster::ZooKeeper,
    mutual: cluster::ZooKeeper,
}

async fn ensembles() -> &'static Ensembles {
    static ENSEMBLES: OnceCell<Ensembles> = OnceCell::const_new();
    let start = async || {
        let [server, mutual] =
            [Tls::Server, Tls::Mutual].map(|tls| cluster::ZooKeeper::builder().tls(tls).start());
        let (server, mutual) = tokio::try_join!(server, mutual).unwrap();
        Ensembles { server, mutual }
    };
    ENSEMBLES.get_or_init(start).await
}

fn ca(ensemble: &cluster::ZooKeeper) -> String {
    format!("tls=true&ca={}", shown(&ensemble.certificates().unwrap().ca()))
}

fn identity(ensemble: &cluster::ZooKeeper) -> String {
    let files = ensemble.certificates().unwrap();
    format!("cert={}&key={}", shown(&files.client_certificate()), shown(&files.client_key()))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

async fn connect(hosts: &[String], options: &str) -> Result<LockManager> {
    let url = format!("zookeeper://{}?connect_timeout=6s&{options}", hosts.join(","));
    let mut url = StoreUrl::parse(&url)?;
    let backend = ZooKeeper::new(ZooKeeperConfig::from_url(&mut url)?)?;
    let builder = LockManager::builder(backend).options(&mut url)?;
    url.finish()?;
    builder.open().await
}

/// Two managers take turns on a lock, and `meanwhile` happens while one holds it and one waits.
async fn works(ensemble: &cluster::ZooKeeper, options: &str, meanwhile: impl AsyncFnOnce()) {
    let hosts = ensemble.endpoints();
    let first = connect(&hosts, options).await.unwrap();
    let second = connect(&hosts, options).await.unwrap();
    let name = format!("{:032x}", rand::random::<u128>());
    let guard = first.lock(&name).unwrap().acquire().await.unwrap();
    let waiter = acquire(&second, &name);
    eventually(PROMPT, "two contend", async || match first.contenders(&name).await.unwrap() {
        found if found.len() == 2 => Ok(()),
        found => Err(found),
    })
    .await;
    meanwhile().await;
    assert!(guard.is_held() && !waiter.is_finished());
    let token = guard.token().value();
    guard.release().await.unwrap();
    let guard = within(PROMPT, "the waiter is served", waiter).await.unwrap().unwrap();
    assert!(guard.token().value() > token);
    guard.release().await.unwrap();
    for manager in [first, second] {
        manager.shutdown(PROMPT).await.unwrap();
    }
    nothing_left(ensemble).await;
}

/// Fails when a session is left, with which every entry goes.
async fn nothing_left(ensemble: &cluster::ZooKeeper) {
    eventually(PATIENCE, "no session is left", async || {
        let leader = ensemble.leader().await.unwrap();
        let dump = ensemble.ask(leader, "dump").await.unwrap();
        if dump.contains("\t0x") { Err(dump) } else { Ok(()) }
    })
    .await;
}

/// The error that `connect` ends with, not long after its `connect_timeout`.
async fn refused(ensemble: &cluster::ZooKeeper, options: &str) -> Error {
    let (limit, hosts) = (Duration::from_secs(20), ensemble.endpoints());
    within(limit, options, connect(&hosts, options)).await.unwrap_err()
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn the_server_shows_a_certificate() {
    let ensemble = &ensembles().await.server;
    works(ensemble, &ca(ensemble), async || ()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn both_sides_show_one() {
    let ensemble = &ensembles().await.mutual;
    works(ensemble, &format!("{}&{}", ca(ensemble), identity(ensemble)), async || ()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_lock_survives_each_node_s_death() {
    let ensemble = cluster::ZooKeeper::builder().tls(Tls::Mutual).start().await.unwrap();
    let options = format!("{}&{}&ttl=30s", ca(&ensemble), identity(&ensemble));
    works(&ensemble, &options, async || {
        // Sessions are at the node that they happened to begin with: each goes once.
        for node in 0..cluster::NODES {
            ensemble.kill(node).await.unwrap();
            ensemble.leader().await.unwrap();
            ensemble.restart(node).await.unwrap();
            ensemble.wait_healthy().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_server_of_another_authority_is_not_trusted() {
    let Ensembles { server, mutual } = ensembles().await;
    let error = refused(server, &ca(mutual)).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    assert!(format!("{error:#}").contains("not signed by `ca`"), "{error:#}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_client_without_a_certificate_is_told_what_is_missing() {
    let Ensembles { server, mutual } = ensembles().await;
    // None, and one of an authority that the server does not trust.
    for options in [ca(mutual), format!("{}&{}", ca(mutual), identity(server))] {
        let error = refused(mutual, &options).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
        assert!(format!("{error:#}").contains("`cert`, `key`"), "{error:#}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_plain_client_is_told_of_the_tls() {
    let error = refused(&ensembles().await.server, "ttl=10s").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    assert!(format!("{error:#}").contains("TLS"), "{error:#}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_tls_client_is_told_of_a_plain_server() {
    let plain = cluster::ZooKeeper::shared().await.unwrap();
    let error = refused(&plain, &ca(&ensembles().await.server)).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    assert!(format!("{error:#}").contains("TLS"), "{error:#}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_key_of_another_certificate_is_refused_before_connecting() {
    let Ensembles { server, mutual } = ensembles().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hosts = [listener.local_addr().unwrap().to_string()];
    let (cert, key) = (
        shown(&mutual.certificates().unwrap().client_certificate()),
        shown(&server.certificates().unwrap().client_key()),
    );
    let options = format!("{}&cert={cert}&key={key}", ca(mutual));
    let error = within(PROMPT, "connect", connect(&hosts, &options)).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Invalid, Some(&*key)), "{error:#}");
    assert!(format!("{error:#}").contains(&cert), "{error:#}");
    let knocked = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(knocked.is_err(), "{knocked:?}");
}
