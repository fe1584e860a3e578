//! Rows of the tables as they come over the wire, and values as they go.

use mysql_async::Row;
use mysql_async::prelude::FromRow;
use portunus_core::backend::{AttemptId, Entry, EntryId, Holder, Record, SessionId};

use super::error::{STORE, shape};
use crate::rows;
use crate::server::failure::Fallible;
use crate::server::tables::{Before, Own};

pub(super) fn parsed<T: FromRow>(row: Row) -> Fallible<T> {
    mysql_async::from_row_opt(row).map_err(shape)
}

pub(super) fn all<T: FromRow>(rows: Vec<Row>) -> Fallible<Vec<T>> {
    rows.into_iter().map(parsed).collect()
}

/// Position, mode and limit.
pub(super) type Columns = (u64, String, Option<u32>);

pub(super) fn entry((position, mode, permits): Columns) -> Fallible<Entry> {
    Ok(Entry { id: rows::id(position), mode: rows::mode(STORE, &mode, permits)? })
}

/// The row of an attempt, and those before it that decide.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) own: Option<OwnRow>,
    pub(super) before: Before,
}

#[derive(Debug)]
pub(super) enum OwnRow {
    Ended,
    Stands(Own),
}

impl Window {
    pub(super) fn of(rows: Vec<Row>) -> Fallible<Self> {
        let (mut own, mut before) = (None, Vec::new());
        for row in rows {
            let (is_own, is_ended, position, mode, permits, is_marked, revision) = parsed(row)?;
            let entry = entry((position, mode, permits))?;
            match (is_own, is_ended) {
                (true, true) => own = Some(OwnRow::Ended),
                (true, false) => own = Some(OwnRow::Stands(Own { entry, is_marked })),
                (false, _) => before.push((entry, revision)),
            }
        }
        Ok(Self { own, before: Before(before) })
    }
}

type RecordColumns = (bool, u64, String, Option<u32>, String, u32, String, String);

/// Entries with what they say about themselves, behind a row that has only the highest position.
pub(super) fn records(rows: Vec<Row>) -> Fallible<(Vec<(EntryId, Record)>, u64)> {
    let (mut records, mut highest) = (Vec::new(), 0);
    for row in rows {
        let columns: RecordColumns = parsed(row)?;
        let (is_entry, position, mode, permits, host, pid, app, value) = columns;
        if !is_entry {
            highest = position;
            continue;
        }
        let Entry { id, mode } = entry((position, mode, permits))?;
        let holder = Holder { host, pid, app };
        records.push((id, Record { mode, holder: Some(holder), value }));
    }
    Ok((records, highest))
}

/// An attempt as the statements take it, for `UNHEX`: raw bytes would be text to the server.
pub(super) fn hex(attempt: AttemptId) -> String {
    attempt.to_string()
}

/// The same in the text of a statement.
pub(super) fn literal(bytes: &[u8]) -> String {
    let mut literal = String::with_capacity(bytes.len() * 2 + 3);
    literal.push_str("x'");
    for byte in bytes {
        literal.push_str(&format!("{byte:02x}"));
    }
    literal.push('\'');
    literal
}

/// A session's number. One that is larger than any of ours finds nothing.
pub(super) fn number(session: SessionId) -> u64 {
    u64::try_from(session.0).unwrap_or(u64::MAX)
}
