//! Entering a queue and leaving it, each one transaction.

use portunus_core::backend::{Attempt, Entered, Entry, Left, SessionId, Turn};
use portunus_core::error::ErrorKind;
use rusqlite::{Connection, Transaction, params};

use super::error::{Failure, Fallible, write_if};
use super::onward::{Back, write_onward};
use super::queue::{self, Own, bytes, natural, number};
use super::session::{self, lost, row_id};
use crate::rows::{self, mode_columns};
use crate::sessions::Liveness;

/// Puts the attempt into the queue, unless it is there, was withdrawn, or would wait and may not.
pub(super) fn enter(
    connection: &mut Connection,
    liveness: &Liveness,
    session: SessionId,
    attempt: &Attempt,
    key: &str,
) -> Fallible<Entered> {
    let back = Back(ErrorKind::Regression, "enter");
    let entered = write_onward(connection, liveness, back, |transaction| {
        let own = match queue::own(transaction, attempt.id)? {
            Some(Own { is_ended: true, .. }) => {
                return Err(lost("enter").with_detail("the attempt was withdrawn before").into());
            }
            // An earlier request of this attempt arrived.
            Some(own) => Some(own),
            None if session::is_there(transaction, session)? => None,
            None => return Err(lost("enter").into()),
        };
        // The write lock is ours: nobody else can take the next number, or come before it.
        let place = |own: &Option<Own>| match own {
            Some(own) => Ok(own.entry.clone()),
            None => next(transaction, attempt),
        };
        let mut entry = place(&own)?;
        let mut turn = queue::turn(transaction, key, entry.clone());
        let mut is_written = false;
        if !matches!(turn, Ok(Turn::Held { .. })) {
            // Those in its way may be dead, or make the name what it no longer is.
            is_written = session::settle_for_a_try(transaction, liveness)?;
            if is_written {
                if !session::is_there(transaction, session)? {
                    // It is among the dead itself, and its entries with it.
                    return Ok((None, true));
                }
                entry = place(&own)?;
                turn = queue::turn(transaction, key, entry.clone());
            }
        }
        let turn = match turn {
            Ok(turn) => turn,
            // What was seen of others, and the end of the dead, stay: who only tries comes back.
            Err(Failure::Ours(error)) => return Ok((Some(Err(error)), is_written)),
            Err(failure) => return Err(failure),
        };
        let is_held = matches!(turn, Turn::Held { .. });
        if attempt.try_only && matches!(turn, Turn::Waiting { .. }) {
            if own.is_some() {
                remove(transaction, session, attempt)?;
            }
            return Ok((Some(Ok(Entered::Refused)), is_written || own.is_some()));
        }
        match &own {
            None => {
                insert(transaction, session, attempt, key, is_held)?;
                is_written = true;
            }
            // Its turn came since: nobody looks any more, so it says so itself.
            Some(own) if is_held && own.is_unmarked_permit() => {
                mark(transaction, attempt, entry.id.position)?;
                is_written = true;
            }
            Some(_) => {}
        }
        Ok((Some(Ok(Entered::Queued { entry: entry.id, turn })), is_written))
    })?;
    Ok(entered.unwrap_or_else(|| Err(lost("enter")))?)
}

/// Withdraws the attempt. In doubt its row stays until its session ends, and bars what arrives late.
pub(super) fn leave(
    connection: &mut Connection,
    session: SessionId,
    attempt: &Attempt,
    in_doubt: bool,
) -> Fallible<Left> {
    write_if(connection, |transaction| {
        if !in_doubt {
            let removed = remove(transaction, session, attempt)? > 0;
            return Ok((if removed { Left::Removed } else { Left::Absent }, removed));
        }
        let own = queue::own(transaction, attempt.id)?;
        let (left, changes) = match own {
            Some(Own { is_ended: true, .. }) => (Left::Absent, 0),
            Some(_) => (Left::Removed, end(transaction, session, attempt)?),
            // Without its session nothing of it can arrive any more.
            None if !session::is_there(transaction, session)? => (Left::Absent, 0),
            None => (Left::Absent, bar(transaction, session, attempt)?),
        };
        Ok((left, changes > 0))
    })
}

/// The row that the attempt would have: behind all others. Raises nothing yet.
fn next(transaction: &Transaction<'_>, attempt: &Attempt) -> Fallible<Entry> {
    Ok(Entry { id: rows::id(queue::position(transaction)? + 1), mode: attempt.mode })
}

fn insert(
    transaction: &Transaction<'_>,
    session: SessionId,
    attempt: &Attempt,
    key: &str,
    holds: bool,
) -> Fallible<()> {
    let (mode, permits) = mode_columns(attempt.mode);
    let holder = &attempt.holder;
    let position = raise(transaction)?;
    let mut insert = transaction.prepare_cached(
        "INSERT INTO portunus_entry \
         (position, attempt, session, key, mode, permits, marked, host, pid, app, value) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    insert.execute(params![
        number(position),
        bytes(attempt.id),
        row_id(session),
        key,
        mode,
        permits,
        holds,
        holder.host,
        holder.pid,
        holder.app,
        attempt.value,
    ])?;
    Ok(())
}

fn raise(transaction: &Transaction<'_>) -> Fallible<u64> {
    let mut raise = transaction
        .prepare_cached("UPDATE portunus_meta SET position = position + 1 RETURNING position")?;
    Ok(natural(raise.query_row([], |row| row.get(0))?))
}

fn remove(transaction: &Transaction<'_>, session: SessionId, attempt: &Attempt) -> Fallible<usize> {
    let mut remove = transaction.prepare_cached(
        "DELETE FROM portunus_entry WHERE attempt = ?1 AND session = ?2 AND ended = 0",
    )?;
    Ok(remove.execute(params![bytes(attempt.id), row_id(session)])?)
}

fn end(transaction: &Transaction<'_>, session: SessionId, attempt: &Attempt) -> Fallible<usize> {
    let mut end = transaction.prepare_cached(
        "UPDATE portunus_entry SET ended = 1, key = '', value = '' \
         WHERE attempt = ?1 AND session = ?2",
    )?;
    Ok(end.execute(params![bytes(attempt.id), row_id(session)])?)
}

/// Bars an attempt that has no row.
fn bar(transaction: &Transaction<'_>, session: SessionId, attempt: &Attempt) -> Fallible<usize> {
    let position = raise(transaction)?;
    let mut bar = transaction.prepare_cached(
        "INSERT INTO portunus_entry \
         (position, attempt, session, ended, key, mode, host, pid, app, value) \
         VALUES (?1, ?2, ?3, 1, '', 'exclusive', '', 0, '', '')",
    )?;
    Ok(bar.execute(params![number(position), bytes(attempt.id), row_id(session)])?)
}

/// Says of a permit that it holds.
fn mark(transaction: &Transaction<'_>, attempt: &Attempt, position: u64) -> Fallible<usize> {
    let mut mark = transaction.prepare_cached(
        "UPDATE portunus_entry SET marked = 1 WHERE attempt = ?1 AND position = ?2 AND ended = 0",
    )?;
    Ok(mark.execute(params![bytes(attempt.id), number(position)])?)
}

/// A change to the row of a grant that stands.
#[derive(Debug)]
pub(super) enum Change {
    /// A permit that waited and now holds: the one behind it is the first to wait.
    Mark,
    /// A downgrade.
    Share,
    Publish(String),
}

/// Changes the row, if it still is the one named; says whether it was. Requests of one manager come in
/// the order of their calls, so none overwrites a later one.
pub(super) fn change(
    connection: &mut Connection,
    liveness: &Liveness,
    attempt: &Attempt,
    position: u64,
    change: &Change,
) -> Fallible<bool> {
    // What the file says of the grant is of the past, and the session ends with its next renewal.
    let operation = match change {
        Change::Mark => "look",
        Change::Share => "convert",
        Change::Publish(_) => "publish",
    };
    let back = Back(ErrorKind::Lost, operation);
    write_onward(connection, liveness, back, |transaction| {
        let place = (bytes(attempt.id), number(position));
        let changed = match change {
            Change::Mark => mark(transaction, attempt, position)?,
            Change::Share => transaction
                .prepare_cached(
                    "UPDATE portunus_entry SET mode = 'shared' \
                     WHERE attempt = ?1 AND position = ?2 AND ended = 0",
                )?
                .execute(place)?,
            Change::Publish(value) => transaction
                .prepare_cached(
                    "UPDATE portunus_entry SET value = ?3 \
                     WHERE attempt = ?1 AND position = ?2 AND ended = 0",
                )?
                .execute(params![place.0, place.1, value])?,
        };
        Ok((changed > 0, changed > 0))
    })
}
