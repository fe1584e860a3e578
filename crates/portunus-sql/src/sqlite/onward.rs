//! Transactions on a file that did not go back. One that was put back from a copy has numbers that it
//! gave before: what it says about this process's locks is of the past.

use portunus_core::error::{Error, ErrorKind};
use rusqlite::{Connection, Transaction};

use super::error::{Fallible, STORE, read, write_if};
use super::queue;
use crate::horizon::{At, Seen};
use crate::sessions::Liveness;

/// What to answer when the file went back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Back(pub(super) ErrorKind, pub(super) &'static str);

/// Runs `work` in a transaction that writes, and says whether it is to stay.
pub(super) fn write_onward<T>(
    connection: &mut Connection,
    liveness: &Liveness,
    back: Back,
    work: impl FnOnce(&Transaction<'_>) -> Fallible<(T, bool)>,
) -> Fallible<T> {
    let seen = liveness.horizon.seen();
    let (done, at) = write_if(connection, |transaction| {
        back.check(&seen, &queue::at(transaction)?)?;
        let (done, stays) = work(transaction)?;
        Ok(((done, queue::at(transaction)?), stays))
    })?;
    liveness.horizon.saw(at);
    Ok(done)
}

/// Runs `work` on one state of the file.
pub(super) fn read_onward<T>(
    connection: &mut Connection,
    liveness: &Liveness,
    back: Back,
    work: impl FnOnce(&Transaction<'_>) -> Fallible<T>,
) -> Fallible<T> {
    let seen = liveness.horizon.seen();
    let (done, at) = read(connection, |transaction| {
        let at = queue::at(transaction)?;
        back.check(&seen, &at)?;
        Ok((work(transaction)?, at))
    })?;
    liveness.horizon.saw(at);
    Ok(done)
}

impl Back {
    fn check(self, seen: &Seen, at: &At) -> Fallible<()> {
        let Some(was) = seen.ahead_of(at) else { return Ok(()) };
        let Self(kind, operation) = self;
        let detail = format!(
            "the file is at position {} and was at {was}: an earlier copy of it was put back",
            at.position
        );
        Err(Error::new(kind, STORE, operation).with_detail(detail).into())
    }
}
