//! Certificates of the server, and of the client.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod harness;

use std::path::Path;
use std::time::Duration;

use harness::scene::{PROMPT, empty, eventually, within};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::manager::LockManager;
use portunus_core::url::StoreUrl;
use portunus_etcd::{Etcd, EtcdConfig};
use portunus_testkit::cluster::{self, Tls};
use tokio::sync::OnceCell;

/// One whose servers show a certificate, and one whose clients do as well; each has an authority
/// of its own. They go with the process.
struct Clusters {
    server: cluster::Etcd,
    mutual: cluster::Etcd,
}

async fn clusters() -> &'static Clusters {
    static CLUSTERS: OnceCell<Clusters> = OnceCell::const_new();
    let start = async || {
        let [server, mutual] =
            [Tls::Server, Tls::Mutual].map(|tls| cluster::Etcd::builder().tls(tls).start());
        let (server, mutual) = tokio::try_join!(server, mutual).unwrap();
        Clusters { server, mutual }
    };
    CLUSTERS.get_or_init(start).await
}

fn ca(etcd: &cluster::Etcd) -> String {
    format!("ca={}", shown(&etcd.certificates().unwrap().ca()))
}

fn identity(etcd: &cluster::Etcd) -> String {
    let files = etcd.certificates().unwrap();
    format!("cert={}&key={}", shown(&files.client_certificate()), shown(&files.client_key()))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

async fn connect(scheme: &str, etcd: &cluster::Etcd, options: &str) -> Result<LockManager> {
    let hosts = etcd.endpoints().join(",");
    let url = format!("{scheme}://{hosts}?connect_timeout=3s&{options}");
    let mut url = StoreUrl::parse(&url)?;
    let backend = Etcd::new(EtcdConfig::from_url(&mut url)?)?;
    let builder = LockManager::builder(backend).options(&mut url)?;
    url.finish()?;
    builder.open().await
}

/// Two managers take turns on a lock, and leave nothing.
async fn works(etcd: &cluster::Etcd, options: &str) {
    let first = connect("etcds", etcd, options).await.unwrap();
    let second = connect("etcds", etcd, options).await.unwrap();
    let name = format!("{:032x}", rand::random::<u128>());
    let guard = first.lock(&name).unwrap().acquire().await.unwrap();
    let waiter = harness::scene::acquire(&second, &name);
    eventually(PROMPT, "two contend", async || match first.contenders(&name).await.unwrap() {
        found if found.len() == 2 => Ok(()),
        found => Err(found),
    })
    .await;
    let token = guard.token().value();
    guard.release().await.unwrap();
    let guard = within(PROMPT, "the waiter is served", waiter).await.unwrap().unwrap();
    assert!(guard.token().value() > token);
    guard.release().await.unwrap();
    for manager in [first, second] {
        manager.shutdown(PROMPT).await.unwrap();
    }
}

/// The error that `connect` ends with, not long after its `connect_timeout`.
async fn refused(scheme: &str, etcd: &cluster::Etcd, options: &str) -> Error {
    within(Duration::from_secs(20), options, connect(scheme, etcd, options)).await.unwrap_err()
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn the_server_shows_a_certificate() {
    let etcd = &clusters().await.server;
    works(etcd, &ca(etcd)).await;
    empty(etcd).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn both_sides_show_one() {
    let etcd = &clusters().await.mutual;
    works(etcd, &format!("{}&{}", ca(etcd), identity(etcd))).await;
    empty(etcd).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_server_of_another_authority_is_not_trusted() {
    let Clusters { server, mutual } = clusters().await;
    let error = refused("etcds", server, &ca(mutual)).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    assert!(format!("{error:#}").contains("certificate"), "{error:#}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_client_without_a_certificate_is_told_what_is_missing() {
    let Clusters { server, mutual } = clusters().await;
    // None, and one of an authority that the server does not trust.
    for options in [ca(mutual), format!("{}&{}", ca(mutual), identity(server))] {
        let error = refused("etcds", mutual, &options).await;
        assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unavailable), "{error:#}");
        assert!(format!("{error:#}").contains("certificate"), "{error:#}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_plain_client_is_told_of_the_tls() {
    let error = refused("etcd", &clusters().await.server, "ttl=10s").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    assert!(format!("{error:#}").contains("TLS"), "{error:#}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_tls_client_is_told_of_a_plain_server() {
    let plain = cluster::Etcd::shared().await.unwrap();
    let error = refused("etcds", &plain, &ca(&clusters().await.server)).await;
    assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unavailable), "{error:#}");
    assert!(format!("{error:#}").contains("TLS"), "{error:#}");
}
