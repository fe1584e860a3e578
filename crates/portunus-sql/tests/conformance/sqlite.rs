//! The suite on a file in a temporary directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{LockBackend, LockObserver, Session};
use portunus_core::name::LockName;
use portunus_sql::sqlite::{Sqlite, SqliteConfig};
use portunus_testkit::{Harness, async_trait};
use tempfile::TempDir;

struct SqliteHarness {
    home: TempDir,
    observer: Sqlite,
}

impl SqliteHarness {
    async fn open() -> Self {
        let home = home();
        let observer = Sqlite::new(config(&home));
        observer.probe().await.unwrap();
        Self { home, observer }
    }

    /// A connection without any setting of ours, as an operator's tool has it.
    fn raw(&self) -> rusqlite::Connection {
        let raw = rusqlite::Connection::open(config(&self.home).path()).unwrap();
        raw.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        raw
    }
}

#[async_trait]
impl Harness for SqliteHarness {
    async fn backend(&self) -> Arc<dyn LockBackend> {
        Arc::new(Sqlite::new(config(&self.home)))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(1200)
    }

    async fn end_session(&self, session: &Session) {
        let id = i64::try_from(session.id.0).unwrap();
        self.raw().execute("DELETE FROM portunus_session WHERE id = ?1", [id]).unwrap();
    }

    /// Entries, tombstones, sessions, and what was seen of others: all rows but the one of the file.
    async fn audit(&self, _: &[Session]) -> Vec<String> {
        // Who crashed is found dead by whoever looks next.
        self.observer.queue(&LockName::new("audit").unwrap()).await.unwrap();
        let raw = self.raw();
        let mut left = Vec::new();
        for table in ["portunus_session", "portunus_entry", "portunus_sighting"] {
            let sql = format!("SELECT count(*) FROM {table}");
            let count: i64 = raw.query_row(&sql, [], |row| row.get(0)).unwrap();
            left.extend((count > 0).then(|| format!("{count} rows in {table}")));
        }
        left
    }
}

/// In memory, where there is such a place: a sixth of the time to live is a request's time, and a busy disk
/// may take that long to sync.
fn home() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn config(home: &TempDir) -> SqliteConfig {
    SqliteConfig::new(home.path().join("locks.db")).unwrap()
}

portunus_testkit::conformance! {
    SqliteHarness::open => [
        exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many, shared,
        permits,
    ]
}
