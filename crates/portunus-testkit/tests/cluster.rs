//! The cluster in containers: faults take effect, and it comes back whole.

use std::time::Duration;

use portunus_testkit::cluster::{Auth, Error, Etcd, NODES, Output, Tls, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

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
    let etcd = Etcd::exclusive().await.unwrap();
    let old = etcd.leader().await.unwrap();
    etcd.pause(old).await.unwrap();
    assert_ne!(etcd.leader().await.unwrap(), old);
    assert!(!etcd.is_healthy(old).await);
    etcd.unpause(old).await.unwrap();
    etcd.wait_healthy().await.unwrap();
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
    let leader = etcd.leader().await.unwrap();
    assert!(answers(&etcd, leader).await);

    etcd.cut_clients(leader).await.unwrap();
    assert!(!answers(&etcd, leader).await);

    assert_eq!(etcd.leader().await.unwrap(), leader);
    put(&etcd, (leader + 1) % NODES, "peers", "served").await.unwrap();

    etcd.heal(leader).await.unwrap();
    assert!(answers(&etcd, leader).await);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test etcd`"]
async fn restore_undoes_everything() {
    let etcd = Etcd::exclusive().await.unwrap();
    etcd.pause(0).await.unwrap();
    etcd.pause(1).await.unwrap();
    etcd.kill(1).await.unwrap();
    etcd.partition(2).await.unwrap();
    etcd.cut_clients(2).await.unwrap();
    etcd.restore().await.unwrap();
    for node in 0..NODES {
        assert!(etcd.is_healthy(node).await);
    }
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

/// Whether the node answers a client of this machine.
async fn answers(etcd: &Etcd, node: usize) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(etcd.endpoint(node)).await?;
        stream.write_all(b"GET /version HTTP/1.0\r\n\r\n").await?;
        stream.read(&mut [0]).await
    };
    timeout(Duration::from_secs(1), exchange).await.is_ok_and(|read| read.is_ok_and(|n| n == 1))
}

async fn put(etcd: &Etcd, node: usize, key: &str, value: &str) -> Result<Output, Error> {
    etcd.etcdctl(node, &["--command-timeout=2s", "put", key, value]).await
}
