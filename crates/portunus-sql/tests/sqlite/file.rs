//! Files of every kind: missing, foreign, locked, replaced.

use std::time::Duration;

use portunus_core::backend::{LockBackend, LockObserver};
use portunus_core::error::{Error, ErrorKind};
use portunus_core::name::LockName;
use portunus_sql::sqlite::{Sqlite, SqliteConfig, schema_sql};
use tokio::task::JoinSet;

use crate::{LONG, Scene, attempt};

async fn refused(path: impl AsRef<std::path::Path>) -> Error {
    let backend = Sqlite::new(SqliteConfig::new(path).unwrap());
    backend.open_session(LONG).await.unwrap_err()
}

#[tokio::test]
async fn a_path_that_can_t_be_one_of_locks_is_refused_for_what_it_is() {
    let scene = Scene::new();
    let text = scene.home.path().join("text.db");
    std::fs::write(&text, "something else, and longer than a header is ".repeat(40)).unwrap();
    for (path, kind, says) in [
        (scene.home.path().to_owned(), ErrorKind::Invalid, "is a directory"),
        (scene.home.path().join("none/locks.db"), ErrorKind::Invalid, "no directory"),
        (text, ErrorKind::Invalid, "something else than an SQLite database"),
    ] {
        let error = refused(&path).await;
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// As somebody whom permissions bind: root is not bound by them.
#[test]
#[cfg(target_os = "linux")]
fn a_file_that_can_only_be_read_is_denied() {
    use std::os::unix::fs::PermissionsExt;

    let scene = Scene::new();
    drop(scene.raw());
    let permit = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let writable = scene.home.path().join("writable.db");
    std::fs::write(&writable, "").unwrap();
    permit(&writable, 0o666);
    permit(&scene.path(), 0o444);
    permit(scene.home.path(), 0o555);
    let path = scene.path();
    let denied = std::thread::spawn(move || {
        let nobody = rustix::thread::Uid::from_raw(65534);
        // Of this thread, and of those that it starts. Without root's rights it fails, and need not be.
        let _ = rustix::thread::set_thread_res_uid(nobody, nobody, nobody);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let new = path.with_file_name("new.db");
        runtime
            .block_on(async { [refused(path).await, refused(new).await, refused(writable).await] })
    });
    for error in denied.join().unwrap() {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    }
    permit(scene.home.path(), 0o755);
}

#[tokio::test]
async fn tables_of_another_version_are_refused() {
    let scene = Scene::new();
    scene.raw().execute_batch(schema_sql()).unwrap();
    // What was made from the printed statements will do.
    scene.client(LONG).await.hold("a").await;
    for version in [0, 2] {
        scene.raw().execute("UPDATE portunus_meta SET version = ?1", [version]).unwrap();
        let error = refused(scene.path()).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(&format!("schema version {version}")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_open_a_new_file_at_once_have_the_same_one() {
    let scene = Scene::new();
    let mut opening = JoinSet::new();
    for _ in 0..8 {
        let backend = scene.backend();
        opening.spawn(async move {
            loop {
                match backend.open_session(LONG).await {
                    Ok(session) => return session.incarnation,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}"),
                }
            }
        });
    }
    let mut lives = opening.join_all().await;
    lives.dedup();
    assert_eq!(lives.len(), 1, "{lives:?}");
}

#[tokio::test]
async fn under_a_long_writer_nothing_is_held_and_nothing_is_in_doubt() {
    let scene = Scene::new();
    // An eighth of it is a request's patience, and it is not renewed meanwhile.
    let client = scene.client(Duration::from_secs(6)).await;
    let writer = scene.raw();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let attempt = attempt("a", false);
    let busy = client.backend.enter(&client.session, &attempt).await.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Unavailable, "{busy}");
    assert!(busy.to_string().contains("writing to the file"), "{busy}");
    let busy = client.backend.renew(&client.session, &[]).await.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Unavailable, "{busy}");
    // Who only looks is not held up.
    let name = LockName::new("a").unwrap();
    assert!(client.backend.queue(&name).await.unwrap().is_empty());
    writer.execute_batch("ROLLBACK").unwrap();
    client.backend.renew(&client.session, &[]).await.unwrap();
    assert!(client.backend.queue(&name).await.unwrap().is_empty());
    client.enter(&attempt).await;
}

/// The end of a dead session is written, and that has to wait.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn under_a_long_writer_the_dead_hinder_no_listing() {
    let scene = Scene::new();
    let (dead, observer) = (scene.client(LONG).await, scene.backend());
    dead.hold("a").await;
    let writer = scene.raw();
    writer.execute("UPDATE portunus_session SET ttl = 1", []).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let name = LockName::new("a").unwrap();
    let page = observer.names("", None).await.unwrap();
    assert_eq!(page.names, std::slice::from_ref(&name));
    writer.execute_batch("ROLLBACK").unwrap();
    assert!(observer.queue(&name).await.unwrap().is_empty());
}

/// Grants that the disk has no room for are not given; with room again it goes on.
#[tokio::test]
#[cfg(target_os = "linux")]
#[ignore = "needs the right to mount: `cargo xtask test`"]
async fn on_a_full_disk_nothing_is_held_and_nothing_is_in_doubt() {
    let test = "file::on_a_full_disk_nothing_is_held_and_nothing_is_in_doubt";
    let Some(disk) = in_a_namespace(test, "mount -t tmpfs -o size=400k tmpfs \"$1\"", "") else {
        return;
    };
    let scene = Scene { home: tempfile::tempdir_in(disk).unwrap() };
    let client = scene.client(LONG).await;
    let filler = scene.home.path().join("filler");
    let mut filling = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut filling, &[7; 512]).is_ok() {}
    let name = LockName::new("a").unwrap();
    let mut standing = 0;
    // What is there of the log is filled first.
    let full = loop {
        let mut waiter = attempt("a", false);
        waiter.value = "long".repeat(1000);
        match client.backend.enter(&client.session, &waiter).await {
            Ok(_) => standing += 1,
            Err(error) => break error,
        }
        assert!(standing < 1000, "the disk is not small");
    };
    assert_eq!(full.kind(), ErrorKind::Unavailable, "{full:#}");
    assert!(full.to_string().contains("the disk is full"), "{full}");
    assert_eq!(client.backend.queue(&name).await.unwrap().len(), standing);
    drop(filling);
    std::fs::remove_file(filler).unwrap();
    client.backend.renew(&client.session, &[]).await.unwrap();
    client.hold("b").await;
    assert_eq!(client.backend.queue(&name).await.unwrap().len(), standing);
}

/// The locks in a file that nobody else can find are nobody else's.
#[tokio::test]
#[cfg(unix)]
async fn a_file_that_was_replaced_ends_every_session_in_it() {
    let scene = Scene::new();
    let client = scene.client(LONG).await;
    let (held, _) = client.hold("a").await;
    std::fs::remove_file(scene.path()).unwrap();
    for file in ["locks.db-wal", "locks.db-shm"] {
        let _ = std::fs::remove_file(scene.home.path().join(file));
    }
    let next = scene.client(LONG).await;
    next.hold("a").await;
    assert_ne!(next.session.incarnation, client.session.incarnation);
    let lost = client.backend.renew(&client.session, &[]).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Lost);
    let lost = client.backend.enter(&client.session, &held).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Lost);
    assert_eq!(client.backend.probe().await.unwrap().incarnation, next.session.incarnation);
}

/// The index of the log is what processes exclude each other by; another one is another lock.
#[tokio::test]
#[cfg(unix)]
async fn a_log_that_was_deleted_while_in_use_is_not_mixed_with_another() {
    let scene = Scene::new();
    let client = scene.client(LONG).await;
    let (held, _) = client.hold("a").await;
    client.backend.renew(&client.session, &[]).await.unwrap();
    for file in ["locks.db-wal", "locks.db-shm"] {
        std::fs::remove_file(scene.home.path().join(file)).unwrap();
    }
    // What this process opens anew would be of the old index, as long as a connection is left.
    let refused = client.backend.enter(&client.session, &held).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused:#}");
    let refused = scene.backend().open_session(LONG).await.unwrap_err();
    assert!(refused.to_string().contains("deleted while"), "{refused}");
    // The last of them closes, and what was committed is there.
    client.backend.renew(&client.session, &[]).await.unwrap();
    scene.client(LONG).await;
}

/// One file by two paths would have two logs.
#[tokio::test]
#[cfg(unix)]
async fn a_file_with_two_names_is_refused() {
    let scene = Scene::new();
    let client = scene.client(LONG).await;
    client.hold("a").await;
    let link = scene.home.path().join("link.db");
    std::fs::hard_link(scene.path(), &link).unwrap();
    for path in [scene.path(), link.clone()] {
        let error = refused(path).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("hard link"), "{error}");
    }
    // Who has it open goes on: nobody else comes in.
    client.hold("b").await;
    std::fs::remove_file(link).unwrap();
    // A symbolic link is no other name: SQLite follows it.
    let link = scene.home.path().join("symbolic.db");
    std::os::unix::fs::symlink(scene.path(), &link).unwrap();
    let other = Sqlite::new(SqliteConfig::new(link).unwrap());
    let session = other.open_session(LONG).await.unwrap();
    assert_eq!(session.incarnation, client.session.incarnation);
}

#[tokio::test]
#[cfg(target_os = "linux")]
#[ignore = "needs the right to mount: `cargo xtask test`"]
async fn a_file_that_is_mounted_by_itself_is_refused() {
    let test = "file::a_file_that_is_mounted_by_itself_is_refused";
    let mount = "touch \"$1/mounted.db\" && mount --bind \"$2\" \"$1/mounted.db\"";
    let scene = Scene::new();
    drop(scene.raw());
    let Some(directory) = in_a_namespace(test, mount, scene.path().to_str().unwrap()) else {
        return;
    };
    let error = refused(std::path::Path::new(&directory).join("mounted.db")).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("mounted by itself"), "{error}");
}

/// Runs this very test again in a mount namespace of its own, where `mount` has made something of the
/// directory `$1`, which is returned there; fails if it fails there, or can't be run.
#[cfg(target_os = "linux")]
fn in_a_namespace(test: &str, mount: &str, argument: &str) -> Option<String> {
    if let Ok(inside) = std::env::var(INSIDE) {
        return Some(inside);
    }
    let directory = tempfile::tempdir().unwrap();
    let again = format!("{mount} && {INSIDE}=\"$1\" exec \"$0\" --include-ignored --exact {test}");
    let ran = std::process::Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &again])
        .arg(std::env::current_exe().unwrap())
        .args([directory.path().to_str().unwrap(), argument])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let complained = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{complained}");
    None
}

#[cfg(target_os = "linux")]
const INSIDE: &str = "PORTUNUS_TEST_INSIDE";

/// Who closes the file last takes away what lies beside it, and that is no harm to who opens it just then.
#[tokio::test(flavor = "multi_thread")]
async fn who_opens_a_file_as_others_close_it_is_not_turned_away() {
    let scene = Scene::fast();
    let mut opening = JoinSet::new();
    for _ in 0..4 {
        let path = scene.path();
        opening.spawn(async move {
            for _ in 0..50 {
                let backend = Sqlite::new(SqliteConfig::new(&path).unwrap());
                if let Err(error) = backend.open_session(LONG).await {
                    assert!(!error.to_string().contains("deleted while"), "{error}");
                }
            }
        });
    }
    opening.join_all().await;
}
