//! The etcd cluster.

use std::time::Duration;

use portunus_testkit::cluster::{Auth, Error, Etcd, NODES, Output, Tls, Token};
use tokio::time::timeout;

use super::faults;

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_killed_leader_is_replaced_and_comes_back_with_its_data() {
    let etcd = Etcd::exclusive().await.unwrap();
    let old = etcd.leader().await.unwrap();
    let address = etcd.endpoint(old);
    put(&etcd, old, "killed", "before").await.unwrap();
    let before = etcd.etcdctl(old, &["get", "killed", "--write-out=json"]).await.unwrap().stdout;
    let revision = before.split("\"mod_revision\":").nth(1).unwrap().split(',').next().unwrap();

    etcd.kill(old).await.unwrap();
    let new = etcd.leader().await.unwrap();
    assert_ne!(new, old);
    assert!(!etcd.is_healthy(old).await);
    put(&etcd, new, "killed", "after").await.unwrap();

    etcd.restart(old).await.unwrap();
    etcd.wait_healthy().await.unwrap();
    assert_eq!(etcd.endpoint(old), address);
    // Its own copy, not the quorum's.
    let at = format!("--rev={revision}");
    let own = etcd.etcdctl(old, &["get", &at, "--consistency=s", "killed"]).await.unwrap();
    assert_eq!(own.stdout, "killed\nbefore\n");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_paused_leader_is_replaced() {
    faults::a_paused_leader_is_replaced(&Etcd::exclusive().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_partitioned_leader_is_replaced_and_refuses_writes() {
    let etcd = Etcd::exclusive().await.unwrap();
    let old = etcd.leader().await.unwrap();
    etcd.partition(old).await.unwrap();
    let new = etcd.leader().await.unwrap();
    assert_ne!(new, old);
    assert!(matches!(put(&etcd, old, "cut", "off").await, Err(Error::Command { .. })));
    put(&etcd, new, "cut", "quorum").await.unwrap();

    etcd.heal(old).await.unwrap();
    etcd.wait_healthy().await.unwrap();
    assert_eq!(etcd.etcdctl(old, &["get", "cut"]).await.unwrap().stdout, "cut\nquorum\n");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_node_without_clients_still_serves_its_peers() {
    let etcd = Etcd::exclusive().await.unwrap();
    let cut = faults::a_node_without_clients_still_leads(&etcd, HELLO).await;
    put(&etcd, (cut + 1) % NODES, "peers", "served").await.unwrap();

    etcd.heal(cut).await.unwrap();
    assert!(faults::answers(&etcd, cut, HELLO).await);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn restore_undoes_everything() {
    faults::restore_undoes_everything(&Etcd::exclusive().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn a_test_that_shares_finds_the_cluster_whole() {
    let etcd = Etcd::exclusive().await.unwrap();
    etcd.pause(0).await.unwrap();
    drop(etcd);
    let (one, two) = tokio::join!(Etcd::shared(), Etcd::shared());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.endpoints(), two.endpoints());
    assert!(one.is_healthy(0).await);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn etcdctl_locks_run_beside_the_test() {
    let etcd = Etcd::shared().await.unwrap();
    let mut holder = etcd.spawn_etcdctl(0, &["lock", "beside"]).await.unwrap();
    assert!(holder.line().await.unwrap().starts_with("beside/"));
    let mut waiter = etcd.spawn_etcdctl(1, &["lock", "beside", "echo", "in"]).await.unwrap();

    // It waits: two entries in the queue, and no line yet.
    let mut entries = 0;
    while entries < 2 {
        let keys = etcd.etcdctl(2, &["get", "--prefix", "--keys-only", "beside/"]).await.unwrap();
        entries = keys.stdout.lines().filter(|line| !line.is_empty()).count();
    }
    assert!(timeout(Duration::ZERO, waiter.line()).await.is_err());

    holder.signal("TERM").await.unwrap();
    assert_eq!(waiter.line().await.unwrap(), "in");
    assert_eq!(waiter.output().await.unwrap().code, Some(0));
    holder.output().await.unwrap();
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn mutual_tls_and_passwords_shut_others_out() {
    let auth = Auth::new("correct horse").token(Token::Jwt { ttl: Duration::from_secs(5) });
    let etcd = Etcd::builder().tls(Tls::Mutual).auth(auth).start().await.unwrap();
    put(&etcd, 0, "secret", "kept").await.unwrap();
    assert!(etcd.certificates().unwrap().ca().is_file());

    let get = ["etcdctl", "get", "secret"];
    let refused = etcd.exec(0, &get).await.unwrap();
    assert_ne!(refused.code, Some(0), "without a password: {refused:?}");
    let bare = [&["env", "-u", "ETCDCTL_CERT", "-u", "ETCDCTL_KEY"], &get[..]].concat();
    let refused = etcd.exec(0, &bare).await.unwrap();
    assert_ne!(refused.code, Some(0), "without a certificate: {refused:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn server_tls_and_simple_tokens() {
    let auth = Auth::new("battery").token(Token::Simple { ttl: Duration::from_secs(2) });
    let etcd = Etcd::builder().tls(Tls::Server).auth(auth).start().await.unwrap();
    put(&etcd, 1, "simple", "token").await.unwrap();
}

async fn put(etcd: &Etcd, node: usize, key: &str, value: &str) -> Result<Output, Error> {
    etcd.etcdctl(node, &["--command-timeout=2s", "put", key, value]).await
}

const HELLO: &str = "GET /version HTTP/1.0\r\n\r\n";
