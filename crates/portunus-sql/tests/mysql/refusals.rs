//! Servers that take no writes, users who may not, tables that are others.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use portunus_core::backend::{LockBackend, LockObserver};
use portunus_core::error::{Error, ErrorKind, Result};
use tokio::time::timeout;

use crate::{Client, LOGIN, LONG, Scene, attempt, backend, held, kind};

async fn refused(url: &str) -> Error {
    backend(url).open_session(LONG).await.unwrap_err()
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_wrong_login_or_database_is_said() {
    let scene = Scene::new().await;
    let error = refused(&scene.url("portunus:s3cret")).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    let text = format!("{error:#} {error:?}");
    assert!(text.contains("password") && !text.contains("s3cret"), "{text}");
    scene.root(r"GRANT ALL ON `lock\_none%`.* TO portunus@'%'").await;
    let endpoint = scene.server.endpoint(0);
    let error = refused(&format!("mysql://{LOGIN}@{endpoint}/lock_none")).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("CREATE DATABASE"), "{error}");
    let error = refused(&format!("mysql://{LOGIN}@{endpoint}/mysql")).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_user_needs_four_privileges_once_the_tables_are_there() {
    let scene = Scene::new().await;
    let database = &scene.database;
    let user = format!("u{:x}", rand::random::<u32>());
    scene.root(&format!("CREATE USER {user}@'%' IDENTIFIED BY 'x'")).await;
    scene.root(&format!("GRANT SELECT ON {database}.* TO {user}@'%'")).await;
    let url = scene.url(&format!("{user}:x"));
    let error = refused(&url).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("schema_sql"), "{error}");
    scene.backend().create_schema().await.unwrap();
    let error = refused(&url).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("INSERT"), "{error}");
    scene.root(&format!("REVOKE ALL ON {database}.* FROM {user}@'%'")).await;
    for table in ["key", "session", "entry", "sighting", "meta"] {
        let privileges =
            if table == "meta" { "SELECT, UPDATE" } else { "SELECT, INSERT, UPDATE, DELETE" };
        let table = format!("{database}.portunus_{table}");
        scene.root(&format!("GRANT {privileges} ON {table} TO {user}@'%'")).await;
    }
    let client = backend(&url);
    let session = client.open_session(LONG).await.unwrap();
    client.renew(&session, &[]).await.unwrap();
    let attempt = attempt("a", false);
    client.enter(&session, &attempt).await.unwrap();
    client.leave(&session, &attempt, true).await.unwrap();
    client.probe().await.unwrap();
    client.close_session(&session).await.unwrap();
    assert_eq!(client.prune().await.unwrap(), 1);
    scene.root(&format!("DROP USER {user}@'%'")).await;
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn tables_of_another_version_are_refused() {
    let scene = Scene::new().await;
    scene.backend().create_schema().await.unwrap();
    for (version, cure) in [(0, "drop the tables"), (2, "update this program")] {
        let database = &scene.database;
        scene.root(&format!("UPDATE {database}.portunus_meta SET version = {version}")).await;
        let error = refused(&scene.url(LOGIN)).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(cure), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn several_make_the_tables_at_once() {
    let scene = Scene::new().await;
    let backends: Vec<_> = (0..6).map(|_| scene.backend()).collect();
    // As the engine does: on a busy machine one waits for the others longer than a try may take.
    let making = backends.iter().map(async |one| {
        while let Err(error) = one.create_schema().await {
            assert!(error.is_retryable(), "{error:#}");
        }
    });
    timeout(LONG, join_all(making)).await.unwrap();
    let mut lives = Vec::new();
    for backend in &backends {
        lives.push(backend.probe().await.unwrap().incarnation);
    }
    lives.dedup();
    assert_eq!((lives.len(), scene.count("meta").await), (1, 1));
}

/// Also for a user who may write regardless: a primary that was made a replica while it was connected to.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_server_that_is_read_only_is_refused() {
    let scene = Scene::alone().await;
    let user = format!("u{:x}", rand::random::<u32>());
    scene.root(&format!("CREATE USER {user}@'%' IDENTIFIED BY 'x'")).await;
    scene.root(&format!("GRANT ALL ON *.* TO {user}@'%'")).await;
    let url = scene.url(&format!("{user}:x"));
    let client = backend(&url);
    let session = client.open_session(LONG).await.unwrap();
    let waiting = attempt("a", false);
    let one = client.enter(&session, &waiting).await.unwrap();
    client.leave(&session, &waiting, false).await.unwrap();
    drop(one);
    scene.root("SET GLOBAL read_only = 1").await;
    let (renewed, entered) =
        (client.renew(&session, &[]).await, client.enter(&session, &attempt("a", true)).await);
    let (opened, new) = (refused(&scene.url(LOGIN)).await, refused(&url).await);
    scene.root("SET GLOBAL read_only = 0").await;
    for error in [renewed.unwrap_err(), entered.unwrap_err(), opened, new] {
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("read-only"), "{error}");
    }
    client.renew(&session, &[]).await.unwrap();
    let entered = client.enter(&session, &attempt("a", true)).await.unwrap();
    let portunus_core::backend::Entered::Queued { turn, .. } = entered else { panic!() };
    held(&turn);
    scene.root(&format!("DROP USER {user}@'%'")).await;
}

/// By a connection from before, of a user who may write regardless: no request changes anything there, or
/// confirms a grant, or says that there is nothing to change.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_server_that_became_a_replica_changes_nothing() {
    let scene = Scene::alone().await;
    let user = format!("u{:x}", rand::random::<u32>());
    scene.root(&format!("CREATE USER {user}@'%' IDENTIFIED BY 'x'")).await;
    scene.root(&format!("GRANT ALL ON *.* TO {user}@'%'")).await;
    let url = scene.url(&format!("{user}:x"));
    let mut admin = Conn::new(Opts::from_url(&url).unwrap()).await.unwrap();
    let backend = backend(&url);
    let session = backend.open_session(LONG).await.unwrap();
    let client = Client { backend, session };
    let one = attempt("a", false);
    let (entry, turn) = client.enter(&one).await;
    let (backend, session) = (&client.backend, &client.session);
    let requests: [(&str, BoxFuture<'_, Result<()>>); 8] = [
        ("look", backend.look(session, &one, &entry).map(|done| done.map(drop)).boxed()),
        ("leave", backend.leave(session, &one, false).map(|done| done.map(drop)).boxed()),
        ("withdraw", backend.leave(session, &one, true).map(|done| done.map(drop)).boxed()),
        ("convert", backend.convert(session, &one, &entry).boxed()),
        ("publish", backend.publish(session, &one, &entry, "x").boxed()),
        ("evict", backend.evict(&one.name, &entry).map(|done| done.map(drop)).boxed()),
        ("close", backend.close_session(session).boxed()),
        ("prune", backend.prune().map(|done| done.map(drop)).boxed()),
    ];
    for (verb, request) in requests {
        // Connected, for one that is not is refused at that.
        assert_eq!(backend.look(session, &one, &entry).await.unwrap(), turn, "before {verb}");
        admin.query_drop("SET GLOBAL read_only = 1").await.unwrap();
        let done = request.await;
        admin.query_drop("SET GLOBAL read_only = 0").await.unwrap();
        let error = done.expect_err(verb);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{verb}: {error}");
        assert!(error.to_string().contains("read-only now"), "{verb}: {error}");
    }
    assert_eq!(backend.look(session, &one, &entry).await.unwrap(), turn);
    // Nor does anybody end another's session.
    let brief = std::time::Duration::from_secs(1);
    crate::backend(&url).open_session(brief).await.unwrap();
    backend.queue(&one.name).await.unwrap();
    admin.query_drop("SET GLOBAL read_only = 1").await.unwrap();
    let refused = async {
        loop {
            if let Err(error) = backend.queue(&one.name).await {
                return error;
            }
        }
    };
    let refused = tokio::time::timeout(LONG, refused).await;
    admin.query_drop("SET GLOBAL read_only = 0").await.unwrap();
    assert!(refused.unwrap().to_string().contains("read-only now"));
    assert_eq!(scene.count("session").await, 2);
    scene.root(&format!("DROP USER {user}@'%'")).await;
}

/// Of several servers that are named, one that does not answer is passed over, and one that takes no
/// writes.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn the_first_server_that_takes_writes_is_used() {
    let scene = Scene::new().await;
    // A port on which nobody listens, and one that says nothing.
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let endpoint = scene.server.endpoint(0);
    let database = &scene.database;
    backend(&format!("mysql://{LOGIN}@{closed},{endpoint}/{database}"))
        .open_session(LONG)
        .await
        .unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap();
    let client = backend(&format!("mysql://{LOGIN}@{silent_at},{endpoint}/{database}"));
    // The engine drops a call that takes too long.
    let limit = std::time::Duration::from_millis(300);
    tokio::time::timeout(limit, client.open_session(LONG)).await.unwrap_err();
    let opened = tokio::time::timeout(LONG, client.open_session(LONG)).await.unwrap();
    opened.unwrap();
    let away = refused(&format!("mysql://{LOGIN}@{closed}/{database}")).await;
    assert_eq!(kind::<()>(Err(away)), ErrorKind::Unavailable);
}
