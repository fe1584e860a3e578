//! Sessions as rows: made, renewed, ended, and found dead.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Attempt, AttemptId, SessionId};
use portunus_core::beat::Sighting;
use portunus_core::clock::Moment;
use portunus_core::error::{Error, ErrorKind};
use portunus_core::token::Incarnation;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::error::{Fallible, STORE, write};
use super::onward::{Back, write_onward};
use super::queue::{self, bytes, natural, number};
use crate::sessions::{Liveness, SessionRow, Verdict};

pub(super) fn open(
    connection: &mut Connection,
    liveness: &Liveness,
    ttl: Duration,
) -> Fallible<(SessionId, Incarnation)> {
    // Those who crashed while nobody waited for them are found by who comes next.
    settle(connection, liveness)?;
    // Below 2^63, and never used again in practice.
    let id = rand::random::<u64>() >> 1;
    let columns = (number(id), nanos(ttl), liveness.kernel.id(), stamp(liveness));
    let back = Back(ErrorKind::Regression, "open_session");
    let incarnation = write_onward(connection, liveness, back, |transaction| {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO portunus_session (id, ttl, beat, kernel, renewed) VALUES (?1, ?2, 0, ?3, ?4)",
        )?;
        insert.execute(columns)?;
        // As it is now: a copy of another file may have been put into this one.
        Ok((queue::at(transaction)?.incarnation, true))
    })?;
    let id = SessionId(id.into());
    liveness.confirmed.insert(id, 0);
    Ok((id, incarnation))
}

/// Raises the beat, in a commit that is durable.
pub(super) fn renew(
    connection: &mut Connection,
    liveness: &Liveness,
    id: SessionId,
) -> Fallible<()> {
    let renewed = stamp(liveness);
    let back = Back(ErrorKind::Lost, "renew");
    let beat = write_onward(connection, liveness, back, |transaction| {
        let mut raise = transaction.prepare_cached(
            "UPDATE portunus_session SET beat = beat + 1, renewed = ?2 WHERE id = ?1 RETURNING beat",
        )?;
        let beat = raise.query_row(params![row_id(id), renewed], |row| row.get(0)).optional()?;
        let beat = natural(beat.ok_or_else(|| lost("renew"))?);
        if liveness.confirmed.is_old(id, beat) {
            // Others may have raised the counter above what was seen, but nobody renews for us.
            let detail = "an earlier copy of the file was put back";
            return Err(lost("renew").with_detail(detail).into());
        }
        Ok((beat, true))
    })?;
    liveness.confirmed.insert(id, beat);
    Ok(())
}

/// Those of the attempts that have no entry: they were evicted, or entered after a copy of the file was
/// made that has been put back. Asked after a renewal, and not in it, for there may be thousands.
pub(super) fn missing(
    connection: &Connection,
    id: SessionId,
    held: &[Arc<Attempt>],
) -> Fallible<Vec<AttemptId>> {
    let mut find = connection.prepare_cached(
        "SELECT 1 FROM portunus_entry WHERE attempt = ?1 AND session = ?2 AND ended = 0",
    )?;
    let mut missing = Vec::new();
    for attempt in held {
        if !find.exists(params![bytes(attempt.id), row_id(id)])? {
            missing.push(attempt.id);
        }
    }
    Ok(missing)
}

/// Removes the session; its entries go with it.
pub(super) fn close(
    connection: &mut Connection,
    liveness: &Liveness,
    id: SessionId,
) -> Fallible<()> {
    liveness.confirmed.forget(id);
    write(connection, |transaction| {
        transaction.execute("DELETE FROM portunus_session WHERE id = ?1", [row_id(id)])?;
        Ok(())
    })
}

pub(super) fn is_there(connection: &Connection, id: SessionId) -> Fallible<bool> {
    let mut find = connection.prepare_cached("SELECT 1 FROM portunus_session WHERE id = ?1")?;
    Ok(find.exists([row_id(id)])?)
}

/// Ends those sessions that are dead; says when to look again.
pub(super) fn settle(connection: &mut Connection, liveness: &Liveness) -> Fallible<Moment> {
    let verdict = liveness.judge(&list(connection)?);
    if !verdict.dead.is_empty() {
        write(connection, |transaction| reap(transaction, &verdict))?;
    }
    Ok(verdict.look_again)
}

/// The same for one who only reads. If somebody writes at length the dead are read too.
pub(super) fn settle_for_a_reader(
    connection: &mut Connection,
    liveness: &Liveness,
) -> Fallible<()> {
    match settle(connection, liveness) {
        Err(failure) if failure.spoils_connection() => Err(failure),
        _ => Ok(()),
    }
}

/// The same inside a transaction that is about to be turned away by somebody: what is seen of sessions
/// of another kernel is kept there, so that tries that begin and end in turn come to a verdict too.
/// Says whether anything was written.
pub(super) fn settle_for_a_try(
    transaction: &Transaction<'_>,
    liveness: &Liveness,
) -> Fallible<bool> {
    let rows = list(transaction)?;
    let foreign = rows.iter().filter(|row| liveness.is_foreign(row));
    let foreign: Vec<SessionId> = foreign.map(|row| row.id).collect();
    // An unknown kernel has no clock that another process could read by.
    let kept = !foreign.is_empty() && liveness.kernel.is_known();
    if kept {
        recall(transaction, liveness)?;
    }
    let verdict = liveness.judge(&rows);
    let noted = kept && note(transaction, liveness, &foreign)?;
    reap(transaction, &verdict)?;
    Ok(noted || !verdict.dead.is_empty())
}

fn reap(transaction: &Transaction<'_>, verdict: &Verdict) -> Fallible<()> {
    let mut end =
        transaction.prepare_cached("DELETE FROM portunus_session WHERE id = ?1 AND beat = ?2")?;
    for (id, beat) in &verdict.dead {
        end.execute(params![row_id(*id), number(*beat)])?;
    }
    Ok(())
}

fn list(connection: &Connection) -> Fallible<Vec<SessionRow>> {
    let mut list =
        connection.prepare_cached("SELECT id, beat, ttl, kernel, renewed FROM portunus_session")?;
    let session = |row: &Row<'_>| {
        Ok(SessionRow {
            id: SessionId(natural(row.get(0)?).into()),
            beat: natural(row.get(1)?),
            ttl: Duration::from_nanos(natural(row.get(2)?)),
            kernel: row.get(3)?,
            renewed: Moment::from_nanos(natural(row.get(4)?)),
        })
    };
    let rows = list.query_map([], session)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Takes over what other processes of this kernel saw.
fn recall(transaction: &Transaction<'_>, liveness: &Liveness) -> Fallible<()> {
    let mut seen = transaction
        .prepare_cached("SELECT session, beat, since FROM portunus_sighting WHERE kernel = ?1")?;
    let mut rows = seen.query([liveness.kernel.id()])?;
    while let Some(row) = rows.next()? {
        let sighting = Sighting {
            beat: natural(row.get(1)?),
            since: Moment::from_nanos(natural(row.get(2)?)),
        };
        liveness.beats.recall(SessionId(natural(row.get(0)?).into()), sighting);
    }
    Ok(())
}

/// Keeps what was seen for other processes of this kernel, where it is new.
fn note(
    transaction: &Transaction<'_>,
    liveness: &Liveness,
    sessions: &[SessionId],
) -> Fallible<bool> {
    let mut keep = transaction.prepare_cached(
        "INSERT INTO portunus_sighting AS s (kernel, session, beat, since) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (kernel, session) DO UPDATE SET beat = excluded.beat, since = excluded.since \
         WHERE s.beat <> excluded.beat OR s.since > excluded.since",
    )?;
    let mut noted = 0;
    for session in sessions {
        if let Some(Sighting { beat, since }) = liveness.beats.sighting(*session) {
            let columns =
                (liveness.kernel.id(), row_id(*session), number(beat), number(since.nanos()));
            noted += keep.execute(columns)?;
        }
    }
    Ok(noted > 0)
}

/// Our ids are below 2^63; another store's session is none of ours.
pub(super) fn row_id(id: SessionId) -> i64 {
    i64::try_from(id.0).unwrap_or(-1)
}

fn stamp(liveness: &Liveness) -> i64 {
    number(liveness.beats.stamp().nanos())
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

pub(super) fn lost(operation: &'static str) -> Error {
    Error::new(ErrorKind::Lost, STORE, operation)
}

#[cfg(test)]
mod tests {
    use portunus_core::clock::BootClock;

    use super::super::connection::Open;
    use super::super::place::Place;
    use super::*;

    #[test]
    fn a_session_that_renews_before_it_is_ended_survives() {
        let home = tempfile::tempdir().unwrap();
        let place = Place { path: home.path().join("locks.db"), makes_directory: false };
        let connection = &mut Open::new(&place, Duration::from_secs(1)).unwrap().connection;
        let liveness = Liveness::new(Arc::new(BootClock::new()));
        let (id, _) = open(connection, &liveness, Duration::from_secs(1)).unwrap();
        let verdict = Verdict { dead: vec![(id, 0)], look_again: Moment::NEVER };
        renew(connection, &liveness, id).unwrap();
        write(connection, |transaction| reap(transaction, &verdict)).unwrap();
        assert!(is_there(connection, id).unwrap());
        let verdict = Verdict { dead: vec![(id, 1)], look_again: Moment::NEVER };
        write(connection, |transaction| reap(transaction, &verdict)).unwrap();
        assert!(!is_there(connection, id).unwrap());
    }
}
