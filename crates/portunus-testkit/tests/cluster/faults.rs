//! What holds on the cluster of every store.

use std::time::Duration;

use portunus_testkit::cluster::{Cluster, NODES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) async fn a_paused_leader_is_replaced(cluster: &Cluster) {
    let old = cluster.leader().await.unwrap();
    cluster.pause(old).await.unwrap();
    assert_ne!(cluster.leader().await.unwrap(), old);
    assert!(!cluster.is_healthy(old).await);
    cluster.unpause(old).await.unwrap();
    cluster.wait_healthy().await.unwrap();
}

/// `hello` is what a node answers to anyone. Returns the node, without clients.
pub(crate) async fn a_node_without_clients_still_leads(cluster: &Cluster, hello: &str) -> usize {
    let leader = cluster.leader().await.unwrap();
    assert!(answers(cluster, leader, hello).await);
    cluster.cut_clients(leader).await.unwrap();
    assert!(!answers(cluster, leader, hello).await);
    assert_eq!(cluster.leader().await.unwrap(), leader);
    leader
}

pub(crate) async fn restore_undoes_everything(cluster: &Cluster) {
    cluster.pause(0).await.unwrap();
    cluster.pause(1).await.unwrap();
    cluster.kill(1).await.unwrap();
    cluster.partition(2).await.unwrap();
    cluster.cut_clients(2).await.unwrap();
    cluster.restore().await.unwrap();
    for node in 0..NODES {
        assert!(cluster.is_healthy(node).await);
    }
}

/// A server of one node: `read` shows inside it what was written before.
pub(crate) async fn a_killed_server_comes_back_with_its_data(
    server: &Cluster,
    write: &[&str],
    read: &[&str],
) {
    let address = server.endpoint(0);
    let written = server.exec(0, write).await.unwrap();
    assert_eq!(written.code, Some(0), "{written:?}");
    let before = server.exec(0, read).await.unwrap();
    assert_eq!(before.stdout.trim(), "kept", "{before:?}");

    server.kill(0).await.unwrap();
    assert!(!server.is_healthy(0).await);
    server.restart(0).await.unwrap();
    server.wait_healthy().await.unwrap();
    assert_eq!(server.endpoints(), [address]);
    assert_eq!(server.exec(0, read).await.unwrap(), before);
}

pub(crate) async fn a_paused_server_is_not_healthy(server: &Cluster) {
    assert_eq!(server.leader().await.unwrap(), 0);
    server.pause(0).await.unwrap();
    assert!(!server.is_healthy(0).await);
    server.unpause(0).await.unwrap();
    server.wait_healthy().await.unwrap();
}

/// `hello` is what the server answers to anyone.
pub(crate) async fn a_server_without_clients_is_healthy(server: &Cluster, hello: &str) {
    assert!(answers(server, 0, hello).await);
    server.cut_clients(0).await.unwrap();
    assert!(!answers(server, 0, hello).await);
    assert!(server.is_healthy(0).await);
    server.heal(0).await.unwrap();
    assert!(answers(server, 0, hello).await);
}

/// It has no peers to be cut from, and comes back from everything else.
pub(crate) async fn restore_undoes_everything_on_a_server(server: &Cluster) {
    server.partition(0).await.unwrap();
    assert!(server.is_healthy(0).await);
    server.cut_clients(0).await.unwrap();
    server.pause(0).await.unwrap();
    server.restore().await.unwrap();
    assert!(server.is_healthy(0).await);
    server.kill(0).await.unwrap();
    server.restore().await.unwrap();
    assert!(server.is_healthy(0).await);
}

/// `time` shows the server's, in whole seconds.
pub(crate) async fn only_the_wall_clock_moves(server: &Cluster, time: &[&str]) {
    let seconds = async |command: &[&str]| {
        let shown = server.exec(0, command).await.unwrap();
        let first = shown.stdout.lines().next().unwrap_or_default();
        first.parse::<i64>().unwrap_or_else(|_| panic!("{shown:?}"))
    };
    for step in [60, -60, 0] {
        server.step_clock(0, step).await.unwrap();
        let before = seconds(&["date", "+%s"]).await;
        let shown = seconds(time).await - step;
        let after = seconds(&["date", "+%s"]).await;
        assert!((before..=after).contains(&shown), "{step}: {before} {shown} {after}");
    }
    server.step_clock(0, 60).await.unwrap();
    server.kill(0).await.unwrap();
    server.restart(0).await.unwrap();
    server.wait_healthy().await.unwrap();
    assert!(seconds(time).await >= seconds(&["date", "+%s"]).await + 50);
    server.restore().await.unwrap();
    assert!(seconds(time).await <= seconds(&["date", "+%s"]).await);
}

/// Whether the node answers a client of this machine.
pub(crate) async fn answers(cluster: &Cluster, node: usize, hello: &str) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(cluster.endpoint(node)).await?;
        stream.write_all(hello.as_bytes()).await?;
        stream.read(&mut [0]).await
    };
    timeout(Duration::from_secs(1), exchange).await.is_ok_and(|read| read.is_ok_and(|n| n == 1))
}
