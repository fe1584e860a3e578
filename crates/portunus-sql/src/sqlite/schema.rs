//! The tables, and making them.

use portunus_core::error::{Error, ErrorKind};
use portunus_core::token::Incarnation;
use rusqlite::{Connection, OptionalExtension};

use super::error::{Fallible, STORE, write};
use crate::schema::{VERSION, check_version};

/// The statements that make the tables, as opening a session runs them where they are missing.
///
/// The triggers are what makes an operator's own `DELETE` safe, from any tool: the entries of a session
/// go with its row, and each going raises the numbers by which waiters notice it.
#[must_use]
pub fn schema_sql() -> &'static str {
    SCHEMA
}

/// Makes the tables unless they are there; two processes may do so at once.
pub(super) fn prepare(connection: &mut Connection) -> Fallible<Incarnation> {
    if let Some(incarnation) = read(connection)? {
        return Ok(incarnation);
    }
    write(connection, |transaction| {
        // Another process may have been faster.
        if let Some(incarnation) = read(transaction)? {
            return Ok(incarnation);
        }
        transaction.execute_batch(SCHEMA)?;
        let made = read(transaction)?;
        Ok(made.ok_or_else(|| Error::new(ErrorKind::Protocol, STORE, "open_session"))?)
    })
}

/// The life of this file, if it has our tables; their version is checked.
fn read(connection: &Connection) -> Fallible<Option<Incarnation>> {
    let there = connection.query_row(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'portunus_meta'",
        [],
        |_| Ok(()),
    );
    if there.optional()?.is_none() {
        return Ok(None);
    }
    let version = connection.query_row("SELECT version FROM portunus_meta", [], |row| row.get(0));
    let version: i64 = version.optional()?.unwrap_or(VERSION - 1);
    check_version(STORE, version)?;
    let incarnation: Vec<u8> =
        connection.query_row("SELECT incarnation FROM portunus_meta", [], |row| row.get(0))?;
    Ok(Some(Incarnation::new(incarnation)?))
}

const SCHEMA: &str = "\
-- One row: what is true of the whole file.
CREATE TABLE portunus_meta (
  one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
  version INTEGER NOT NULL,
  incarnation BLOB NOT NULL,
  position INTEGER NOT NULL, -- raised by each change; each entry's is its token
  moved INTEGER NOT NULL     -- of the last change that may be somebody's turn
) STRICT;
INSERT INTO portunus_meta VALUES (1, 1, randomblob(16), 0, 0);

-- A manager's liveness. A session without a row has ended.
CREATE TABLE portunus_session (
  id INTEGER NOT NULL PRIMARY KEY,
  ttl INTEGER NOT NULL,      -- nanoseconds
  beat INTEGER NOT NULL,     -- raised by each renewal
  kernel TEXT NOT NULL,      -- whose time since boot is the next
  renewed INTEGER NOT NULL   -- nanoseconds
) STRICT;

-- The queues of all locks.
CREATE TABLE portunus_entry (
  position INTEGER NOT NULL PRIMARY KEY,
  attempt BLOB NOT NULL UNIQUE,
  session INTEGER NOT NULL,
  ended INTEGER NOT NULL DEFAULT 0,   -- withdrawn, and kept until its session ends
  key TEXT NOT NULL,                  -- <namespace>/<name>
  mode TEXT NOT NULL,                 -- exclusive, shared, permit
  permits INTEGER,
  marked INTEGER NOT NULL DEFAULT 0,  -- a permit that holds
  changed INTEGER NOT NULL DEFAULT 0, -- the position at which mode or mark changed
  host TEXT NOT NULL,
  pid INTEGER NOT NULL,
  app TEXT NOT NULL,
  value TEXT NOT NULL
) STRICT;
CREATE INDEX portunus_entry_queue ON portunus_entry (key, position) WHERE ended = 0;

-- What observers of one kernel saw of sessions of another.
CREATE TABLE portunus_sighting (
  kernel TEXT NOT NULL,
  session INTEGER NOT NULL,
  beat INTEGER NOT NULL,
  since INTEGER NOT NULL, -- nanoseconds since that kernel's boot
  PRIMARY KEY (kernel, session)
) STRICT, WITHOUT ROWID;

-- By a scan: an index on the session would cost every grant a page, and sessions end seldom.
CREATE TRIGGER portunus_session_ends AFTER DELETE ON portunus_session BEGIN
  DELETE FROM portunus_entry WHERE session = OLD.id;
  DELETE FROM portunus_sighting WHERE session = OLD.id;
END;
CREATE TRIGGER portunus_entry_goes AFTER DELETE ON portunus_entry WHEN OLD.ended = 0 BEGIN
  UPDATE portunus_meta SET position = position + 1, moved = position + 1;
END;
CREATE TRIGGER portunus_entry_ends AFTER UPDATE OF ended ON portunus_entry BEGIN
  UPDATE portunus_meta SET position = position + 1, moved = position + 1;
END;
CREATE TRIGGER portunus_entry_changes AFTER UPDATE OF mode, marked ON portunus_entry BEGIN
  UPDATE portunus_meta SET position = position + 1, moved = position + 1;
  UPDATE portunus_entry SET changed = (SELECT position FROM portunus_meta)
    WHERE position = OLD.position;
END;
CREATE TRIGGER portunus_entry_publishes AFTER UPDATE OF value ON portunus_entry BEGIN
  UPDATE portunus_meta SET position = position + 1;
END;
";
