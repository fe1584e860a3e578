//! Entering a queue, and looking where one stands in it.

use portunus_core::backend::{Attempt, Entered, EntryId, SessionId, Turn};
use portunus_core::error::{Error, ErrorKind};

use super::failure::Fallible;
use super::session::settle_for_a_try;
use super::tables::{Change, Entering, Inserted, Tables};
use crate::rows;
use crate::sessions::Liveness;

/// Puts the attempt into the queue, unless it is there, was withdrawn, or would wait and may not.
///
/// The key's row is locked while the queue is read, by a statement that begins after the lock was had: a
/// statement that waited for it would read the queue of before.
pub(super) async fn enter<T: Tables>(
    tables: &mut T,
    liveness: &Liveness,
    store: &'static str,
    session: SessionId,
    attempt: &Attempt,
    key: &str,
) -> Fallible<Entered> {
    let error = |kind| Error::new(kind, store, "enter");
    let mut is_settled = false;
    for _ in 0..ROUNDS {
        let (own, position, before) = match tables.begin_enter(session, attempt, key).await? {
            Entering::Busy if attempt.try_only => return Ok(Entered::Refused),
            Entering::Busy => {
                let detail = "somebody's transaction holds the name";
                return Err(error(ErrorKind::Unavailable).with_detail(detail).into());
            }
            Entering::Ended => {
                tables.undo().await?;
                let detail = "the attempt was withdrawn before";
                return Err(error(ErrorKind::Lost).with_detail(detail).into());
            }
            Entering::Again(own, before) => {
                let position = own.entry.id.position;
                (Some(own), position, before)
            }
            Entering::First { position, before } => (None, position, before),
        };
        let entry = match &own {
            Some(own) => own.entry.clone(),
            None => portunus_core::backend::Entry { id: rows::id(position), mode: attempt.mode },
        };
        let id = entry.id.clone();
        let turn = before.turn(entry);
        let is_turned_away = match &turn {
            Ok(Turn::Waiting { .. }) => attempt.try_only,
            Ok(_) => false,
            Err(_) => true,
        };
        if is_turned_away {
            tables.undo().await?;
            // Those in its way may be dead, or make the name what it no longer is.
            if !is_settled && settle_for_a_try(tables, liveness).await? {
                is_settled = true;
                continue;
            }
            turn?;
            if own.is_some() {
                tables.remove(session, attempt.id).await?;
            }
            return Ok(Entered::Refused);
        }
        let turn = turn?;
        let is_held = matches!(turn, Turn::Held { .. });
        match own {
            Some(own) => {
                tables.undo().await?;
                // Its turn came since: nobody looks any more, so it says so itself.
                if is_held && own.is_unmarked_permit() {
                    let is_there = tables.change(attempt.id, position, &Change::Mark).await?;
                    is_there.then_some(()).ok_or_else(|| error(ErrorKind::Lost))?;
                }
            }
            None => match tables.insert(session, attempt, key, position, is_held).await? {
                Inserted::Done => {}
                Inserted::NoSession => return Err(error(ErrorKind::Lost).into()),
                Inserted::Overtaken => continue,
            },
        }
        return Ok(Entered::Queued { entry: id, turn });
    }
    let detail = "its own row comes and goes";
    Err(error(ErrorKind::Unavailable).with_detail(detail).into())
}

/// Where the entry stands. One statement reads both halves of a grant: that it stands, and none before
/// it that is in its way. A permit that has come to hold says so in its row, for the one behind it.
pub(super) async fn look<T: Tables>(
    tables: &mut T,
    attempt: &Attempt,
    entry: &EntryId,
    key: &str,
) -> Fallible<(Turn, HasMarked)> {
    let lost = (Turn::Lost, HasMarked(false));
    let (own, before) = match tables.look(attempt, key).await? {
        Some((own, before)) if own.entry.id == *entry => (own, before),
        _ => return Ok(lost),
    };
    let is_unmarked = own.is_unmarked_permit();
    let turn = before.turn(own.entry)?;
    let is_to_mark = is_unmarked && matches!(turn, Turn::Held { .. });
    if is_to_mark && !tables.change(attempt.id, entry.position, &Change::Mark).await? {
        return Ok(lost);
    }
    Ok((turn, HasMarked(is_to_mark)))
}

/// Whether a look changed the row.
pub(super) struct HasMarked(pub(super) bool);

/// How often it begins anew: once for the dead, once for a row of its own that came meanwhile, and once
/// for one that has gone again.
const ROUNDS: usize = 4;
