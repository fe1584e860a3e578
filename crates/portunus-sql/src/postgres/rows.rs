//! Reading what the server sends.

use portunus_core::backend::{AttemptId, Entry, EntryId, Holder, Mode, Record, SessionId};
use portunus_core::error::{Error, ErrorKind};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::error::STORE;
use crate::rows;
use crate::server::failure::Fallible;

/// A column. Of tables that are ours it always is what is asked for.
pub(super) fn get<'r, T: FromSql<'r>>(row: &'r Row, column: usize) -> Fallible<T> {
    let read = row.try_get(column);
    Ok(read.map_err(|cause| Error::new(ErrorKind::Protocol, STORE, "read").with_source(cause))?)
}

/// An entry in three columns from this one on: position, mode, permits.
pub(super) fn entry(row: &Row, column: usize) -> Fallible<Entry> {
    let permits: Option<i64> = get(row, column + 2)?;
    let permits = permits.map(|permits| u32::try_from(permits).unwrap_or(u32::MAX));
    let mode = rows::mode(STORE, get(row, column + 1)?, permits)?;
    Ok(Entry { id: rows::id(natural(get(row, column)?)), mode })
}

/// The same with four more columns for what it says about itself: host, pid, app, value.
pub(super) fn record(row: &Row, column: usize) -> Fallible<(EntryId, Record)> {
    let Entry { id, mode } = entry(row, column)?;
    let holder = Holder {
        host: get(row, column + 3)?,
        pid: u32::try_from(get::<i64>(row, column + 4)?).unwrap_or(0),
        app: get(row, column + 5)?,
    };
    Ok((id, Record { mode, holder: Some(holder), value: get(row, column + 6)? }))
}

/// A mode as its columns.
pub(super) fn mode(mode: Mode) -> (&'static str, Option<i64>) {
    let (word, permits) = rows::mode_columns(mode);
    (word, permits.map(i64::from))
}

pub(super) fn bytes(attempt: AttemptId) -> [u8; 16] {
    attempt.0.to_be_bytes()
}

/// Our ids are below 2^63; another store's session is none of ours.
pub(super) fn row_id(session: SessionId) -> i64 {
    i64::try_from(session.0).unwrap_or(-1)
}

pub(super) fn session(id: i64) -> SessionId {
    SessionId(natural(id).into())
}

/// A number as the server keeps it. What is larger than any of ours finds nothing.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
