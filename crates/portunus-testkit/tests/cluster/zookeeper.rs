//! The ZooKeeper ensemble.

use std::time::Duration;

use portunus_testkit::cluster::{Error, NODES, Output, Tls, ZooKeeper};
use tokio::time::timeout;

use super::faults;

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_killed_leader_is_replaced_and_comes_back_with_its_data() {
    let zookeeper = ZooKeeper::exclusive().await.unwrap();
    let old = zookeeper.leader().await.unwrap();
    let address = zookeeper.endpoint(old);
    write(&zookeeper, old, "/killed", "before").await.unwrap();

    zookeeper.kill(old).await.unwrap();
    let new = zookeeper.leader().await.unwrap();
    assert_ne!(new, old);
    assert!(!zookeeper.is_healthy(old).await);
    write(&zookeeper, new, "/killed", "after").await.unwrap();

    // Without the third node, the quorum needs the copy that was killed.
    let third = (0..NODES).find(|node| ![old, new].contains(node)).unwrap();
    zookeeper.kill(third).await.unwrap();
    zookeeper.restart(old).await.unwrap();
    assert_eq!(zookeeper.leader().await.unwrap(), new);
    assert_eq!(zookeeper.endpoint(old), address);
    assert_eq!(read(&zookeeper, old, "/killed").await.unwrap().stdout, "after\n");
    let logs = zookeeper.exec(old, &["sh", "-c", "ls /var/lib/zookeeper/version-2"]).await.unwrap();
    assert!(logs.stdout.contains("log."), "{logs:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_paused_leader_is_replaced() {
    faults::a_paused_leader_is_replaced(&ZooKeeper::exclusive().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_partitioned_leader_is_replaced_and_refuses_writes() {
    let zookeeper = ZooKeeper::exclusive().await.unwrap();
    let old = zookeeper.leader().await.unwrap();
    zookeeper.partition(old).await.unwrap();
    let new = zookeeper.leader().await.unwrap();
    assert_ne!(new, old);
    let refused = write(&zookeeper, old, "/cut", "off").await;
    assert!(matches!(refused, Err(Error::Command { .. })), "{refused:?}");
    write(&zookeeper, new, "/cut", "quorum").await.unwrap();

    zookeeper.heal(old).await.unwrap();
    zookeeper.wait_healthy().await.unwrap();
    assert_eq!(read(&zookeeper, old, "/cut").await.unwrap().stdout, "quorum\n");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_partitioned_follower_takes_connections_and_refuses_writes() {
    let zookeeper = ZooKeeper::exclusive().await.unwrap();
    let leader = zookeeper.leader().await.unwrap();
    let follower = (leader + 1) % NODES;
    zookeeper.partition(follower).await.unwrap();
    assert!(!zookeeper.is_healthy(follower).await);
    let refused = write(&zookeeper, follower, "/minority", "of one").await;
    assert!(matches!(refused, Err(Error::Command { .. })), "{refused:?}");
    assert!(faults::answers(&zookeeper, follower, HELLO).await);
    assert_eq!(zookeeper.leader().await.unwrap(), leader);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_node_without_clients_still_serves_its_peers() {
    let zookeeper = ZooKeeper::exclusive().await.unwrap();
    let cut = faults::a_node_without_clients_still_leads(&zookeeper, HELLO).await;
    write(&zookeeper, (cut + 1) % NODES, "/peers", "served").await.unwrap();
    assert_eq!(zookeeper.ask(cut, "ruok").await.unwrap(), "imok");

    zookeeper.heal(cut).await.unwrap();
    assert!(faults::answers(&zookeeper, cut, HELLO).await);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn restore_undoes_everything() {
    faults::restore_undoes_everything(&ZooKeeper::exclusive().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn the_nodes_count() {
    let zookeeper = ZooKeeper::shared().await.unwrap();
    let leader = zookeeper.leader().await.unwrap();
    for node in 0..NODES {
        let state = if node == leader { "leader" } else { "follower" };
        assert_eq!(zookeeper.mntr(node).await.unwrap()["zk_server_state"], state);
    }
    let counts = zookeeper.mntr(leader).await.unwrap();
    assert_eq!(counts["zk_synced_followers"], "2");
    assert!(counts["zk_version"].starts_with("3.9.3-"), "{}", counts["zk_version"]);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn kazoo_locks_run_beside_the_test() {
    let zookeeper = ZooKeeper::shared().await.unwrap();
    let mut holder = zookeeper.spawn_python(0, LOCK, &["/beside", "hold"]).await.unwrap();
    assert_eq!(holder.line().await.unwrap(), "in");
    let mut waiter = zookeeper.spawn_python(1, LOCK, &["/beside", "leave"]).await.unwrap();

    // It waits: two sessions with an entry in the queue, and no line yet.
    let leader = zookeeper.leader().await.unwrap();
    let mut entries = 0;
    while entries < 2 {
        entries = zookeeper.ask(leader, "dump").await.unwrap().matches("\t/beside/").count();
    }
    assert!(timeout(Duration::ZERO, waiter.line()).await.is_err());

    // No farewell: its session has to expire.
    holder.signal("KILL").await.unwrap();
    assert_eq!(waiter.line().await.unwrap(), "in");
    assert_eq!(waiter.line().await.unwrap(), "out");
    assert_eq!(waiter.output().await.unwrap().code, Some(0));
    holder.output().await.unwrap();
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn mutual_tls_shuts_others_out() {
    let zookeeper = ZooKeeper::builder().tls(Tls::Mutual).start().await.unwrap();
    assert!(zookeeper.certificates().unwrap().ca().is_file());
    assert!(!faults::answers(&zookeeper, 0, HELLO).await, "in the clear");
    let open = tls(&zookeeper, "with a certificate").await;
    assert_eq!(open.stdout, "True\n", "{open:?}");
    let refused = tls(&zookeeper, "").await;
    assert_ne!(refused.code, Some(0), "without a certificate: {refused:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn server_tls_asks_clients_for_no_certificate() {
    let zookeeper = ZooKeeper::builder().tls(Tls::Server).start().await.unwrap();
    assert!(!faults::answers(&zookeeper, 0, HELLO).await, "in the clear");
    let open = tls(&zookeeper, "").await;
    assert_eq!(open.stdout, "True\n", "{open:?}");
}

async fn write(
    zookeeper: &ZooKeeper,
    node: usize,
    path: &str,
    value: &str,
) -> Result<Output, Error> {
    kazoo(zookeeper, node, WRITE, &[path, value]).await
}

async fn read(zookeeper: &ZooKeeper, node: usize, path: &str) -> Result<Output, Error> {
    kazoo(zookeeper, node, READ, &[path]).await
}

/// Runs a script on the node itself, which has to succeed.
async fn kazoo(
    zookeeper: &ZooKeeper,
    node: usize,
    script: &str,
    args: &[&str],
) -> Result<Output, Error> {
    let process = zookeeper.spawn_python(node, script, args).await?;
    let output = process.output().await?;
    if output.code == Some(0) {
        Ok(output)
    } else {
        Err(Error::Command { command: args.join(" "), output })
    }
}

/// Connects to all nodes with TLS, showing a certificate unless it is empty.
async fn tls(zookeeper: &ZooKeeper, certificate: &str) -> Output {
    zookeeper.spawn_python(0, CONNECT, &[certificate]).await.unwrap().output().await.unwrap()
}

const HELLO: &str = "ruok";

const WRITE: &str = r#"
import sys
from kazoo.client import KazooClient
client = KazooClient(hosts="127.0.0.1:2181")
client.start(timeout=3)
client.create_async(sys.argv[1]).wait()
client.set_async(sys.argv[1], sys.argv[2].encode()).get(timeout=3)
client.stop()
"#;

const READ: &str = r#"
import sys
from kazoo.client import KazooClient
client = KazooClient(hosts="127.0.0.1:2181")
client.start(timeout=3)
print(client.get(sys.argv[1])[0].decode())
client.stop()
"#;

const LOCK: &str = r#"
import os, sys, threading
from kazoo.client import KazooClient
client = KazooClient(hosts=os.environ["ZOOKEEPER_HOSTS"], timeout=2)
client.start()
with client.Lock(sys.argv[1]):
    print("in")
    if sys.argv[2] == "hold":
        threading.Event().wait()
print("out")
client.stop()
"#;

const CONNECT: &str = r#"
import os, sys
from kazoo.client import KazooClient
files = os.environ["ZOOKEEPER_CERTIFICATES"]
mine = dict(certfile=files + "/client.crt", keyfile=files + "/client.key") if sys.argv[1] else {}
client = KazooClient(
    hosts=os.environ["ZOOKEEPER_HOSTS"], use_ssl=True, ca=files + "/ca.crt", **mine
)
client.start(timeout=5)
print(client.exists("/") is not None)
client.stop()
"#;
