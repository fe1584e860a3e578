//! A disk that is full, and has room again.

use std::time::Duration;

use portunus_core::backend::{Attempt, Session};
use portunus_core::error::{Error, ErrorKind};
use portunus_testkit::cluster::{Cluster, MariaDb, Postgres};

use crate::scene::{attempt, backend};

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_full_disk_of_postgres_is_told_and_got_over() {
    let server = Postgres::exclusive().await.unwrap();
    let place = "install -d -o postgres /small/pg && psql -U postgres \
        -c 'DROP DATABASE IF EXISTS small' -c 'DROP TABLESPACE IF EXISTS small' \
        -c \"CREATE TABLESPACE small LOCATION '/small/pg'\" \
        -c 'CREATE DATABASE small OWNER portunus TABLESPACE small'";
    shell(&server, place).await;
    let url = format!("{}/small", server.url().rsplit_once('/').unwrap().0);
    a_full_disk_is_told_and_got_over(&server, &url).await;
    shell(
        &server,
        "psql -U postgres -c 'DROP DATABASE small WITH (FORCE)' -c 'DROP TABLESPACE small'",
    )
    .await;
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_full_disk_of_mariadb_is_told_and_got_over() {
    let server = MariaDb::exclusive().await.unwrap();
    let place = "install -d -o mysql /small/my && ln -s /small/my /var/lib/mysql/small && \
        mariadb -e 'GRANT ALL ON small.* TO portunus@\"%\"'";
    shell(&server, place).await;
    let url = format!("{}/small", server.url().rsplit_once('/').unwrap().0);
    a_full_disk_is_told_and_got_over(&server, &url).await;
    shell(&server, "mariadb -e 'DROP DATABASE small'; rm -rf /var/lib/mysql/small /small/my").await;
}

async fn a_full_disk_is_told_and_got_over(server: &Cluster, url: &str) {
    let backend = backend(url);
    let session = backend.open_session(Duration::from_secs(120)).await.unwrap();
    let enter = async |session: &Session, attempt: &Attempt| -> Result<(), Error> {
        backend.enter(session, attempt).await.map(drop)
    };
    let first = attempt("first");
    enter(&session, &first).await.unwrap();
    // `cat` ends with an error, as it should.
    shell(server, "cat /dev/zero >/small/filler || true").await;
    // There is room in pages that are not full.
    let mut refused = None;
    for n in 0..20_000 {
        let next = attempt(&format!("{n:0100}"));
        if let Err(error) = enter(&session, &next).await {
            refused = Some((next, error));
            break;
        }
    }
    let (last, error) = refused.expect("the disk is never full");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    println!("{error:#}");

    shell(server, "rm /small/filler").await;
    enter(&session, &last).await.unwrap();
    enter(&session, &first).await.unwrap();
    backend.close_session(&session).await.unwrap();
}

async fn shell(server: &Cluster, script: &str) {
    let done = server.exec(0, &["sh", "-c", script]).await.unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
}
