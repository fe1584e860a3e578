//! What is particular to MySQL and MariaDB: locks of rows, servers that fail, users who may not, and the rows
//! that are left.

#![cfg(feature = "mysql")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod faults;
mod leavings;
mod parked;
mod refusals;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use portunus_core::backend::{
    Attempt, AttemptId, Entered, EntryId, Holder, LockBackend, Mode, Session, Turn,
};
use portunus_core::error::{ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::url::StoreUrl;
use portunus_sql::mysql::{Mysql, MysqlConfig};
use portunus_testkit::cluster::{Access, MariaDb};
use tokio::time::Instant;

/// A database for one test.
struct Scene {
    server: Access<MariaDb>,
    database: String,
}

impl Scene {
    async fn new() -> Self {
        Self::on(MariaDb::shared().await.unwrap()).await
    }

    /// With a server that no other test uses meanwhile.
    async fn alone() -> Self {
        Self::on(MariaDb::exclusive().await.unwrap()).await
    }

    async fn on(server: Access<MariaDb>) -> Self {
        let database = format!("lock_{:016x}", rand::random::<u64>());
        let scene = Self { server, database };
        let database = &scene.database;
        let made = format!(
            "CREATE DATABASE {database}; GRANT ALL ON {database}.* TO portunus@'%'; \
             CREATE USER IF NOT EXISTS {WATCHER}@'%'; GRANT PROCESS ON *.* TO {WATCHER}@'%'"
        );
        scene.root(&made).await;
        scene
    }

    /// What the superuser's statement answers, one row a line.
    async fn root(&self, statement: &str) -> String {
        let done = self.server.exec(0, &["mariadb", "-Ne", statement]).await.unwrap();
        assert_eq!(done.code, Some(0), "{statement}: {done:?}");
        done.stdout
    }

    /// The same as a number.
    async fn number(&self, statement: &str) -> u64 {
        self.root(statement).await.trim().parse().unwrap()
    }

    async fn count(&self, table: &str) -> u64 {
        self.number(&format!("SELECT count(*) FROM {}.portunus_{table}", self.database)).await
    }

    /// How many connections there are to the database, and of those only such as fit.
    async fn connections(&self, fits: &str) -> u64 {
        let database = &self.database;
        let list = "SELECT count(*) FROM information_schema.processlist WHERE";
        self.number(&format!("{list} db = '{database}' AND user = 'portunus' AND {fits}")).await
    }

    /// Until the server says that so many transactions wait for a row here.
    async fn waits_for_a_row(&self) {
        let waits = format!(
            "SELECT count(*) FROM information_schema.innodb_trx \
             JOIN information_schema.processlist ON id = trx_mysql_thread_id \
             WHERE db = '{}' AND trx_state = 'LOCK WAIT'",
            self.database
        );
        // A second after that it gives up.
        let watcher = format!("mysql://{WATCHER}@{}", self.server.endpoint(0));
        let mut watcher = Conn::new(Opts::from_url(&watcher).unwrap()).await.unwrap();
        let limit = Instant::now() + Duration::from_secs(30);
        while watcher.query_first::<u64, _>(&waits).await.unwrap() == Some(0) {
            assert!(Instant::now() < limit, "nobody waits");
            // InnoDB looks anew only if nobody has asked for 100 ms.
            tokio::time::sleep(Duration::from_millis(110)).await;
        }
    }

    fn url(&self, login: &str) -> String {
        format!("mysql://{login}@{}/{}", self.server.endpoint(0), self.database)
    }

    fn backend(&self) -> Mysql {
        backend(&self.url(LOGIN))
    }

    /// A process of its own, as far as the store can see.
    async fn client(&self, ttl: Duration) -> Client {
        let backend = self.backend();
        let session = backend.open_session(ttl).await.unwrap();
        Client { backend, session }
    }

    /// A connection without any setting of ours, but for how long it waits for a row.
    async fn raw(&self) -> Conn {
        let mut raw = Conn::new(Opts::from_url(&self.url(LOGIN)).unwrap()).await.unwrap();
        raw.query_drop("SET SESSION innodb_lock_wait_timeout = 50").await.unwrap();
        raw
    }
}

struct Client {
    backend: Mysql,
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
        (attempt.clone(), held(&self.enter(&attempt).await.1))
    }

    /// Tries for a lock; returns whether it is held now.
    async fn tries(&self, name: &str) -> bool {
        let entered = self.backend.enter(&self.session, &attempt(name, true)).await.unwrap();
        matches!(entered, Entered::Queued { turn: Turn::Held { .. }, .. })
    }

    /// As the engine does: enters until there is an answer.
    async fn enters_again(&self, attempt: &Attempt) -> (EntryId, Turn) {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            match self.backend.enter(&self.session, attempt).await {
                Ok(Entered::Queued { entry, turn }) => return (entry, turn),
                Ok(Entered::Refused) => panic!("it was refused"),
                Err(error) => {
                    assert!(error.is_retryable() && Instant::now() < limit, "{error:#}");
                }
            }
        }
    }
}

fn backend(url: &str) -> Mysql {
    Mysql::new(MysqlConfig::from_url(&mut StoreUrl::parse(url).unwrap()).unwrap()).unwrap()
}

fn held(turn: &Turn) -> u64 {
    match turn {
        Turn::Held { token, .. } => *token,
        other => panic!("not held: {other:?}"),
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

fn kind<T: std::fmt::Debug>(done: Result<T>) -> ErrorKind {
    done.unwrap_err().kind()
}

const LONG: Duration = Duration::from_secs(60);
const LOGIN: &str = "portunus:portunus";
/// A user who may see what others do, and nothing else.
const WATCHER: &str = "watcher";
