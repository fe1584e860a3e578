//! What is particular to PostgreSQL: who is dead, requests that are late, and servers that refuse.

#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod crowd;
mod late;
mod liveness;
mod refusals;
mod server;
mod tokens;
mod transaction;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{
    Attempt, AttemptId, Entered, EntryId, Holder, LockBackend, Mode, Session, Turn,
};
use portunus_core::error::{ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::url::StoreUrl;
use portunus_sql::postgres::{Postgres, PostgresConfig};
use portunus_testkit::cluster::{self, Access};
use tokio_postgres::{NoTls, Row};

/// A database for one test.
struct Scene {
    server: Access<cluster::Postgres>,
    database: String,
    url: String,
}

impl Scene {
    async fn new() -> Self {
        Self::on(cluster::Postgres::shared().await.unwrap()).await
    }

    async fn on(server: Access<cluster::Postgres>) -> Self {
        let database = format!("lock_{:016x}", rand::random::<u64>());
        let url = format!("{}/{database}", server.url().rsplit_once('/').unwrap().0);
        let scene = Self { server, database, url };
        scene
            .admin("postgres", &format!("CREATE DATABASE {} OWNER portunus", scene.database))
            .await;
        scene
    }

    /// Runs a statement as the superuser.
    async fn admin(&self, database: &str, sql: &str) {
        let command =
            ["psql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql];
        let done = self.server.exec(0, &command).await.unwrap();
        assert_eq!(done.code, Some(0), "{done:?}");
    }

    fn backend(&self) -> Postgres {
        backend(&self.url)
    }

    /// A process of its own, as far as the store can see.
    async fn client(&self, ttl: Duration) -> Client {
        let backend = self.backend();
        let session = backend.open_session(ttl).await.unwrap();
        Client { backend, session }
    }

    /// A connection without any setting of ours, as an operator's tool has it.
    async fn raw(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn count(&self, table: &str) -> i64 {
        self.one(&format!("SELECT count(*) FROM portunus_{table}")).await.get(0)
    }

    async fn one(&self, sql: &str) -> Row {
        self.raw().await.query_one(sql, &[]).await.unwrap()
    }

    /// Repeats a call, which is refused for being too late for a row, until one of them waits for it;
    /// then runs `go_on` under it, and returns how that call ended.
    async fn while_waiting<T>(
        &self,
        call: impl AsyncFn() -> Result<T>,
        go_on: impl Future<Output = ()>,
    ) -> Result<T> {
        let raw = self.raw().await;
        let is_waiting = async || {
            let waiting = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = \
                           current_database() AND application_name = 'portunus' \
                           AND wait_event_type = 'Lock')";
            while !raw.query_one(waiting, &[]).await.unwrap().get::<_, bool>(0) {}
        };
        loop {
            let mut calling = pin!(call());
            tokio::select! {
                biased;
                done = &mut calling => {
                    assert_eq!(done.err().unwrap().kind(), ErrorKind::Unavailable);
                }
                () = is_waiting() => {
                    go_on.await;
                    return calling.await;
                }
            }
        }
    }
}

fn backend(url: &str) -> Postgres {
    Postgres::new(PostgresConfig::from_url(&mut StoreUrl::parse(url).unwrap()).unwrap()).unwrap()
}

struct Client {
    backend: Postgres,
    session: Session,
}

impl Client {
    async fn enter(&self, attempt: &Attempt) -> (EntryId, Turn) {
        match self.backend.enter(&self.session, attempt).await.unwrap() {
            Entered::Queued { entry, turn } => (entry, turn),
            Entered::Refused => panic!("it was refused"),
        }
    }

    /// Takes a lock that is free; returns the attempt and its token.
    async fn hold(&self, name: &str) -> (Attempt, u64) {
        let attempt = attempt(name, false);
        match self.enter(&attempt).await.1 {
            Turn::Held { token, .. } => (attempt, token),
            other => panic!("not held: {other:?}"),
        }
    }

    /// As the engine does: enters until there is an answer.
    async fn holds_again(&self, name: &str) -> (Attempt, u64) {
        let attempt = attempt(name, false);
        let entering = async {
            loop {
                match self.backend.enter(&self.session, &attempt).await {
                    Ok(Entered::Queued { turn: Turn::Held { token, .. }, .. }) => return token,
                    Ok(other) => panic!("not held: {other:?}"),
                    Err(error) => assert!(error.is_retryable(), "{error:#}"),
                }
            }
        };
        let token = tokio::time::timeout(LONG, entering).await.expect("there is no answer");
        (attempt, token)
    }

    async fn leave(&self, attempt: &Attempt) {
        self.backend.leave(&self.session, attempt, false).await.unwrap();
    }

    /// Tries for a lock; returns whether it is held now.
    async fn tries(&self, name: &str) -> bool {
        let entered = self.backend.enter(&self.session, &attempt(name, true)).await.unwrap();
        matches!(entered, Entered::Queued { turn: Turn::Held { .. }, .. })
    }

    fn row(&self) -> i64 {
        i64::try_from(self.session.id.0).unwrap()
    }
}

fn attempt(name: &str, try_only: bool) -> Attempt {
    Attempt {
        id: AttemptId(rand::random()),
        name: LockName::new(name).unwrap(),
        mode: Mode::Exclusive,
        try_only,
        value: String::new(),
        holder: Arc::new(Holder { host: "h".into(), pid: 1, app: String::new() }),
    }
}

const LONG: Duration = Duration::from_secs(60);
