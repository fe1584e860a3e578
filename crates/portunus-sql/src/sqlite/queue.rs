//! Reading a lock's queue.

use portunus_core::backend::{AttemptId, Entry, EntryId, Holder, Mode, Record, Turn};
use portunus_core::token::Incarnation;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fallible, STORE};
use crate::horizon::At;
use crate::rows::{self, SHARED, Window};

/// The row of an attempt.
pub(super) struct Own {
    pub(super) entry: Entry,
    /// Whether it was withdrawn, and stays only to say so.
    pub(super) is_ended: bool,
    pub(super) is_marked: bool,
}

impl Own {
    /// Whether it would have to be marked once it holds.
    pub(super) fn is_unmarked_permit(&self) -> bool {
        !self.is_marked && matches!(self.entry.mode, Mode::Permit { .. })
    }
}

pub(super) fn own(connection: &Connection, attempt: AttemptId) -> Fallible<Option<Own>> {
    let mut find = connection.prepare_cached(
        "SELECT position, mode, permits, ended, marked FROM portunus_entry WHERE attempt = ?1",
    )?;
    let columns = |row: &Row<'_>| Ok((columns(row)?, row.get(3)?, row.get(4)?));
    let found = find.query_row([bytes(attempt)], columns).optional()?;
    found
        .map(|(columns, is_ended, is_marked)| {
            Ok(Own { entry: entry(columns)?, is_ended, is_marked })
        })
        .transpose()
}

/// Decides where `own` stands in the queue of `key`.
pub(super) fn turn(connection: &Connection, key: &str, own: Entry) -> Fallible<Turn> {
    let before = before(connection, key, own.mode, own.id.position)?;
    // Only who waits has to know.
    let as_of = if before.is_empty() { 0 } else { position(connection)? };
    Ok(rows::turn(before, own, as_of)?)
}

/// Those rows before a position that decide about one in this mode.
fn before(connection: &Connection, key: &str, mode: Mode, position: u64) -> Fallible<Vec<Entry>> {
    let (statement, limit) = match Window::of(mode) {
        Window::Nearest(count) => (
            "SELECT position, mode, permits FROM portunus_entry \
             WHERE key = ?1 AND ended = 0 AND position < ?2 ORDER BY position DESC LIMIT ?3",
            count,
        ),
        Window::NearestUnshared => (UNSHARED, 1),
    };
    let mut nearest = connection.prepare_cached(statement)?;
    let found = nearest.query_map(params![key, number(position), number(limit)], columns)?;
    found.map(|columns| entry(columns?)).collect()
}

/// The whole queue, in its order.
pub(super) fn all(connection: &Connection, key: &str) -> Fallible<Vec<Entry>> {
    let mut list = connection.prepare_cached(
        "SELECT position, mode, permits FROM portunus_entry \
         WHERE key = ?1 AND ended = 0 ORDER BY position",
    )?;
    let found = list.query_map([key], columns)?;
    found.map(|columns| entry(columns?)).collect()
}

/// The first of the queue with what they say about themselves, in their order.
pub(super) fn records(
    connection: &Connection,
    key: &str,
    limit: u64,
) -> Fallible<Vec<(EntryId, Record)>> {
    let mut list = connection.prepare_cached(
        "SELECT position, mode, permits, host, pid, app, value FROM portunus_entry \
         WHERE key = ?1 AND ended = 0 ORDER BY position LIMIT ?2",
    )?;
    let said = |row: &Row<'_>| {
        let holder = Holder { host: row.get(3)?, pid: row.get(4)?, app: row.get(5)? };
        Ok((columns(row)?, holder, row.get(6)?))
    };
    let found = list.query_map(params![key, number(limit)], said)?;
    found
        .map(|said| {
            let (columns, holder, value) = said?;
            let Entry { id, mode } = entry(columns)?;
            Ok((id, Record { mode, holder: Some(holder), value }))
        })
        .collect()
}

/// The number of the last change.
pub(super) fn position(connection: &Connection) -> Fallible<u64> {
    let mut read = connection.prepare_cached("SELECT position FROM portunus_meta")?;
    Ok(natural(read.query_row([], |row| row.get(0))?))
}

/// The same with the life that it is of.
pub(super) fn at(connection: &Connection) -> Fallible<At> {
    let mut read = connection.prepare_cached("SELECT incarnation, position FROM portunus_meta")?;
    let (life, position): (Vec<u8>, i64) =
        read.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(At { incarnation: Incarnation::new(life)?, position: natural(position) })
}

type Columns = (i64, String, Option<u32>);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn entry((position, mode, permits): Columns) -> Fallible<Entry> {
    Ok(Entry { id: rows::id(natural(position)), mode: rows::mode(STORE, &mode, permits)? })
}

pub(super) fn bytes(attempt: AttemptId) -> [u8; 16] {
    attempt.0.to_be_bytes()
}

/// A number as SQLite keeps it. What is larger than any of ours finds nothing.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

const UNSHARED: &str = "SELECT position, mode, permits FROM portunus_entry \
    WHERE key = ?1 AND ended = 0 AND position < ?2 AND mode <> 'shared' \
    ORDER BY position DESC LIMIT ?3";

const _: () = assert!(matches!(SHARED.as_bytes(), b"shared"), "the statement above says it");
