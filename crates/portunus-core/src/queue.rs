//! The one decision that all queues share: whose turn it is.

use std::sync::Arc;

use crate::backend::{Entry, EntryId, Mode};
use crate::error::{Error, ErrorKind, Result};
use crate::mutant::Mutant;

/// Where an entry stands in its queue.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// Nothing that conflicts stands before it.
    First,
    /// It waits for the going (for permits: the going or change) of these keys.
    Behind(Vec<Arc<str>>),
    /// It is not in the queue.
    Absent,
}

/// Decides where `me` stands among the entries of one lock, which may come in any order.
///
/// - Exclusive waits for the nearest entry before it, shared for the nearest exclusive one before
///   it: each going wakes one waiter, not all (Hunt et al., USENIX ATC 2010, §2.4).
/// - Permits hold while fewer than `limit` stand before them. The first waiter watches all
///   holders; a later one watches its predecessor, which goes or, on becoming a holder, changes.
///
/// Once an entry is [`Place::First`] it stays so: later entries get later positions.
///
/// # Errors
///
/// [`ErrorKind::Protocol`] when two entries have one position: fail closed, for both would hold.
/// [`ErrorKind::Conflict`] when permits meet another limit or another mode on one name: the first
/// entry decides what the name is used for.
pub fn turn(entries: &[Entry], me: &EntryId) -> Result<Place> {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by_key(|entry| entry.id.position);
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].id.position == pair[1].id.position) {
        return Err(Error::new(ErrorKind::Protocol, "queue", "turn")
            .with_key(&*pair[0].id.key)
            .with_detail(format!("`{}` has the same position", pair[1].id.key)));
    }
    let Some(rank) = entries.iter().position(|entry| entry.id == *me) else {
        return Ok(Place::Absent);
    };
    let (before, mode) = (&entries[..rank], entries[rank].mode);
    let blockers: &[&Entry] = match mode {
        Mode::Exclusive => last(before, |_| true),
        Mode::Shared if Mutant::ReaderOvertakes.is_on() => {
            let holder = before.first().is_some_and(|entry| entry.mode != Mode::Shared);
            &before[..usize::from(holder)]
        }
        Mode::Shared => last(before, |entry| entry.mode != Mode::Shared),
        Mode::Permit { limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            match rank {
                _ if rank < limit => &[],
                _ if Mutant::PermitWatchesOne.is_on() => last(before, |_| true),
                _ if rank == limit => before,
                _ => last(before, |_| true),
            }
        }
    };
    let permits = |mode| matches!(mode, Mode::Permit { .. });
    let mixed = |entry: &&&Entry| entry.mode != mode && (permits(mode) || permits(entry.mode));
    // One that stands behind it and differs is refused itself, and about to go.
    if let Some(other) = before.first().filter(mixed) {
        return Err(Error::new(ErrorKind::Conflict, "queue", "acquire").with_detail(format!(
            "the name is used as {}, and was asked for as {mode}; it is the first in the queue \
             that decides, `{}`",
            other.mode, other.id.key
        )));
    }
    Ok(match blockers {
        [] => Place::First,
        _ => Place::Behind(blockers.iter().map(|entry| Arc::clone(&entry.id.key)).collect()),
    })
}

fn last<'a>(before: &'a [&'a Entry], blocks: impl Fn(&Entry) -> bool) -> &'a [&'a Entry] {
    match before.iter().rposition(|entry| blocks(entry)) {
        Some(at) => &before[at..=at],
        None => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Mode::{Exclusive, Shared};

    fn queue(modes: &[Mode]) -> Vec<Entry> {
        let entry = |(position, mode): (u64, &Mode)| Entry { id: id(position), mode: *mode };
        (0..).zip(modes).map(entry).collect::<Vec<_>>().into_iter().rev().collect()
    }

    fn id(position: u64) -> EntryId {
        EntryId { key: format!("k{position}").into(), position }
    }

    fn behind(keys: &[u64]) -> Place {
        Place::Behind(keys.iter().map(|&key| id(key).key).collect())
    }

    #[test]
    fn exclusive_waits_for_its_neighbour_shared_for_the_last_writer() {
        let entries = queue(&[Shared, Shared, Exclusive, Shared, Shared, Exclusive]);
        let places: Vec<_> = (0..6).map(|at| turn(&entries, &id(at)).unwrap()).collect();
        let first = Place::First;
        let expected =
            [first.clone(), first, behind(&[1]), behind(&[2]), behind(&[2]), behind(&[4])];
        assert_eq!(places, expected);
    }

    #[test]
    fn the_first_waiting_permit_watches_all_holders() {
        let entries = queue(&[Mode::Permit { limit: 2 }; 4]);
        assert_eq!(turn(&entries, &id(1)).unwrap(), Place::First);
        assert_eq!(turn(&entries, &id(2)).unwrap(), behind(&[0, 1]));
        assert_eq!(turn(&entries, &id(3)).unwrap(), behind(&[2]));
    }

    #[test]
    fn an_absent_entry_or_another_one_under_its_key_is_absent() {
        let entries = queue(&[Exclusive]);
        assert_eq!(turn(&entries, &id(7)).unwrap(), Place::Absent);
        let later = EntryId { position: 9, ..id(0) };
        assert_eq!(turn(&entries, &later).unwrap(), Place::Absent);
    }

    #[test]
    fn equal_positions_and_mixed_permits_are_refused() {
        let mut entries = queue(&[Exclusive, Exclusive]);
        entries[0].id.position = 0;
        assert_eq!(turn(&entries, &id(0)).unwrap_err().kind(), ErrorKind::Protocol);
        let (two, three) = (Mode::Permit { limit: 2 }, Mode::Permit { limit: 3 });
        let entries = queue(&[two, three, two]);
        assert_eq!(turn(&entries, &id(2)).unwrap(), behind(&[0, 1]));
        let error = turn(&entries, &id(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("limit 2") && error.to_string().contains("limit 3"));
    }
}
