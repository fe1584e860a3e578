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

/// Whether the node answers a client of this machine.
pub(crate) async fn answers(cluster: &Cluster, node: usize, hello: &str) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(cluster.endpoint(node)).await?;
        stream.write_all(hello.as_bytes()).await?;
        stream.read(&mut [0]).await
    };
    timeout(Duration::from_secs(1), exchange).await.is_ok_and(|read| read.is_ok_and(|n| n == 1))
}
