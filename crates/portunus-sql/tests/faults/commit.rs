//! A commit of PostgreSQL whose wait for the synchronous standby an operator ends.

use std::time::Duration;

use portunus_core::backend::{Entered, Turn};
use portunus_core::error::ErrorKind;
use portunus_testkit::cluster::{Postgres, Standby};

use crate::scene::{attempt, backend, eventually, kind};

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_commit_whose_wait_is_cancelled_is_not_believed() {
    ended_by("pg_cancel_backend").await;
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_commit_whose_wait_is_terminated_is_not_believed() {
    ended_by("pg_terminate_backend").await;
}

async fn ended_by(operator: &str) {
    let postgres = Postgres::builder().standby(Standby::Synchronous).start().await.unwrap();
    let backend = backend(&postgres.url());
    let session = backend.open_session(Duration::from_secs(60)).await.unwrap();
    postgres.partition(0).await.unwrap();
    let attempt = attempt("waits");
    let end =
        format!("SELECT count({operator}(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    let (entered, ()) = tokio::join!(
        backend.enter(&session, &attempt),
        eventually("the commit waits", async || {
            let ended = postgres.psql(0, &end).await.unwrap();
            if ended == "1\n" { Ok(()) } else { Err(ended) }
        }),
    );
    let (kind, error) = kind(entered);
    assert_eq!(kind, ErrorKind::Unconfirmed, "{error:#}");

    // It is there, but may go with this server; the same attempt gets the same entry once it can't.
    postgres.heal(0).await.unwrap();
    postgres.wait_standby().await.unwrap();
    let token = eventually("the attempt is answered", async || {
        match backend.enter(&session, &attempt).await {
            Ok(Entered::Queued { turn: Turn::Held { token, .. }, .. }) => Ok(token),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let counter = postgres.psql(0, "SELECT counter FROM portunus_key").await.unwrap();
    assert_eq!(counter.trim(), token.to_string(), "a second entry");
    backend.leave(&session, &attempt, true).await.unwrap();
    backend.close_session(&session).await.unwrap();
}
