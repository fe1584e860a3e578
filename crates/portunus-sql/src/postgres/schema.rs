//! The tables, and making them.

/// The statements that make the tables, as a new connection runs them where they are missing.
///
/// Whoever opens sessions needs `SELECT`, `INSERT`, `UPDATE` and `DELETE` on them, not all on each, as the
/// [crate's page](crate) says; only who makes them needs `CREATE` on the schema. They are looked for in the `search_path`: all
/// who exclude each other must find the same ones. The entries of a session go with its row, so an
/// operator may delete that with any tool.
#[must_use]
pub fn schema_sql() -> &'static str {
    SCHEMA
}

const SCHEMA: &str = "\
-- One row: what is true of all the tables.
CREATE TABLE IF NOT EXISTS portunus_meta (
  one BOOLEAN NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
  version BIGINT NOT NULL,
  incarnation BYTEA NOT NULL,
  floor BIGINT NOT NULL       -- below the counter of every key that has no row yet
);
INSERT INTO portunus_meta (version, incarnation, floor)
  VALUES (1, uuid_send(gen_random_uuid()), 0) ON CONFLICT DO NOTHING;

-- A lock that somebody once asked for. Who enters its queue locks the row.
CREATE TABLE IF NOT EXISTS portunus_key (
  key TEXT COLLATE \"C\" NOT NULL PRIMARY KEY, -- <namespace>/<name>
  counter BIGINT NOT NULL                    -- raised by each entry; its value is the entry's token
) WITH (fillfactor = 50);

-- A manager's liveness. A session without a row has ended.
CREATE TABLE IF NOT EXISTS portunus_session (
  id BIGINT NOT NULL PRIMARY KEY,
  ttl BIGINT NOT NULL,        -- nanoseconds
  beat BIGINT NOT NULL        -- raised by each renewal
) WITH (fillfactor = 50);

-- The queues of all locks.
CREATE TABLE IF NOT EXISTS portunus_entry (
  attempt BYTEA NOT NULL PRIMARY KEY,
  session BIGINT NOT NULL REFERENCES portunus_session ON DELETE CASCADE,
  key TEXT COLLATE \"C\",       -- none: withdrawn, and kept until its session ends
  position BIGINT,
  mode TEXT NOT NULL,         -- exclusive, shared, permit
  permits BIGINT,
  marked BOOLEAN NOT NULL DEFAULT false,    -- a permit that holds
  revision BIGINT NOT NULL DEFAULT 0,       -- raised by each change of mode, marked, value
  host TEXT NOT NULL,
  pid BIGINT NOT NULL,
  app TEXT NOT NULL,
  value TEXT NOT NULL,        -- of one that was withdrawn: the key that it had
  CONSTRAINT portunus_entry_queue UNIQUE (key, position)
);
CREATE INDEX IF NOT EXISTS portunus_entry_session ON portunus_entry (session);

-- What observers of one kernel saw of sessions.
CREATE TABLE IF NOT EXISTS portunus_sighting (
  kernel TEXT NOT NULL,
  session BIGINT NOT NULL REFERENCES portunus_session ON DELETE CASCADE,
  beat BIGINT NOT NULL,
  since BIGINT NOT NULL,      -- nanoseconds since that kernel's boot
  PRIMARY KEY (kernel, session)
);
CREATE INDEX IF NOT EXISTS portunus_sighting_session ON portunus_sighting (session);
";
