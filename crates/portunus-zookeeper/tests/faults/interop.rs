//! Locks that other clients and this library both use: kazoo's own `Lock`, and nodes called as
//! Curator and others call theirs.

use std::time::Duration;

use portunus_core::error::ErrorKind;
use portunus_zookeeper::{Layout, ZooKeeperConfig};
use tokio::time::timeout;
use tracing::Level;
use zookeeper_client::{Acls, CreateMode};

use crate::harness::scene::{LONG, PATIENCE, PROMPT, Scene, acquire, eventually, within};
use crate::harness::trace;

/// Each holds while the other waits, and is served after the release; whoever dies makes room.
/// `node` is what kazoo knows our lock by, below the scene's namespace, and `patterns` are those
/// that it is to respect beside its own.
async fn exclude_each_other(scene: &Scene, config: ZooKeeperConfig, node: &str, patterns: &[&str]) {
    let manager = scene.with(config, LONG).await;
    let lock = manager.lock("stock/7").unwrap();
    let queue = scene.queue(node);
    let args = [&[&*queue], patterns].concat();
    let kazoo = async |script| scene.cluster.spawn_python(0, script, &args).await.unwrap();

    let guard = lock.acquire().await.unwrap();
    let mut theirs = kazoo(LOCK).await;
    scene.queued(node, 2).await;
    // kazoo shows the text of our node as the name of who is before it.
    let seen = kazoo(CONTENDERS).await.output().await.unwrap().stdout;
    let seen: Vec<_> = seen.lines().collect();
    assert!(matches!(seen[..], [ours, "kazoo"] if ours.starts_with('{')), "{seen:?}");
    assert!(timeout(BRIEF, theirs.line()).await.is_err(), "two hold");
    let ours = guard.token().value();
    guard.release().await.unwrap();
    assert_eq!(within(PROMPT, "kazoo is served", theirs.line()).await.unwrap(), "in");

    assert!(lock.try_acquire().await.unwrap().is_none());
    let mut waiter = acquire(&manager, "stock/7");
    scene.queued(node, 2).await;
    assert!(timeout(BRIEF, &mut waiter).await.is_err(), "two hold");
    theirs.signal("TERM").await.unwrap();
    let guard = within(PROMPT, "ours is served", waiter).await.unwrap().unwrap();
    assert!(guard.token().value() > ours);
    assert_eq!(theirs.output().await.unwrap().code, Some(0));

    // Theirs waits again, gets it, and dies without a farewell.
    let mut theirs = kazoo(LOCK).await;
    scene.queued(node, 2).await;
    guard.release().await.unwrap();
    assert_eq!(within(PROMPT, "kazoo is served", theirs.line()).await.unwrap(), "in");
    let waiter = acquire(&manager, "stock/7");
    scene.queued(node, 2).await;
    theirs.signal("KILL").await.unwrap();
    let guard = within(PATIENCE, "their session expires", waiter).await.unwrap().unwrap();
    guard.release().await.unwrap();
    scene.queued(node, 0).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn kazoo_and_its_layout_exclude_each_other() {
    let scene = Scene::shared().await;
    let config = scene.config(scene.cluster.endpoints()).layout(Layout::Kazoo);
    exclude_each_other(&scene, config, "stock%2F7", &[]).await;
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn kazoo_with_one_more_pattern_and_the_default_layout_exclude_each_other() {
    let scene = Scene::shared().await;
    let config = scene.config(scene.cluster.endpoints());
    exclude_each_other(&scene, config, "stock%2F7", &["-lock-"]).await;
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn tooz_is_reached_by_its_path() {
    // tooz takes kazoo's lock at `/<namespace>/locks/<name>`.
    let scene = Scene::below("/locks").await;
    let config = scene.config(scene.cluster.endpoints()).layout(Layout::Kazoo);
    exclude_each_other(&scene, config, "stock%2F7", &[]).await;
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn nodes_of_other_clients_stand_in_one_queue_with_ours() {
    let scene = Scene::shared().await;
    let manager = scene.manager(LONG).await;
    for prefix in [
        // Curator, go-zookeeper, madelson, and the recipe WriteLock.
        "_c_6f1e3f0e-4a8b-4d39-9a55-0b7c1d2e3f40-lock-",
        "_c_6f1e3f0e4a8b4d399a550b7c1d2e3f40-lock-",
        "lock-",
        "x-72057594037927936-",
    ] {
        let prefix = format!("{}/{prefix}", scene.queue("a"));
        let mut before = scene.cluster.spawn_python(1, NODE, &[&prefix]).await.unwrap();
        let first = within(PATIENCE, "a node before", before.line()).await.unwrap();
        assert!(manager.lock("a").unwrap().try_acquire().await.unwrap().is_none(), "{prefix}");
        let mut waiter = acquire(&manager, "a");
        let ours = scene.queued("a", 2).await.pop().unwrap();
        let mut after = scene.cluster.spawn_python(1, NODE, &[&prefix]).await.unwrap();
        let last = within(PATIENCE, "a node after", after.line()).await.unwrap();
        let order = manager.contenders("a").await.unwrap();
        let order: Vec<_> = order.iter().map(|found| &*found.entry.key).collect();
        assert_eq!(order, [&*first, &*ours.path, &*last]);
        assert!(timeout(BRIEF, &mut waiter).await.is_err(), "two hold");

        before.signal("TERM").await.unwrap();
        let guard = within(PROMPT, "ours is next", waiter).await.unwrap().unwrap();
        assert_eq!(guard.token().value(), ours.czxid);
        guard.release().await.unwrap();
        after.signal("TERM").await.unwrap();
        for process in [before, after] {
            assert_eq!(process.output().await.unwrap().code, Some(0));
        }
        scene.queued("a", 0).await;
    }
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn our_nodes_are_such_as_curator_and_kazoo_make() {
    let scene = Scene::shared().await;
    let raw = scene.raw().await;
    for (layout, shape) in [
        (Layout::Curator, "_c_xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx-lock-0000000000"),
        (Layout::Kazoo, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx__lock__0000000000"),
    ] {
        let name = format!("{layout:?}");
        let config = scene.config(scene.cluster.endpoints()).layout(layout);
        let manager = scene.with(config, LONG).await;
        let guard = manager.lock(&name).unwrap().acquire().await.unwrap();
        let [entry] = &scene.entries(&name).await[..] else { panic!("one entry") };
        let child = entry.path.rsplit('/').next().unwrap();
        assert!(has_shape(child, shape), "{child}");
        let (data, stat) = raw.get_data(&entry.path).await.unwrap();
        // kazoo decodes it, and Curator takes just one text for a request to let go.
        assert_ne!(String::from_utf8(data).unwrap(), "__REVOKE__");
        assert!(stat.ephemeral_owner > 0, "{stat:?}");
        assert_eq!(entry.czxid, guard.token().value());
        // Who comes next sets its watch on our node, and only its end may wake it.
        assert_eq!(stat.version, 0);
        guard.release().await.unwrap();
    }
    scene.end().await;
}

/// Whether `text` has a hexadecimal digit in the place of each `x`, and is `shape` elsewhere.
fn has_shape(text: &str, shape: &str) -> bool {
    let fits = |(c, x): (char, char)| match x {
        'x' => matches!(c, '0'..='9' | 'a'..='f'),
        other => c == other,
    };
    text.len() == shape.len() && text.chars().zip(shape.chars()).all(fits)
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_child_that_cannot_contend_is_told_of_once_and_blocks_nobody() {
    trace::listen();
    let scene = Scene::shared().await;
    let (manager, queue) = (scene.manager(LONG).await, scene.queue("a"));
    manager.lock("a").unwrap().acquire().await.unwrap().release().await.unwrap();
    let config = format!("{queue}/config");
    let persistent = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let raw = scene.raw().await;
    raw.create(&config, b"", &persistent).await.unwrap();
    for _ in 0..3 {
        let lock = manager.lock("a").unwrap();
        let guard = within(PROMPT, "nobody blocks", lock.acquire()).await.unwrap();
        let waiter = acquire(&manager, "a");
        eventually(PROMPT, "two contend", async || match manager.contenders("a").await.unwrap() {
            found if found.len() == 2 => Ok(()),
            found => Err(found),
        })
        .await;
        guard.release().await.unwrap();
        let guard = within(PROMPT, "the waiter is served", waiter).await.unwrap().unwrap();
        guard.release().await.unwrap();
    }
    let told = trace::told(Level::WARN, &[&queue, "config"]);
    assert_eq!(told.len(), 1, "{told:?}");
    raw.delete(&config, None).await.unwrap();
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_contender_of_no_session_is_named_and_not_waited_for() {
    let scene = Scene::shared().await;
    let (manager, other) = (scene.manager(LONG).await, scene.manager(LONG).await);
    let raw = scene.raw().await;
    let (lock, queue) = (manager.lock("a").unwrap(), scene.queue("a"));
    let (stuck, persistent) = (
        format!("{queue}/x-lock-0000000000"),
        CreateMode::Persistent.with_acls(Acls::anyone_all()),
    );
    // It comes while one holds and one waits.
    lock.acquire().await.unwrap().release().await.unwrap();
    let guard = lock.acquire().await.unwrap();
    let waiter = acquire(&other, "a");
    scene.queued("a", 2).await;
    raw.create(&stuck, b"", &persistent).await.unwrap();
    assert!(guard.is_held());
    guard.release().await.unwrap();
    let error = within(PROMPT, "the waiter", waiter).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:#}");
    assert!(format!("{error:#}").contains(&stuck), "{error:#}");
    // It is there before one enters, also for one who was told already.
    for manager in [&manager, &other, &other] {
        let lock = manager.lock("a").unwrap();
        let error = within(PROMPT, "who enters", lock.acquire()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:#}");
        assert!(format!("{error:#}").contains(&stuck), "{error:#}");
        let error = within(PROMPT, "who tries", lock.try_acquire()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:#}");
    }
    // Nothing of ours is left beside it, and it is left as it was.
    let left = scene.queued("a", 1).await;
    assert_eq!(left[0].path, stuck);
    raw.delete(&stuck, None).await.unwrap();
    let guard = eventually(PROMPT, "the way is free", async || {
        lock.try_acquire().await.unwrap().ok_or("taken")
    })
    .await;
    guard.release().await.unwrap();
    scene.end().await;
}

/// How long nobody may be served who is to wait.
const BRIEF: Duration = Duration::from_millis(300);

/// Takes kazoo's lock, until SIGTERM; its session is short, so that its death is soon known.
const LOCK: &str = r#"
import os, signal, sys
from kazoo.client import KazooClient
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
client = KazooClient(hosts=os.environ["ZOOKEEPER_HOSTS"], timeout=2)
client.start()
lock = client.Lock(sys.argv[1], "kazoo", extra_lock_patterns=sys.argv[2:])
with lock:
    print("in")
    signal.sigwait([signal.SIGTERM])
client.stop()
"#;

/// Shows who contends, as kazoo sees it.
const CONTENDERS: &str = r#"
import os, sys
from kazoo.client import KazooClient
client = KazooClient(hosts=os.environ["ZOOKEEPER_HOSTS"])
client.start()
print(*client.Lock(sys.argv[1], extra_lock_patterns=sys.argv[2:]).contenders(), sep="\n")
client.stop()
"#;

/// Creates an ephemeral node with a number as others do, and removes it after SIGTERM.
const NODE: &str = r#"
import os, signal, sys
from kazoo.client import KazooClient
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
client = KazooClient(hosts=os.environ["ZOOKEEPER_HOSTS"])
client.start()
print(client.create(sys.argv[1], b"10.0.0.1", ephemeral=True, sequence=True, makepath=True))
signal.sigwait([signal.SIGTERM])
client.stop()
"#;
