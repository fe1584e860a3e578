//! Entering a queue, looking at it, and changing one's entry.

use portunus_core::backend::{Attempt, AttemptId, SessionId};
use portunus_core::error::{Error, ErrorKind};

use super::connection::Connection;
use super::error::{BUSY, DUPLICATE, NO_PARENT, STORE, Stage, code, failure, read_only};
use super::rows::{OwnRow, Window as Rows, hex, number, parsed};
use crate::rows::{SHARED, Window, mode_columns};
use crate::server::failure::{Failure, Fallible};
use crate::server::tables::{Before, Change, Entering, Inserted, Own};

/// Takes the key's row, which keeps others of the same key out until the transaction ends, and reads the
/// queue by a statement that begins after that: one that waited for the row reads what was there before.
pub(super) async fn begin(
    connection: &mut Connection,
    attempt: &Attempt,
    key: &str,
) -> Fallible<Entering> {
    connection.begin().await?;
    let mut counted = connection.try_write(RAISE, (key,)).await?;
    if matches!(counted, Ok(done) if done.rows == 0) {
        counted = connection.try_write(FIRST, (key,)).await?;
    }
    let position = match counted {
        Err(cause) if code(&cause) == Some(BUSY) => {
            connection.roll_back().await?;
            return Ok(Entering::Busy);
        }
        Err(cause) => return Err(connection.give_up(uncommitted(cause)).await),
        // The row of the key can't be made from that of the tables.
        Ok(done) if done.rows == 0 => return Err(read_only()),
        Ok(done) => done.number,
    };
    let Rows { own, before } = match window(connection, attempt, key, position).await {
        Ok(rows) => rows,
        Err(failed) => return Err(connection.give_up(failed).await),
    };
    Ok(match own {
        Some(OwnRow::Ended) => Entering::Ended,
        Some(OwnRow::Stands(own)) => Entering::Again(own, before),
        None => Entering::First { position, before },
    })
}

/// Inserts the entry, and commits at once: the check of its session's row keeps the session's renewals
/// waiting until then.
pub(super) async fn insert(
    connection: &mut Connection,
    session: SessionId,
    attempt: &Attempt,
    key: &str,
    position: u64,
    marked: bool,
) -> Fallible<Inserted> {
    let (mode, permits) = mode_columns(attempt.mode);
    let holder = &attempt.holder;
    let columns = (
        hex(attempt.id),
        number(session),
        key,
        position,
        mode,
        permits,
        marked,
        &holder.host,
        holder.pid,
        &holder.app,
        &attempt.value,
    );
    let inserted = match connection.try_write(INSERT, columns).await? {
        Ok(_) => Inserted::Done,
        Err(cause) => match code(&cause) {
            Some(NO_PARENT) => Inserted::NoSession,
            Some(DUPLICATE) => Inserted::Overtaken,
            _ => return Err(connection.give_up(uncommitted(cause)).await),
        },
    };
    match inserted {
        Inserted::Done => connection.commit().await?,
        _ => connection.roll_back().await?,
    }
    Ok(inserted)
}

pub(super) async fn look(
    connection: &mut Connection,
    attempt: &Attempt,
    key: &str,
) -> Fallible<Option<(Own, Before)>> {
    let Rows { own, before } = window(connection, attempt, key, 0).await?;
    Ok(match own {
        Some(OwnRow::Stands(own)) => Some((own, before)),
        Some(OwnRow::Ended) | None => None,
    })
}

fn uncommitted(cause: mysql_async::Error) -> Failure {
    failure(cause, Stage::Uncommitted)
}

/// The own row, and those that decide before it; without one, those that do before `position`.
async fn window(
    connection: &mut Connection,
    attempt: &Attempt,
    key: &str,
    position: u64,
) -> Fallible<Rows> {
    let own = hex(attempt.id);
    let rows = match Window::of(attempt.mode) {
        Window::Nearest(count) => {
            connection.rows(NEAREST, (&own, key, &own, position, count)).await?
        }
        Window::NearestUnshared => {
            connection.rows(UNSHARED, (&own, key, &own, position, SHARED)).await?
        }
    };
    Rows::of(rows)
}

/// Turns the row into a tombstone, or inserts one. An insertion that is under way has the row locked.
pub(super) async fn withdraw(
    connection: &mut Connection,
    session: SessionId,
    attempt: AttemptId,
) -> Fallible<bool> {
    match connection.try_write(WITHDRAW, (hex(attempt), number(session))).await? {
        // One that was inserted, or was a tombstone already, counts as one.
        Ok(done) => Ok(done.rows == 2),
        Err(cause) if code(&cause) == Some(NO_PARENT) => Ok(false),
        Err(cause) => Err(failure(cause, Stage::Alone)),
    }
}

pub(super) async fn change(
    connection: &mut Connection,
    attempt: AttemptId,
    position: u64,
    change: &Change,
) -> Fallible<bool> {
    let place = (hex(attempt), position);
    let done = match change {
        Change::Mark => connection.write(MARK, place).await?,
        Change::Share => connection.write(SHARE, place).await?,
        Change::Publish(value) => {
            let read = connection.rows(REVISION, place.clone()).await?;
            let Some(row) = read.into_iter().next() else { return Ok(false) };
            let (revision,): (u64,) = parsed(row)?;
            let done = connection.write(PUBLISH, (value, place.0, place.1, revision)).await?;
            if done.rows == 0 {
                let error = Error::new(ErrorKind::Unavailable, STORE, "publish");
                return Err(error.with_detail("the entry changed meanwhile").into());
            }
            done
        }
    };
    Ok(done.rows > 0)
}

// A server that became a replica takes no writes but from users who may write regardless; for them the
// statement says so itself. `CONCAT`, because it is a number with some servers and a word with others.
const RAISE: &str = "UPDATE portunus_key SET counter = LAST_INSERT_ID(counter + 1) \
    WHERE lock_key = ? AND CONCAT(@@GLOBAL.read_only) IN ('0', 'OFF')";
// Two who both find no row meet here: the second waits, and counts on from the first. The floor can't be
// raised before the row is there.
const FIRST: &str = "INSERT INTO portunus_key (lock_key, counter) \
    SELECT ?, LAST_INSERT_ID(floor + 1) FROM portunus_meta \
    WHERE CONCAT(@@GLOBAL.read_only) IN ('0', 'OFF') LOCK IN SHARE MODE \
    ON DUPLICATE KEY UPDATE counter = LAST_INSERT_ID(counter + 1)";
const NEAREST: &str = "\
    SELECT 1 AS own, lock_key IS NULL AS ended, position, mode, permits, marked, revision \
    FROM portunus_entry WHERE attempt = UNHEX(?) UNION ALL \
    (SELECT 0, 0, position, mode, permits, marked, revision FROM portunus_entry \
    WHERE lock_key = ? AND position < \
    COALESCE((SELECT position FROM portunus_entry WHERE attempt = UNHEX(?)), ?) \
    ORDER BY position DESC LIMIT ?)";
const UNSHARED: &str = "\
    SELECT 1 AS own, lock_key IS NULL AS ended, position, mode, permits, marked, revision \
    FROM portunus_entry WHERE attempt = UNHEX(?) UNION ALL \
    (SELECT 0, 0, position, mode, permits, marked, revision FROM portunus_entry \
    WHERE lock_key = ? AND position < \
    COALESCE((SELECT position FROM portunus_entry WHERE attempt = UNHEX(?)), ?) AND mode <> ? \
    ORDER BY position DESC LIMIT 1)";
const INSERT: &str = "INSERT INTO portunus_entry \
    (attempt, session, lock_key, position, mode, permits, marked, host, pid, app, value) \
    VALUES (UNHEX(?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const WITHDRAW: &str = "INSERT INTO portunus_entry \
    (attempt, session, lock_key, position, mode, host, pid, app, value) \
    VALUES (UNHEX(?), ?, NULL, 0, 'exclusive', '', 0, '', '') \
    ON DUPLICATE KEY UPDATE lock_key = NULL, position = 0, value = ''";
const MARK: &str = "UPDATE portunus_entry SET marked = 1, revision = revision + 1 \
    WHERE attempt = UNHEX(?) AND position = ? AND lock_key IS NOT NULL";
const SHARE: &str = "UPDATE portunus_entry SET mode = 'shared', revision = revision + 1 \
    WHERE attempt = UNHEX(?) AND position = ? AND lock_key IS NOT NULL";
const REVISION: &str = "SELECT revision FROM portunus_entry \
    WHERE attempt = UNHEX(?) AND position = ? AND lock_key IS NOT NULL";
const PUBLISH: &str = "UPDATE portunus_entry SET value = ?, revision = revision + 1 \
    WHERE attempt = UNHEX(?) AND position = ? AND revision = ? AND lock_key IS NOT NULL";

const _: () = assert!(matches!(SHARED.as_bytes(), b"shared"), "a statement above says it");
