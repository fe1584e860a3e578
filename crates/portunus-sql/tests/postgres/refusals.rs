//! Databases and roles that can't be used, and what is said of them.

use portunus_core::backend::{LockBackend, LockObserver};
use portunus_core::error::{Error, ErrorKind};
use portunus_core::manager::LockManager;
use portunus_core::name::LockName;

use crate::{LONG, Scene, attempt, backend};

async fn refused(url: &str) -> Error {
    let error = backend(url).open_session(LONG).await.unwrap_err();
    assert!(!format!("{error:#}").contains("s3cret"), "{error:#}");
    error
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_wrong_database_and_a_wrong_password_are_named() {
    let scene = Scene::new().await;
    let error = refused(&scene.url.replace(&scene.database, "nowhere")).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("no such database"), "{error}");
    let error = refused(&scene.url.replace(":portunus@", ":s3cret@")).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_missing_privilege_names_the_grants() {
    let scene = Scene::new().await;
    let (role, database) = (format!("r{}", scene.database), &scene.database);
    let url = scene.url.replace("portunus:portunus@", &format!("{role}:s3cret@"));
    scene.admin("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD 's3cret'")).await;
    // No tables, and no right to make them.
    let error = refused(&url).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("schema_sql"), "{error}");
    // Tables, and no right to write them.
    scene.backend().create_schema().await.unwrap();
    let error = refused(&url).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("SELECT, INSERT, UPDATE and DELETE"), "{error}");
    // What the page says is enough, and for all that there is to do.
    for grant in [
        "SELECT, INSERT, UPDATE, DELETE ON portunus_key, portunus_session, portunus_entry",
        "SELECT, INSERT, UPDATE ON portunus_sighting",
        "SELECT, UPDATE ON portunus_meta",
    ] {
        scene.admin(database, &format!("GRANT {grant} TO {role}")).await;
    }
    let granted = backend(&url);
    let session = granted.open_session(LONG).await.unwrap();
    let client = crate::Client { backend: granted, session };
    let (attempt, _) = client.hold("a").await;
    assert!(!client.tries("a").await);
    client.leave(&attempt).await;
    client.backend.renew(&client.session, &[]).await.unwrap();
    assert_eq!(client.backend.prune().await.unwrap(), 1);
    client.backend.probe().await.unwrap();
    client.backend.close_session(&client.session).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn tables_of_another_version_are_left_alone() {
    let scene = Scene::new().await;
    scene.backend().create_schema().await.unwrap();
    for (version, cure) in [(0, "drop the tables"), (2, "update this program")] {
        let set = format!("UPDATE portunus_meta SET version = {version}");
        scene.raw().await.batch_execute(&set).await.unwrap();
        let error = refused(&scene.url).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(cure), "{error}");
    }
    scene.raw().await.batch_execute("DROP TABLE portunus_sighting, portunus_entry").await.unwrap();
    scene.raw().await.batch_execute("UPDATE portunus_meta SET version = 1").await.unwrap();
    let client = scene.client(LONG).await;
    let error = client.backend.enter(&client.session, &attempt("a", false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("schema_sql"), "{error}");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn many_make_the_tables_at_once() {
    let scene = Scene::new().await;
    let making = (0..8).map(|_| {
        // One after the other makes them, which a busy machine may take some seconds for.
        let opening = LockManager::builder(scene.backend()).connect_timeout(LONG).open();
        tokio::spawn(async move {
            let manager = opening.await.unwrap();
            let guard = manager.lock("a").unwrap().acquire().await.unwrap();
            guard.token()
        })
    });
    let mut made = Vec::new();
    for making in making.collect::<Vec<_>>() {
        made.push(making.await.unwrap());
    }
    assert!(made.iter().all(|token| token.partial_cmp(&made[0]).is_some()), "{made:?}");
    assert_eq!(scene.count("meta").await, 1);
}

/// A default that is read-only is not the server's last word.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn the_defaults_of_the_database_do_not_matter() {
    let scene = Scene::new().await;
    for (setting, value) in [
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("synchronous_commit", "off"),
        ("statement_timeout", "1h"),
    ] {
        let set = format!("ALTER DATABASE {} SET {setting} = '{value}'", scene.database);
        scene.admin("postgres", &set).await;
    }
    let client = scene.client(LONG).await;
    let (attempt, _) = client.hold("a").await;
    assert!(!client.tries("a").await);
    client.leave(&attempt).await;
}

/// Of several servers the first that takes writes is used, and one that can't be reached is passed by.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_server_that_is_away_is_passed_by() {
    let scene = Scene::new().await;
    let url = scene.url.replace("portunus@", "portunus@127.0.0.1:1,");
    backend(&url).open_session(LONG).await.unwrap();
    let alone = "postgres://u:s3cret@127.0.0.1:1,127.0.0.1:2/db";
    assert_eq!(refused(alone).await.kind(), ErrorKind::Unavailable);
}

/// Keys of another program's, and more of them than a page has.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn names_go_on_behind_what_is_no_name() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    client.hold("z").await;
    let keys = "INSERT INTO portunus_entry SELECT (jsonb_populate_record(entry, jsonb_build_object(\
        'attempt', '\\x' || lpad(to_hex(n), 32, '0'), 'key', 'portunus/' || repeat('x', 600) || n\
        ))).* FROM portunus_entry AS entry, generate_series(1, 2500) AS n";
    assert_eq!(scene.raw().await.execute(keys, &[]).await.unwrap(), 2500);
    let (mut names, mut page, mut pages) = (Vec::new(), None, 0);
    loop {
        let next = client.backend.names("", page.as_deref()).await.unwrap();
        names.extend(next.names);
        pages += 1;
        page = next.next;
        if page.is_none() {
            break;
        }
    }
    assert_eq!((names, pages), (vec![LockName::new("z").unwrap()], 3));
}
