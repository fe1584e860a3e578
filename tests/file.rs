//! A file of locks that one test has alone.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

/// A directory with the file.
pub(crate) struct File(TempDir);

impl File {
    pub(crate) fn new() -> Self {
        // In memory, where there is such a place: a busy disk takes a large part of a time to live to sync.
        let memory = Path::new("/dev/shm");
        let home = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self(home.unwrap())
    }

    pub(crate) fn url(&self, ttl: &str) -> String {
        format!("sqlite:{}?ttl={ttl}", self.path().display())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("locks.db")
    }

    pub(crate) fn connection(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    /// Whether somebody can write now, or soon.
    pub(crate) async fn is_writable(&self) -> bool {
        let file = self.connection();
        let writing = tokio::task::spawn_blocking(move || {
            file.busy_timeout(Duration::from_millis(200)).unwrap();
            file.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok()
        });
        writing.await.unwrap()
    }

    pub(crate) fn count(&self, table: &str) -> i64 {
        let count = format!("SELECT count(*) FROM {table}");
        self.connection().query_row(&count, [], |row| row.get(0)).unwrap()
    }

    /// Those of the tables that have rows.
    pub(crate) fn rows(&self, tables: &[&str]) -> Vec<String> {
        let counts = tables.iter().map(|table| (self.count(table), table));
        counts
            .filter(|(count, _)| *count > 0)
            .map(|(count, table)| format!("{count} in {table}"))
            .collect()
    }
}
