//! Entries as rows of a table, the same in every database: what they are called, what they say, and
//! which of them decide whose turn it is.

use portunus_core::backend::{Contender, Entry, EntryId, Expires, Mode, Record, Turn};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::queue::{self, Place};

/// How names become keys: `<namespace>/<name>`, injective because a namespace has no `/`.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(namespace: &str) -> Self {
        Self { prefix: format!("{namespace}/") }
    }

    pub(crate) fn key(&self, name: &LockName) -> String {
        self.begin(name.as_str())
    }

    /// What all keys begin with whose names begin with `name`.
    pub(crate) fn begin(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn name_of(&self, key: &str) -> Option<LockName> {
        LockName::new(key.strip_prefix(&self.prefix)?).ok()
    }
}

/// Which rows before an entry decide about it, so that a long queue is not read for one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Window {
    /// So many of the nearest.
    Nearest(u64),
    /// The nearest one that is not shared.
    NearestUnshared,
}

impl Window {
    pub(crate) fn of(mode: Mode) -> Self {
        match mode {
            Mode::Exclusive => Self::Nearest(1),
            Mode::Shared => Self::NearestUnshared,
            // One more than may hold: then it is known that the nearest is a waiter too.
            Mode::Permit { limit } => Self::Nearest(u64::from(limit) + 1),
        }
    }
}

/// What identifies a row: its number, which is also its token.
pub(crate) fn id(position: u64) -> EntryId {
    EntryId { key: position.to_string().into(), position }
}

/// The number that a key names, if it is one of ours.
pub(crate) fn position(key: &str) -> Option<u64> {
    key.parse().ok().filter(|position: &u64| position.to_string() == key)
}

/// Decides where `own` stands behind the rows of its [`Window`]. Both were read at `as_of`.
pub(crate) fn turn(mut before: Vec<Entry>, own: Entry, as_of: u64) -> Result<Turn> {
    let id = own.id.clone();
    before.push(own);
    Ok(match queue::turn(&before, &id)? {
        Place::First => Turn::Held { token: id.position, expires: Expires::WithSession },
        Place::Behind(blockers) => Turn::Waiting { blockers, as_of },
        Place::Absent => Turn::Lost,
    })
}

/// Says of a whole queue, in its order, who holds: always a part at its head.
pub(crate) fn contenders(rows: Vec<(EntryId, Record)>) -> Result<Vec<Contender>> {
    let entry = |(id, record): &(EntryId, Record)| Entry { id: id.clone(), mode: record.mode };
    let entries: Vec<Entry> = rows.iter().map(entry).collect();
    let mut holders = 0;
    for entry in &entries {
        match queue::turn(&entries, &entry.id)? {
            Place::First => holders += 1,
            Place::Behind(_) | Place::Absent => break,
        }
    }
    let contender = |(at, (entry, record)): (usize, (EntryId, Record))| Contender {
        token: Some(entry.position),
        holds: at < holders,
        entry,
        record,
    };
    Ok(rows.into_iter().enumerate().map(contender).collect())
}

/// A mode as two columns: a word that people read, and the limit of a semaphore.
pub(crate) fn mode_columns(mode: Mode) -> (&'static str, Option<u32>) {
    match mode {
        Mode::Exclusive => ("exclusive", None),
        Mode::Shared => (SHARED, None),
        Mode::Permit { limit } => ("permit", Some(limit)),
    }
}

/// Reads the two columns; what no contender can have written is an error.
pub(crate) fn mode(store: &'static str, word: &str, limit: Option<u32>) -> Result<Mode> {
    match (word, limit) {
        ("exclusive", None) => Ok(Mode::Exclusive),
        (SHARED, None) => Ok(Mode::Shared),
        ("permit", Some(limit)) => Ok(Mode::Permit { limit }),
        _ => Err(Error::new(ErrorKind::Protocol, store, "read")
            .with_detail(format!("a row has the mode `{word}` with the limit {limit:?}"))),
    }
}

/// The word of [`Mode::Shared`], for statements that look for it.
pub(crate) const SHARED: &str = "shared";

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Mode = Mode::Permit { limit: 2 };

    fn rows(modes: &[Mode]) -> Vec<Entry> {
        (1..).zip(modes).map(|(position, mode)| Entry { id: id(position), mode: *mode }).collect()
    }

    fn nearest(entries: &[Entry], window: Window) -> Vec<Entry> {
        let mut wanted: Vec<Entry> = match window {
            Window::Nearest(count) => {
                let count = usize::try_from(count).unwrap();
                entries.iter().rev().take(count).cloned().collect()
            }
            Window::NearestUnshared => {
                let unshared = |entry: &&Entry| entry.mode != Mode::Shared;
                entries.iter().rev().find(unshared).cloned().into_iter().collect()
            }
        };
        wanted.reverse();
        wanted
    }

    #[test]
    fn the_window_decides_as_the_whole_queue_does() {
        let locks = [Mode::Shared, Mode::Exclusive, Mode::Shared, Mode::Shared, Mode::Exclusive];
        for (queue, asked) in [
            (&locks[..], Mode::Exclusive),
            (&locks[..], Mode::Shared),
            (&locks[..1], Mode::Shared),
            (&[TWO; 7][..], TWO),
            (&locks[..], TWO),
            (&[TWO; 7][..], Mode::Shared),
        ] {
            for length in 0..=queue.len() {
                let before = rows(&queue[..length]);
                let own = Entry { id: id(100), mode: asked };
                let window = nearest(&before, Window::of(asked));
                let [part, whole] = [window, before]
                    .map(|before| turn(before, own.clone(), 9).map_err(|e| e.kind()));
                assert_eq!(part, whole, "{asked:?} behind {:?}", &queue[..length]);
            }
        }
    }

    #[test]
    fn keys_and_modes_are_read_back_and_nothing_else_is() {
        let keys = Keys::new("shop");
        let name = LockName::new("a/b").unwrap();
        assert_eq!(keys.key(&name), "shop/a/b");
        assert_eq!(keys.name_of("shop/a/b"), Some(name));
        assert_eq!(keys.name_of("shop/"), None);
        assert_eq!(keys.name_of("shopping/a"), None);
        assert_eq!((position("17"), position("017"), position("17x")), (Some(17), None, None));
        for one in [Mode::Exclusive, Mode::Shared, TWO] {
            let (word, limit) = mode_columns(one);
            assert_eq!(mode("store", word, limit).unwrap(), one);
        }
        assert_eq!(mode("store", "shared", Some(2)).unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn holders_are_the_head_of_the_queue() {
        let record = |mode| Record { mode, ..Record::default() };
        let listed = |modes: &[Mode]| {
            let rows = (1..).zip(modes).map(|(position, mode)| (id(position), record(*mode)));
            contenders(rows.collect()).unwrap().iter().map(|one| one.holds).collect::<Vec<_>>()
        };
        assert_eq!(listed(&[Mode::Shared, Mode::Shared, Mode::Exclusive]), [true, true, false]);
        assert_eq!(listed(&[TWO; 3]), [true, true, false]);
    }
}
