//! Users, passwords and what the ACLs of nodes forbid.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::scene::{LONG, PATIENCE, PROMPT, acquire, children, eventually, within};
use harness::trace;
use portunus_core::backend::{LockBackend, LockObserver};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::manager::LockManager;
use portunus_core::name::LockName;
use portunus_core::url::StoreUrl;
use portunus_testkit::cluster::{self, Access};
use portunus_zookeeper::{ZooKeeper, ZooKeeperConfig};
use tracing::Level;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

/// A chroot of a test's own, on an ensemble where nobody else opens sessions.
struct Place {
    cluster: Access<cluster::ZooKeeper>,
    /// Logged in as `app`.
    raw: Client,
    chroot: String,
    /// Those that were there before the test.
    sessions: BTreeSet<String>,
}

impl Place {
    async fn new() -> Self {
        trace::listen();
        let cluster = cluster::ZooKeeper::exclusive().await.unwrap();
        let raw = Client::connector().with_auth("digest", b"app:c0rrect");
        let raw = raw.connect(&cluster.endpoints().join(",")).await.unwrap();
        let chroot = format!("/test-{:032x}", rand::random::<u128>());
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        raw.create(&chroot, b"", &options).await.unwrap();
        let sessions = sessions(&cluster).await;
        Self { cluster, raw, chroot, sessions }
    }

    fn url(&self, login: &str, path: &str) -> StoreUrl {
        let at = if login.is_empty() { "" } else { "@" };
        let hosts = self.cluster.endpoints().join(",");
        StoreUrl::parse(&format!("zookeeper://{login}{at}{hosts}{path}")).unwrap()
    }

    async fn connect(&self, login: &str, options: &str) -> Result<LockManager> {
        open(self.url(login, &format!("{}?{options}", self.chroot))).await
    }

    /// Makes a queue that stays while it is empty: the server removes those that the backend
    /// makes, and what is forbidden there with them.
    async fn queue(&self, name: &str) -> String {
        let queue = format!("{}/portunus/{name}", self.chroot);
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.raw.create(&queue, b"", &options).await.unwrap();
        queue
    }

    /// Lets everybody do all but `missing` to a node.
    async fn forbid(&self, path: &str, missing: Permission) {
        let all = [Permission::READ, Permission::WRITE, Permission::CREATE, Permission::DELETE];
        let left = all.into_iter().filter(|permission| *permission != missing);
        let left = left.fold(Permission::ADMIN, |sum, permission| sum | permission);
        let path = format!("{}{path}", self.chroot);
        let acl = [Acl::new(left, AuthId::anyone())];
        self.raw.set_acl(&path, &acl, None).await.unwrap();
    }

    /// Everything below the chroot.
    async fn nodes(&self) -> Vec<String> {
        let mut nodes = vec![self.chroot.clone()];
        let mut at = 0;
        while at < nodes.len() {
            for child in children(&self.raw, &nodes[at]).await {
                nodes.push(format!("{}/{child}", nodes[at]));
            }
            at += 1;
        }
        nodes.split_off(1)
    }

    /// Fails when a node is left below `parent`, though nobody may list it.
    async fn no_entry(&self, parent: &str) {
        let below = format!("\t{parent}/");
        eventually(PATIENCE, "no entry is left", async || {
            let leader = self.cluster.leader().await.unwrap();
            let dump = self.cluster.ask(leader, "dump").await.unwrap();
            if dump.contains(&below) { Err(dump) } else { Ok(()) }
        })
        .await;
    }

    /// Fails when a session is left beside those of `managers`.
    async fn no_session_but(&self, managers: usize) {
        eventually(PATIENCE, "no session too many", async || {
            let now = sessions(&self.cluster).await;
            let more: Vec<_> = now.difference(&self.sessions).cloned().collect();
            if more.len() == managers { Ok(()) } else { Err(more) }
        })
        .await;
    }

    /// Fails when an entry or a session is left, or a password was told to anybody.
    async fn end(self, managers: impl IntoIterator<Item = LockManager>) {
        for manager in managers {
            manager.shutdown(PROMPT).await.unwrap();
        }
        eventually(PATIENCE, "no entry is left", async || {
            let root = format!("{}/portunus", self.chroot);
            self.raw.sync(&root).await.unwrap();
            let sessions = harness::children(&self.raw, &format!("{root}/.sessions")).await;
            let left = harness::left(&self.raw, &root, &sessions).await;
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
        self.no_session_but(0).await;
        let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
        for (level, word) in levels.into_iter().flat_map(|level| SECRETS.map(|word| (level, word)))
        {
            assert_eq!(trace::told(level, &[word]), [""; 0]);
        }
    }
}

/// The sessions that the ensemble knows.
async fn sessions(cluster: &cluster::ZooKeeper) -> BTreeSet<String> {
    let leader = cluster.leader().await.unwrap();
    let dump = cluster.ask(leader, "dump").await.unwrap();
    dump.lines().filter_map(|line| line.strip_prefix("\t0x")).map(str::to_owned).collect()
}

async fn open(mut url: StoreUrl) -> Result<LockManager> {
    let backend = ZooKeeper::new(ZooKeeperConfig::from_url(&mut url)?)?;
    let manager = LockManager::builder(backend).ttl(LONG).options(&mut url)?.open().await;
    url.finish()?;
    manager
}

/// That the ACL of a node forbids it, without the password.
fn denied(error: &Error, key: &str) {
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    assert_eq!(error.key(), Some(key), "{error:#}");
    assert!(format!("{error:#}").contains("ACL"), "{error:#}");
    for shown in [format!("{error}"), format!("{error:#}"), format!("{error:?}")] {
        assert!(SECRETS.iter().all(|secret| !shown.contains(secret)), "{shown}");
    }
}

async fn cycle(manager: &LockManager, name: &str) {
    let lock = manager.lock(name).unwrap();
    let guard = within(PROMPT, "it is acquired", lock.acquire()).await.unwrap();
    guard.release().await.unwrap();
}

/// Both ways to take a lock end with `Denied`.
async fn cannot_take(manager: &LockManager, name: &str) {
    let lock = manager.lock(name).unwrap();
    denied(&within(PROMPT, "acquire", lock.acquire()).await.unwrap_err(), name);
    denied(&within(PROMPT, "try_acquire", lock.try_acquire()).await.unwrap_err(), name);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn nodes_are_their_creator_s_alone() {
    let place = Place::new().await;
    let manager = place.connect("app:c0rrect", "").await.unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let nodes = place.nodes().await;
    // The namespace, its id, the sessions and one of them, the lock and its entry.
    assert_eq!(nodes.len(), 6, "{nodes:?}");
    for node in &nodes {
        let (acls, _) = place.raw.get_acl(node).await.unwrap();
        let [acl] = &acls[..] else { panic!("{node}: {acls:?}") };
        assert_eq!((acl.permission(), acl.scheme()), (Permission::ALL, "digest"), "{node}");
        assert!(acl.id().starts_with("app:"), "{node}: {acl:?}");
    }
    // Another password makes another user.
    let incarnation = format!("{}/portunus/.incarnation", place.chroot);
    for login in ["app:s3cret", "other:s3cret", ""] {
        let error = within(PROMPT, login, place.connect(login, "")).await.unwrap_err();
        denied(&error, &incarnation);
        place.no_session_but(1).await;
    }
    assert_eq!(place.nodes().await, nodes);
    let shown = format!("{manager:?} {guard:?}");
    assert!(shown.contains("ZooKeeper") && !shown.contains("c0rrect"), "{shown}");
    assert!(guard.is_held());
    guard.release().await.unwrap();
    let other = place.connect("app:c0rrect", "").await.unwrap();
    cycle(&other, "a").await;
    place.end([manager, other]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_lock_of_another_user_cannot_be_taken() {
    let place = Place::new().await;
    let mut managers = Vec::new();
    for (login, options) in [
        ("app:c0rrect", "acl=world"),
        ("app:c0rrect", "acl=creator"),
        ("other:s3cret", ""),
        ("", ""),
    ] {
        managers.push(place.connect(login, options).await.unwrap());
    }
    let [world, app, other, nobody] = &managers[..] else { unreachable!() };
    cycle(world, "everybody's").await;
    let guard = app.lock("ours").unwrap().acquire().await.unwrap();
    let queue = format!("{}/portunus/ours", place.chroot);
    for manager in [other, nobody] {
        cannot_take(manager, "ours").await;
        cycle(manager, "everybody's").await;
    }
    assert_eq!(children(&place.raw, &queue).await.len(), 1);
    assert!(guard.is_held());
    guard.release().await.unwrap();
    place.end(managers).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn who_logs_in_may_let_others_in() {
    let place = Place::new().await;
    let manager = place.connect("app:c0rrect", "acl=world").await.unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    for node in place.nodes().await {
        let (acls, _) = place.raw.get_acl(&node).await.unwrap();
        assert_eq!(acls, Acls::anyone_all().to_vec(), "{node}");
    }
    let nobody = place.connect("", "").await.unwrap();
    let waiter = acquire(&nobody, "a");
    eventually(PROMPT, "two contend", async || match nobody.contenders("a").await.unwrap() {
        found if found.len() == 2 => Ok(()),
        found => Err(found),
    })
    .await;
    guard.release().await.unwrap();
    let guard = within(PROMPT, "the waiter is served", waiter).await.unwrap().unwrap();
    guard.release().await.unwrap();
    place.end([manager, nobody]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_parent_that_takes_no_children_is_named() {
    let place = Place::new().await;
    place.forbid("", Permission::CREATE).await;
    for login in ["app:c0rrect", ""] {
        let error = within(PROMPT, login, place.connect(login, "")).await.unwrap_err();
        denied(&error, &format!("{}/portunus", place.chroot));
        place.no_session_but(0).await;
        assert_eq!(place.nodes().await, [""; 0]);
    }
    // The same below: the namespace is there, and takes no lock that is new.
    place.forbid("", Permission::NONE).await;
    let manager = place.connect("", "").await.unwrap();
    cycle(&manager, "old").await;
    place.forbid("/portunus", Permission::CREATE).await;
    let error = manager.lock("new").unwrap().acquire().await.unwrap_err();
    denied(&error, &format!("{}/portunus/new", place.chroot));
    cycle(&manager, "old").await;
    place.end([manager]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn what_is_forbidden_below_a_lock_leaves_no_entry() {
    let place = Place::new().await;
    let manager = place.connect("", "").await.unwrap();
    let queue = place.queue("a").await;
    cycle(&manager, "a").await;
    for missing in [Permission::CREATE, Permission::READ] {
        place.forbid("/portunus/a", missing).await;
        cannot_take(&manager, "a").await;
        place.no_entry(&queue).await;
    }
    place.forbid("/portunus/a", Permission::NONE).await;
    cycle(&manager, "a").await;
    place.end([manager]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn a_release_that_is_forbidden_says_so_and_is_repeated_until_it_is_allowed() {
    let place = Place::new().await;
    let manager = place.connect("", "").await.unwrap();
    let (lock, queue) = (manager.lock("a").unwrap(), place.queue("a").await);
    cycle(&manager, "a").await;
    for allowed in [true, false] {
        place.forbid("/portunus/a", Permission::DELETE).await;
        let guard = lock.acquire().await.unwrap();
        let error = within(PATIENCE, "release ends", guard.release()).await.unwrap_err();
        denied(&error, "a");
        assert!(lock.try_acquire().await.unwrap().is_none(), "not released, and taken");
        match allowed {
            true => place.forbid("/portunus/a", Permission::NONE).await,
            // No ACL keeps a session's end from removing its nodes.
            false => drop(manager.shutdown(Duration::ZERO).await.unwrap()),
        }
        place.no_entry(&queue).await;
    }
    place.end([]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn nobody_looks_through_a_session_that_was_refused() {
    let place = Place::new().await;
    place.forbid("", Permission::CREATE).await;
    let mut url = place.url("", &place.chroot);
    let backend = ZooKeeper::new(ZooKeeperConfig::from_url(&mut url).unwrap()).unwrap();
    for _ in 0..8 {
        let error = backend.open_session(LONG).await.unwrap_err();
        denied(&error, &format!("{}/portunus", place.chroot));
    }
    place.no_session_but(0).await;
    place.forbid("", Permission::NONE).await;
    let session = backend.open_session(LONG).await.unwrap();
    let name = LockName::new("a").unwrap();
    assert_eq!(backend.contenders(&name).await.unwrap(), []);
    backend.close_session(&session).await.unwrap();
    place.end([]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn the_chroot_has_to_be_there() {
    let place = Place::new().await;
    let missing = format!("{}/not/here", place.chroot);
    let error = within(PROMPT, "connect", open(place.url("", &missing))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:#}");
    assert_eq!(error.key(), Some(&*missing), "{error:#}");
    assert!(format!("{error:#}").contains("chroot"), "{error:#}");
    assert_eq!(place.nodes().await, [""; 0]);
    place.no_session_but(0).await;
    let before = place.raw.check_stat(&place.chroot).await.unwrap().unwrap();
    let manager = place.connect("", "").await.unwrap();
    cycle(&manager, "a").await;
    let after = place.raw.check_stat(&place.chroot).await.unwrap().unwrap();
    assert_eq!((after.czxid, after.mzxid), (before.czxid, before.mzxid));
    place.end([manager]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test zookeeper`"]
async fn the_ensemble_s_bounds_of_a_session_are_kept_and_told() {
    trace::listen();
    let tick = Duration::from_secs(1);
    let ensemble = cluster::ZooKeeper::builder().tick(tick).start().await.unwrap();
    let config = ZooKeeperConfig::new(ensemble.endpoints()).unwrap();
    let backend = ZooKeeper::new(config.clone()).unwrap();
    for (asked, granted) in [
        (Duration::from_secs(24 * 3600), Duration::from_secs(60)),
        (Duration::from_secs(1), 2 * tick),
        (LONG, LONG),
    ] {
        let session = backend.open_session(asked).await.unwrap();
        assert_eq!(session.granted, granted);
        assert!(session.validity < granted && session.renew_every < session.validity);
        backend.close_session(&session).await.unwrap();
        // The engine asks on a thread that tells nobody anything.
        let told = || trace::told(Level::INFO, &[&format!("asked={asked:?}")]);
        let before = told().len();
        let manager = LockManager::builder(ZooKeeper::new(config.clone()).unwrap()).ttl(asked);
        manager.open().await.unwrap().shutdown(PROMPT).await.unwrap();
        let told = told().split_off(before);
        assert_eq!(told.len(), usize::from(asked != granted), "{told:?}");
        assert!(told.iter().all(|told| told.contains(&format!("granted={granted:?}"))), "{told:?}");
    }
    // It is the answer that one lives by.
    let asked = Duration::from_secs(1);
    let manager = LockManager::builder(backend).ttl(asked).open().await.unwrap();
    let guard = manager.lock("a").unwrap().acquire().await.unwrap();
    let renewals = manager.stats().renewals;
    eventually(PATIENCE, "renewals come", async || match manager.stats() {
        stats if stats.renewals > renewals + 5 => Ok(()),
        stats => Err(stats),
    })
    .await;
    assert!(guard.is_held() && guard.remaining() <= 2 * tick);
    guard.release().await.unwrap();
    manager.shutdown(PROMPT).await.unwrap();
    eventually(PATIENCE, "no session is left", async || match sessions(&ensemble).await {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    })
    .await;
}

/// The passwords of this file.
const SECRETS: [&str; 2] = ["c0rrect", "s3cret"];
