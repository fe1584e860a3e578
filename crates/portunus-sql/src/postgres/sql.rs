//! The statements. Each is one moment of the database, unless it waits for a row.

use portunus_core::backend::Attempt;
use tokio_postgres::types::Type;

use super::rows::number;
use super::wire::Sql;
use crate::rows::Window;

/// The statements that read what decides about the attempt, and how many rows of that: for one whose
/// place is the end of the queue, and for one that has its place.
pub(super) fn window(attempt: &Attempt) -> (&'static Sql, &'static Sql, i64) {
    match Window::of(attempt.mode) {
        Window::Nearest(count) => (&LAST_NEAREST, &LOOK_NEAREST, number(count)),
        Window::NearestUnshared => (&LAST_UNSHARED, &LOOK_UNSHARED, 1),
    }
}

/// The life of the database, as far as it shows in one server: the tables' own number, which a restored
/// dump has anew, and the timeline, which each promotion of a standby raises. Behind a pooler it may
/// change under a connection.
macro_rules! life {
    () => {
        "(to_regclass('portunus_meta')::oid::text || '/' \
          || substring(pg_walfile_name(pg_current_wal_lsn()), 1, 8))"
    };
}
pub(super) use life;

/// Tells those who wait at the key of `$row`, where there are such: those behind it, and those who follow
/// a leader.
macro_rules! tell {
    ($row:literal) => {
        concat!(
            "CASE WHEN ",
            $row,
            ".value <> '' OR EXISTS (SELECT 1 FROM portunus_entry AS e WHERE e.key = ",
            $row,
            ".key AND e.position > ",
            $row,
            ".position) THEN pg_notify('portunus', ",
            $row,
            ".key)::text END"
        )
    };
}

/// The same for all the entries of sessions that end; entries of their own wait no more.
macro_rules! tell_of_ended {
    () => {
        " SELECT pg_notify('portunus', k.key)::text FROM (SELECT DISTINCT e.key FROM portunus_entry AS e \
          JOIN ended ON e.session = ended.id WHERE e.key IS NOT NULL AND (e.value <> '' OR EXISTS \
          (SELECT 1 FROM portunus_entry AS o WHERE o.key = e.key AND o.session <> e.session))) AS k"
    };
}

/// The own row and those before it that decide, all with their revisions. Rows: whether it is the own
/// one, position, mode, permits, revision, marked, whether it has a key, the database's life.
macro_rules! look {
    ($window:literal) => {
        concat!(
            "WITH own AS (SELECT * FROM portunus_entry WHERE attempt = $1) \
             SELECT true, position, mode, permits, revision, marked, key IS NOT NULL, ",
            life!(),
            " FROM own UNION ALL (SELECT false, e.position, e.mode, e.permits, e.revision, e.marked, \
             true, NULL FROM portunus_entry AS e WHERE e.key = $2 AND e.position < \
             coalesce((SELECT position FROM own), 9223372036854775807)",
            $window,
            " ORDER BY e.position DESC LIMIT $3)"
        )
    };
}

/// The last of the queue that decide, and whether one is the attempt's own. It says less than `look`, for
/// the server plans it in a quarter of the time.
macro_rules! last {
    ($window:literal) => {
        concat!(
            "SELECT attempt = $1, position, mode, permits, revision FROM portunus_entry WHERE key = $2",
            $window,
            " ORDER BY position DESC LIMIT $3"
        )
    };
}

macro_rules! sql {
    ($(#[$doc:meta])* $name:ident, [$($type:ident),*], $($text:expr),+) => {
        $(#[$doc])*
        pub(super) static $name: Sql =
            Sql { text: concat!($($text),+), types: &[$(Type::$type),*] };
    };
}

sql!(LIFE, [], "SELECT ", life!());

// Sessions.

sql!(
    OPEN,
    [INT8, INT8, TEXT],
    "INSERT INTO portunus_session (id, ttl, beat) SELECT $1, $2, 0 WHERE $3 = ",
    life!(),
    " RETURNING id"
);
sql!(
    RENEW,
    [INT8, TEXT],
    "UPDATE portunus_session SET beat = beat + 1 WHERE id = $1 AND $2 = ",
    life!(),
    " RETURNING beat"
);
sql!(
    MISSING,
    [INT8, BYTEA_ARRAY],
    "SELECT h.attempt FROM unnest($2) AS h(attempt) WHERE NOT EXISTS (SELECT 1 FROM portunus_entry \
     AS e WHERE e.attempt = h.attempt AND e.session = $1 AND e.key IS NOT NULL)"
);
sql!(
    CLOSE,
    [INT8],
    "WITH ended AS (DELETE FROM portunus_session WHERE id = $1 RETURNING id)",
    tell_of_ended!()
);
sql!(SESSIONS, [], "SELECT id, beat, ttl FROM portunus_session");
sql!(
    END_DEAD,
    [INT8, INT8],
    "WITH ended AS (DELETE FROM portunus_session WHERE id = $1 AND beat = $2 RETURNING id)",
    tell_of_ended!()
);
sql!(SIGHTINGS, [TEXT], "SELECT session, beat, since FROM portunus_sighting WHERE kernel = $1");
sql!(
    /// In one order, so that two who do so at once do not wait for each other in turn.
    KEEP_SIGHTINGS,
    [TEXT, INT8_ARRAY, INT8_ARRAY, INT8_ARRAY],
    "INSERT INTO portunus_sighting AS s (kernel, session, beat, since) \
     SELECT $1, n.session, n.beat, n.since FROM unnest($2, $3, $4) AS n(session, beat, since) \
     JOIN portunus_session ON portunus_session.id = n.session ORDER BY n.session \
     ON CONFLICT (kernel, session) DO UPDATE SET beat = excluded.beat, since = excluded.since \
     WHERE s.beat <> excluded.beat OR s.since > excluded.since"
);

// An attempt.

sql!(
    /// Locks the key's row, unless the attempt has a row already.
    RAISE,
    [TEXT, BYTEA],
    "UPDATE portunus_key SET counter = counter + 1 WHERE key = $1 AND NOT EXISTS \
     (SELECT 1 FROM portunus_entry WHERE attempt = $2) RETURNING counter, ",
    life!()
);
sql!(
    /// The lock on the one row keeps a pruning from forgetting a counter that is above its floor.
    MAKE_KEY,
    [TEXT],
    "INSERT INTO portunus_key (key, counter) SELECT $1, floor FROM portunus_meta FOR SHARE \
     ON CONFLICT DO NOTHING"
);
sql!(LAST_NEAREST, [BYTEA, TEXT, INT8], last!(""));
sql!(LAST_UNSHARED, [BYTEA, TEXT, INT8], last!(" AND (mode <> 'shared' OR attempt = $1)"));
sql!(LOOK_NEAREST, [BYTEA, TEXT, INT8], look!(""));
sql!(LOOK_UNSHARED, [BYTEA, TEXT, INT8], look!(" AND e.mode <> 'shared'"));
sql!(
    INSERT,
    [BYTEA, INT8, TEXT, INT8, TEXT, INT8, BOOL, TEXT, INT8, TEXT, TEXT],
    "WITH made AS (INSERT INTO portunus_entry \
     (attempt, session, key, position, mode, permits, marked, host, pid, app, value) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING key, value) \
     SELECT pg_notify('portunus', key)::text FROM made WHERE value <> ''"
);
sql!(
    REMOVE,
    [BYTEA, INT8],
    "WITH gone AS (DELETE FROM portunus_entry WHERE attempt = $1 AND session = $2 \
     AND key IS NOT NULL RETURNING key, position, value) SELECT ",
    tell!("gone"),
    " FROM gone"
);
sql!(
    /// Waits for an insertion of the same attempt that is under way. The value takes the key in, which
    /// no statement could return otherwise of a row that was not there when it began.
    WITHDRAW,
    [BYTEA, INT8],
    "WITH gone AS (INSERT INTO portunus_entry AS e (attempt, session, mode, host, pid, app, value) \
     SELECT $1, id, 'exclusive', '', 0, '', '' FROM portunus_session WHERE id = $2 \
     ON CONFLICT (attempt) DO UPDATE SET key = NULL, value = coalesce(e.key, '') \
     WHERE e.session = $2 RETURNING value) \
     SELECT value, CASE WHEN value <> '' THEN pg_notify('portunus', value)::text END FROM gone"
);
sql!(
    MARK,
    [BYTEA, INT8],
    "WITH changed AS (UPDATE portunus_entry SET marked = true, \
     revision = revision + (NOT marked)::int WHERE attempt = $1 AND position = $2 \
     AND key IS NOT NULL RETURNING key, position, value) SELECT ",
    tell!("changed"),
    " FROM changed"
);
sql!(
    SHARE,
    [BYTEA, INT8],
    "WITH changed AS (UPDATE portunus_entry SET mode = 'shared', \
     revision = revision + (mode <> 'shared')::int WHERE attempt = $1 AND position = $2 \
     AND key IS NOT NULL RETURNING key, position, value) SELECT ",
    tell!("changed"),
    " FROM changed"
);
sql!(
    REVISION,
    [BYTEA, INT8],
    "SELECT revision FROM portunus_entry WHERE attempt = $1 AND position = $2 AND key IS NOT NULL"
);
sql!(
    PUBLISH,
    [BYTEA, INT8, TEXT, INT8],
    "WITH changed AS (UPDATE portunus_entry SET value = $3, revision = revision + 1 \
     WHERE attempt = $1 AND position = $2 AND key IS NOT NULL AND revision = $4 RETURNING key) \
     SELECT pg_notify('portunus', key)::text FROM changed"
);

// For those who take no lock, and for waiting.

sql!(
    QUEUE,
    [TEXT],
    "SELECT position, mode, permits FROM portunus_entry WHERE key = $1 ORDER BY position"
);
sql!(
    /// At least one row, for the highest position that the key ever gave.
    RECORDS,
    [TEXT, INT8],
    "SELECT coalesce((SELECT counter FROM portunus_key WHERE key = $1), \
     (SELECT floor FROM portunus_meta)), e.* FROM (SELECT 1) AS one LEFT JOIN LATERAL \
     (SELECT position, mode, permits, host, pid, app, value FROM portunus_entry WHERE key = $1 \
     ORDER BY position LIMIT $2) AS e ON true ORDER BY e.position"
);
sql!(
    KEYS,
    [TEXT, TEXT, INT8],
    "SELECT DISTINCT key FROM portunus_entry WHERE key >= $1 AND key > $2 \
     AND starts_with(key, $1) ORDER BY key LIMIT $3"
);
sql!(
    EVICT,
    [TEXT, INT8],
    "WITH gone AS (DELETE FROM portunus_entry WHERE key = $1 AND position = $2 RETURNING key) \
     SELECT pg_notify('portunus', key)::text FROM gone"
);
sql!(
    STANDING,
    [TEXT_ARRAY, INT8],
    "SELECT k.key, e.position, e.revision FROM unnest($1) AS k(key) CROSS JOIN LATERAL \
     (SELECT position, revision FROM portunus_entry WHERE key = k.key ORDER BY position LIMIT $2) \
     AS e ORDER BY k.key, e.position"
);
sql!(LOCK_META, [], "SELECT 1 FROM portunus_meta FOR UPDATE");
sql!(
    /// Some of them. Rows that somebody else has locked are in use.
    PRUNE,
    [INT8],
    "WITH idle AS (SELECT k.key FROM portunus_key AS k WHERE NOT EXISTS \
     (SELECT 1 FROM portunus_entry AS e WHERE e.key = k.key) LIMIT $1 FOR UPDATE SKIP LOCKED), \
     gone AS (DELETE FROM portunus_key AS k USING idle WHERE k.key = idle.key RETURNING k.counter), \
     raised AS (UPDATE portunus_meta SET floor = \
     greatest(floor, (SELECT max(counter) FROM gone)) RETURNING 1) \
     SELECT count(*) FROM gone"
);

pub(super) const VERSION: &str = "SELECT current_setting('server_version')";
/// A row for each.
pub(super) const DANGERS: &str = "\
    SELECT 'fsync is off: a crash of the machine may take grants back' \
      WHERE current_setting('fsync') = 'off' \
    UNION ALL SELECT 'full_page_writes is off: a crash of the machine may destroy the tables' \
      WHERE current_setting('full_page_writes') = 'off' \
    UNION ALL SELECT 'it replicates asynchronously (synchronous_standby_names is empty): a fail-over \
      may take grants back; sessions of before are lost then, but two may hold until they notice' \
      WHERE current_setting('synchronous_standby_names') = '' \
      AND EXISTS (SELECT 1 FROM pg_stat_replication)";
