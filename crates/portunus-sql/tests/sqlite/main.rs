//! What is particular to SQLite: who is dead, files of every kind, and the rows that are left.

#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod file;
mod leavings;
mod liveness;
mod restored;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{
    Attempt, AttemptId, Entered, EntryId, Holder, LockBackend, Mode, Session, Turn,
};
use portunus_core::name::LockName;
use portunus_sql::sqlite::{Sqlite, SqliteConfig};
use rusqlite::Connection;
use tempfile::TempDir;

/// A file for one test.
struct Scene {
    home: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    /// In memory, where there is such a place: for tests of many commits, and not of durability.
    fn fast() -> Self {
        let memory = PathBuf::from("/dev/shm");
        match memory.is_dir() {
            true => Self { home: tempfile::tempdir_in(memory).unwrap() },
            false => Self::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("locks.db")
    }

    fn backend(&self) -> Sqlite {
        Sqlite::new(SqliteConfig::new(self.path()).unwrap())
    }

    /// A process of its own, as far as the store can see.
    async fn client(&self, ttl: Duration) -> Client {
        let backend = self.backend();
        let session = backend.open_session(ttl).await.unwrap();
        Client { backend, session }
    }

    fn raw(&self) -> Connection {
        let raw = Connection::open(self.path()).unwrap();
        raw.busy_timeout(Duration::from_secs(5)).unwrap();
        raw
    }

    fn count(&self, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM portunus_{table}");
        self.raw().query_row(&sql, [], |row| row.get(0)).unwrap()
    }
}

struct Client {
    backend: Sqlite,
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
