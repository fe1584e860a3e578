//! SQLite: the two durable transactions that make a lock, on a connection that nobody else uses.

use super::{Counts, Raw, Result};
use rusqlite::{Connection, TransactionBehavior, params};

/// The least that makes a lock in a file: a row with the next number of a counter, and its deletion.
pub(crate) struct Sqlite(Connection);

impl Sqlite {
    pub(crate) fn open(path: &str) -> Result<Self> {
        let connection = Connection::open(format!("{path}.raw"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS counter (number INTEGER NOT NULL) STRICT;
             INSERT INTO counter SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM counter);
             CREATE TABLE IF NOT EXISTS lock (number INTEGER NOT NULL PRIMARY KEY, name TEXT) STRICT;",
        )?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(Self(connection))
    }
}

impl Raw for Sqlite {
    const TRIPS: u64 = 2;

    async fn pair(&mut self) -> Result<()> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let number: i64 = transaction
            .prepare_cached("UPDATE counter SET number = number + 1 RETURNING number")?
            .query_row([], |row| row.get(0))?;
        transaction
            .prepare_cached("INSERT INTO lock (number, name) VALUES (?1, ?2)")?
            .execute(params![number, "pair"])?;
        transaction.commit()?;
        self.0.prepare_cached("DELETE FROM lock WHERE number = ?1")?.execute([number])?;
        Ok(())
    }
}

/// There is no server to count.
pub(crate) fn requests(_: &str) -> Result<Counts> {
    Ok(Counts::new())
}
