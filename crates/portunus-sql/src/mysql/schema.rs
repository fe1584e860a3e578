//! The tables, and making them.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::error::{Stage, code, failure, unsuited};
use super::rows::parsed;
use crate::schema::{VERSION, check_version};
use crate::server::failure::Fallible;
use portunus_core::error::ErrorKind;

use super::error::STORE;

/// The statements that make the tables, as opening a session runs them where they are missing. They
/// change nothing of tables that are there, and several may run them at once.
///
/// Who has run them by hand may deny `CREATE` and `REFERENCES` to the user of the locks.
#[must_use]
pub fn schema_sql() -> &'static str {
    SCHEMA
}

/// Makes the tables unless they are there, and returns the random row of their life.
pub(super) async fn prepare(conn: &mut Conn) -> Fallible<Vec<u8>> {
    if let Some(incarnation) = read(conn).await? {
        return Ok(incarnation);
    }
    conn.query_drop(SCHEMA).await.map_err(|cause| failure(cause, Stage::Alone))?;
    let made = read(conn).await?;
    made.ok_or_else(|| unsuited(ErrorKind::Protocol, "the tables were made, and are not there"))
}

/// The life of the tables, if they are all there; their version is checked.
async fn read(conn: &mut Conn) -> Fallible<Option<Vec<u8>>> {
    let asked = conn.exec_first(READ, ()).await;
    let row: Option<mysql_async::Row> = match asked {
        Err(cause) if code(&cause) == Some(NO_TABLE) => return Ok(None),
        asked => asked.map_err(|cause| failure(cause, Stage::Uncommitted))?,
    };
    let Some(row) = row else { return Ok(None) };
    let (version, incarnation): (i64, Vec<u8>) = parsed(row)?;
    check_version(STORE, version)?;
    Ok(Some(incarnation))
}

const NO_TABLE: u16 = 1146;

pub(super) const READ: &str = "SELECT version, incarnation FROM portunus_meta";

const _: () = assert!(VERSION == 1, "the statements below make this version");

// A name is compared byte by byte, which only a binary column does: in a text one `a` and `A`, or `a` and
// `a ` may be one lock. The row of the meta table comes last: with it all tables are there.
const SCHEMA: &str = "\
-- Each key that was ever locked, until it is pruned.
CREATE TABLE IF NOT EXISTS portunus_key (
  lock_key VARBINARY(640) NOT NULL PRIMARY KEY, -- <namespace>/<name>
  counter BIGINT UNSIGNED NOT NULL              -- the last position; each entry's is its token
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- A manager's liveness. A session without a row has ended.
CREATE TABLE IF NOT EXISTS portunus_session (
  id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
  ttl BIGINT UNSIGNED NOT NULL, -- nanoseconds
  beat BIGINT UNSIGNED NOT NULL -- raised by each renewal
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The queues of all locks.
CREATE TABLE IF NOT EXISTS portunus_entry (
  attempt BINARY(16) NOT NULL PRIMARY KEY,
  session BIGINT UNSIGNED NOT NULL,
  lock_key VARBINARY(640),               -- NULL: withdrawn, and kept until its session ends
  position BIGINT UNSIGNED NOT NULL,
  mode VARBINARY(16) NOT NULL,           -- exclusive, shared, permit
  permits INT UNSIGNED,
  marked TINYINT NOT NULL DEFAULT 0,     -- a permit that holds
  revision BIGINT UNSIGNED NOT NULL DEFAULT 0, -- how often the row changed
  host TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  pid INT UNSIGNED NOT NULL,
  app TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  value MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  UNIQUE KEY portunus_entry_queue (lock_key, position),
  KEY portunus_entry_session (session),
  CONSTRAINT portunus_entry_of FOREIGN KEY (session) REFERENCES portunus_session (id)
    ON DELETE CASCADE
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- What observers of one kernel saw of others' sessions.
CREATE TABLE IF NOT EXISTS portunus_sighting (
  kernel VARBINARY(255) NOT NULL,
  session BIGINT UNSIGNED NOT NULL,
  beat BIGINT UNSIGNED NOT NULL,
  since BIGINT UNSIGNED NOT NULL, -- nanoseconds since that kernel's boot
  PRIMARY KEY (kernel, session),
  KEY portunus_sighting_session (session),
  CONSTRAINT portunus_sighting_of FOREIGN KEY (session) REFERENCES portunus_session (id)
    ON DELETE CASCADE
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- One row: what is true of all the tables.
CREATE TABLE IF NOT EXISTS portunus_meta (
  one TINYINT NOT NULL PRIMARY KEY,
  version INT NOT NULL,
  incarnation BINARY(16) NOT NULL,
  floor BIGINT UNSIGNED NOT NULL -- no key that was pruned gave a higher position
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
INSERT IGNORE INTO portunus_meta (one, version, incarnation, floor)
  VALUES (1, 1, UNHEX(MD5(CONCAT(UUID(), RAND()))), 0);
";
