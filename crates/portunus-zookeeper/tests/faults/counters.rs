//! What the servers count and tidy up: the last numbers of a lock, and its node when it is empty.

use std::time::Duration;

use portunus_core::error::ErrorKind;
use portunus_core::manager::LockManager;
use portunus_testkit::cluster::{self, NODES, ZooKeeper};
use portunus_zookeeper::{ZooKeeper as Backend, ZooKeeperConfig};
use zookeeper_client::{Acls, Client, CreateMode};

use crate::harness::scene::{LONG, PATIENCE, PROMPT, children, eventually, within};

async fn manager(cluster: &ZooKeeper) -> LockManager {
    let config = ZooKeeperConfig::new(cluster.endpoints()).unwrap().namespace("p").unwrap();
    LockManager::builder(Backend::new(config).unwrap()).ttl(LONG).open().await.unwrap()
}

/// The nodes of locks and of sessions are containers, which the servers remove between any two
/// requests.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn empty_nodes_go_and_come_again() {
    // The start of three more nodes would disturb who measures.
    let _alone = cluster::ZooKeeper::exclusive().await.unwrap();
    let often = Duration::from_millis(50);
    let cluster = ZooKeeper::builder().container_check(often).start().await.unwrap();
    let (manager, raw) =
        (manager(&cluster).await, Client::connect(&cluster.endpoint(0)).await.unwrap());
    let lock = manager.lock("a").unwrap();
    let (mut last, mut anew) = (0, 0);
    for _ in 0..100 {
        let guard = within(PROMPT, "it is served", lock.acquire()).await.unwrap();
        assert!(guard.token().value() > last);
        last = guard.token().value();
        let entry = children(&raw, "/p/a").await;
        anew += u32::from(entry.iter().any(|entry| entry.ends_with("-0000000000")));
        guard.release().await.unwrap();
    }
    println!("of 100 acquires {anew} made the lock's node");
    assert!(anew > 1, "the servers removed nothing");
    manager.shutdown(PROMPT).await.unwrap();
    eventually(PATIENCE, "all went", async || {
        let left = children(&raw, "/p").await;
        if left == [".incarnation"] { Ok(()) } else { Err(left) }
    })
    .await;
}

/// The server's counter sticks at 2³¹ − 1, and equal contenders would hold at once. Nobody creates
/// two thousand million nodes for a test: the counter is written into the servers' logs, from which
/// they start.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn the_last_numbers_of_a_lock_are_refused() {
    const LAST: u32 = (1 << 31) - (1 << 20);
    let _alone = cluster::ZooKeeper::exclusive().await.unwrap();
    let cluster = ZooKeeper::builder().start().await.unwrap();
    let raw = Client::connect(&cluster.endpoint(0)).await.unwrap();
    let persistent = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for path in ["/p", "/p/a", "/p/a/x"] {
        raw.create(path, b"", &persistent).await.unwrap();
    }
    // A container would be gone by the time that it is needed.
    raw.delete("/p/a/x", None).await.unwrap();
    drop(raw);
    for node in 0..NODES {
        let command = ["python3", "-c", REWRITE, "/p/a/x", &(LAST - 2).to_string()];
        let rewritten = cluster.exec(node, &command).await.unwrap();
        assert_eq!(rewritten.stdout.trim(), "1", "{rewritten:?}");
        cluster.kill(node).await.unwrap();
    }
    for node in 0..NODES {
        cluster.restart(node).await.unwrap();
    }
    cluster.wait_healthy().await.unwrap();

    let manager = manager(&cluster).await;
    let raw = Client::connect(&cluster.endpoint(0)).await.unwrap();
    let lock = manager.lock("a").unwrap();
    let mut last = 0;
    for number in [LAST - 2, LAST - 1] {
        let guard = lock.acquire().await.unwrap();
        let entries = children(&raw, "/p/a").await;
        assert!(entries[0].ends_with(&number.to_string()), "{entries:?} is not {number}");
        last = guard.token().value();
        guard.release().await.unwrap();
    }
    for _ in 0..2 {
        let error = lock.acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
        assert!(error.to_string().contains("delete the lock's node"), "{error}");
        eventually(PROMPT, "it is withdrawn", async || {
            let left = children(&raw, "/p/a").await;
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
    // As the error says.
    raw.delete("/p/a", None).await.unwrap();
    let guard = lock.acquire().await.unwrap();
    assert!(guard.token().value() > last);
    guard.release().await.unwrap();
    manager.shutdown(PROMPT).await.unwrap();
}

/// Finds in a node's logs the transaction that created a path, and sets what it says of the parent:
/// how many children that has had. Prints how many it changed.
///
/// A log is a head of 16 bytes and transactions, each a checksum, a length, the bytes and a `B`. Its
/// bytes are the head (32 bytes, the type last), the path, the data, the rules, whether it is
/// ephemeral, the number, and 12 bytes that are only compared.
const REWRITE: &str = r"
import glob, struct, sys, zlib
path, number, changed = sys.argv[1].encode(), int(sys.argv[2]), 0
for name in glob.glob('/var/lib/zookeeper/version-2/log.*'):
    with open(name, 'r+b') as log:
        log.seek(16)
        while True:
            head = log.read(12)
            if len(head) < 12: break
            checksum, length = struct.unpack('>qi', head)
            if length <= 0: break
            at = log.tell()
            data = bytearray(log.read(length))
            log.read(1)
            size = struct.pack('>i', len(path)) + path
            kind = struct.unpack('>i', data[28:32])[0]
            if kind in (1, 15) and data[32:32 + len(size)] == size:
                assert zlib.adler32(bytes(data)) == checksum
                data[-16:-12] = struct.pack('>i', number)
                log.seek(at - 12)
                log.write(struct.pack('>q', zlib.adler32(bytes(data))) + head[8:] + data)
                log.seek(at + length + 1)
                changed += 1
print(changed)
";
