//! The fence in ZooKeeper: the suite on a real ensemble, and what is particular to it.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use portunus_core::name::LockName;
use portunus_core::token::{Incarnation, Origin};
use portunus_fence::zookeeper::{Updated, ZooKeeperFence};
use portunus_fence::{ErrorKind, Fence, FencingToken, SharedToken};
use portunus_testkit::cluster::{Access, NODES, ZooKeeper};
use portunus_testkit::{FenceHarness, async_trait};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use zookeeper_client::{Acls, Client, CreateMode, Error as ClientError, MultiWriteResult};

portunus_testkit::fence_conformance! {
    #[ignore = "needs a cluster: `cargo xtask test`"]
    Store::open
}

/// A path of its own on the shared ensemble, two nodes deep.
struct Store {
    access: Mutex<Option<Access<ZooKeeper>>>,
    path: String,
}

impl Store {
    async fn open() -> Self {
        let access = Mutex::new(Some(ZooKeeper::shared().await.unwrap()));
        Self { access, path: format!("/fence-tests/{:032x}", rand::random::<u128>()) }
    }

    async fn client(&self) -> Client {
        let endpoints = self.access.lock().await.as_ref().unwrap().endpoints();
        Client::connect(&endpoints.join(",")).await.unwrap()
    }

    async fn zookeeper(&self) -> ZooKeeperFence {
        ZooKeeperFence::new(self.client().await, &self.path, Acls::anyone_all())
    }

    /// A node beside the marks, and its data.
    async fn data(&self) -> (Client, String) {
        let (client, path) = (self.client().await, format!("{}-data", self.path));
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        client.mkdir(&path, &options).await.unwrap();
        (client, path)
    }
}

/// What a node holds, no older than this call: a client's server may lag behind another's.
async fn read(client: &Client, node: &str) -> Vec<u8> {
    client.sync(node).await.unwrap();
    client.get_data(node).await.unwrap().0
}

#[async_trait]
impl FenceHarness for Store {
    async fn fence(&self) -> Arc<dyn Fence> {
        Arc::new(self.zookeeper().await)
    }

    async fn restart(&self) {
        let mut access = self.access.lock().await;
        drop(access.take());
        let zookeeper = ZooKeeper::exclusive().await.unwrap();
        for node in 0..NODES {
            zookeeper.kill(node).await.unwrap();
        }
        for node in 0..NODES {
            zookeeper.restart(node).await.unwrap();
        }
        zookeeper.wait_healthy().await.unwrap();
        *access = Some(zookeeper);
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_step_is_done_with_its_mark_or_not_at_all() {
    let store = Store::open().await;
    let fence = store.zookeeper().await;
    let (client, path) = store.data().await;
    let set = async |token: &FencingToken, data: &[u8]| {
        fence.update("a/b", token, |step| step.add_set_data(&path, data, None)).await
    };
    let done = set(&token(7), b"seven").await.unwrap();
    let Updated::Applied(results) = done else { panic!("{done:?}") };
    assert!(matches!(results[..], [MultiWriteResult::SetData { .. }]), "{results:?}");
    let node = format!("{}/a%2Fb", store.path);
    assert_eq!(read(&client, &node).await, b"7;origin=016c73746f636b");
    fence.admit("a/b", &token(8), b"three\nleft").await.unwrap();
    let data = read(&client, &node).await;
    assert_eq!(data, b"8;origin=016c73746f636b\nthree\nleft");
    for (refused, kind) in [
        (token(7), ErrorKind::Stale),
        (of("bonds", 9), ErrorKind::Conflict),
        (token(0), ErrorKind::Invalid),
        (weak(9), ErrorKind::Invalid),
    ] {
        let error = set(&refused, b"late").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:#}");
    }
    assert_eq!(read(&client, &path).await, b"seven");
    assert_eq!(fence.mark("a/b").await.unwrap(), Some(token(8)));
    assert!(matches!(set(&weak(9).allow_weak(), b"nine").await.unwrap(), Updated::Applied(_)));
    assert_eq!(read(&client, &path).await, b"nine");
    let data = read(&client, &node).await;
    assert_eq!(data, b"9;origin=016c73746f636b\nthree\nleft");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_step_that_fails_is_told_from_one_that_lost_a_race() {
    let store = Store::open().await;
    let fence = store.zookeeper().await;
    let (client, path) = store.data().await;
    for mark in [1, 2] {
        let tried = token(mark);
        let step = fence.update("a", &tried, |step| {
            step.add_set_data(&path, b"x", None)?;
            step.add_check_version(&path, 4711)
        });
        let failed = Updated::Failed { index: 1, error: ClientError::BadVersion };
        assert_eq!(step.await.unwrap(), failed);
        assert_eq!(read(&client, &path).await, b"");
        let before = (mark == 2).then(|| token(1));
        assert_eq!(fence.mark("a").await.unwrap(), before);
        fence.open("a", &token(1)).await.unwrap();
    }
    let bad = fence.update("a", &token(2), |step| step.add_set_data("no path", b"x", None)).await;
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(fence.mark("a").await.unwrap(), Some(token(1)));
}

/// Each is done once, and none of them loses against the others for good.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn steps_of_one_token_at_once_are_all_done() {
    let store = Store::open().await;
    let (client, path) = store.data().await;
    let mut steps = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (fence, child) = (store.zookeeper().await, format!("{path}/{n}"));
        steps.spawn(async move {
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            let step = |step: &mut zookeeper_client::MultiWriter<'_>| {
                step.add_create(&child, b"", &options)
            };
            fence.update("a", &token(1), step).await.unwrap()
        });
    }
    while let Some(done) = steps.join_next().await {
        let done = done.unwrap();
        assert!(matches!(done, Updated::Applied(_)), "{done:?}");
    }
    client.sync(&path).await.unwrap();
    assert_eq!(client.list_children(&path).await.unwrap().len(), 16);
}

/// What it has is old, and it answers reads for some seconds more.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_check_through_a_server_that_is_cut_off_returns_nothing_old() {
    let zookeeper = ZooKeeper::builder().tick(Duration::from_secs(2)).start().await.unwrap();
    let leader = zookeeper.leader().await.unwrap();
    let path = format!("/fence-tests/{:032x}", rand::random::<u128>());
    let at = async |node| Client::connect(&zookeeper.endpoint(node)).await.unwrap();
    let fence = |client: &Client| ZooKeeperFence::new(client.clone(), &path, Acls::anyone_all());
    let (near, far) = (at(leader).await, at((leader + 1) % NODES).await);
    fence(&near).admit("a", &token(1), b"one").await.unwrap();
    let before = fence(&far).check("a", &shared(2)).await.unwrap();
    assert_eq!(before.as_deref(), Some(&b"one"[..]));
    zookeeper.partition((leader + 1) % NODES).await.unwrap();
    fence(&near).admit("a", &token(2), b"two").await.unwrap();
    let (data, _) = far.get_data(&format!("{path}/a")).await.unwrap();
    assert!(data.ends_with(b"one"), "it knows already, and the test shows nothing");
    let read = fence(&far).check("a", &shared(2)).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Unavailable);
}

/// A mark that a server does not know yet would let an old reader pass.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_check_sees_what_was_admitted_elsewhere_before_it() {
    let store = Store::open().await;
    let endpoints = store.access.lock().await.as_ref().unwrap().endpoints();
    let mut fences = Vec::new();
    for endpoint in endpoints {
        let client = Client::connect(&endpoint).await.unwrap();
        fences.push(ZooKeeperFence::new(client, &store.path, Acls::anyone_all()));
    }
    let none = fences[0].check("a", &shared(1)).await.unwrap();
    assert_eq!(none, None);
    assert_eq!(fences[0].mark("a").await.unwrap(), None);
    for mark in 1..=50 {
        let writer = usize::try_from(mark).unwrap() % fences.len();
        let reader = (writer + 1) % fences.len();
        fences[writer].admit("a", &token(mark), mark.to_string().as_bytes()).await.unwrap();
        let read = fences[reader].check("a", &shared(mark)).await.unwrap();
        assert_eq!(read.as_deref(), Some(mark.to_string().as_bytes()));
    }
    // Below a path that is there, now.
    assert_eq!(fences[0].check("b", &shared(1)).await.unwrap(), None);
    assert_eq!(fences[0].mark("b").await.unwrap(), None);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_node_that_is_no_mark_is_not_written_over() {
    let store = Store::open().await;
    let fence = store.zookeeper().await;
    fence.open("a", &token(1)).await.unwrap();
    let (client, node) = (store.client().await, format!("{}/a", store.path));
    for garbled in ["", "hello", "7\n8;origin=016c73746f636b"] {
        client.set_data(&node, garbled.as_bytes(), None).await.unwrap();
        let error = fence.admit("a", &token(7), b"x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{garbled}: {error:#}");
        assert_eq!(read(&client, &node).await, garbled.as_bytes());
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn what_the_servers_forbid_is_told() {
    let store = Store::open().await;
    let path = format!("{}/own", store.path);
    let auth = Client::connector().with_auth("digest", b"me:secret");
    let endpoints = store.access.lock().await.as_ref().unwrap().endpoints();
    let mine = auth.connect(&endpoints[0]).await.unwrap();
    let mine = ZooKeeperFence::new(mine, &path, Acls::creator_all());
    store.zookeeper().await.open("parent", &token(1)).await.unwrap();
    mine.admit("a", &token(1), b"mine").await.unwrap();
    let other = ZooKeeperFence::new(store.client().await, &path, Acls::anyone_all());
    for error in [
        other.admit("a", &token(2), b"x").await.unwrap_err(),
        other.admit("b", &token(2), b"x").await.unwrap_err(),
        other.check("b", &shared(2)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    }
    let anonymous = ZooKeeperFence::new(store.client().await, &store.path, Acls::creator_all());
    let error = anonymous.open("c", &token(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    assert_eq!(mine.open("a", &token(1)).await.unwrap().as_deref(), Some(&b"mine"[..]));
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_path_is_below_the_clients_chroot_which_has_to_be_there() {
    let store = Store::open().await;
    let (_, path) = store.data().await;
    let below = |chroot: String| async { store.client().await.chroot(chroot).unwrap() };
    let fence = ZooKeeperFence::new(below(path.clone()).await, "/", Acls::anyone_all());
    fence.admit("a", &token(1), b"x").await.unwrap();
    let data = read(&store.client().await, &format!("{path}/a")).await;
    assert_eq!(data, b"1;origin=016c73746f636b\nx");
    let nowhere = below(format!("{path}/nowhere")).await;
    for path in ["/fences", "/"] {
        let fence = ZooKeeperFence::new(nowhere.clone(), path, Acls::anyone_all());
        let error = fence.open("a", &token(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{path}: {error:#}");
    }
}

fn token(value: u64) -> FencingToken {
    of("stock", value)
}

fn weak(value: u64) -> FencingToken {
    FencingToken::new_weak(value, token(value).origin().clone())
}

fn shared(value: u64) -> SharedToken {
    format!("{};shared", token(value)).parse().unwrap()
}

fn of(lock: &str, value: u64) -> FencingToken {
    let origin = Origin::new(Incarnation::new(b"l").unwrap(), LockName::new(lock).unwrap());
    FencingToken::new(value, origin)
}
