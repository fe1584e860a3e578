//! From the store's keys to the place in the queue.

use std::sync::Arc;

use etcd_client::KeyValue;
use portunus_core::backend::{Contender, Entry, EntryId, Expires, Mode, Record, Turn};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::queue::{self, Place};

use crate::error::STORE;
use crate::layout::{Keys, Member, text};
use crate::store::revision;

/// The entries of one lock among the keys found below its prefix.
pub(crate) struct Queue<'a> {
    keys: &'a Keys,
    name: &'a LockName,
    prefix: &'a str,
}

impl<'a> Queue<'a> {
    pub(crate) fn new(keys: &'a Keys, name: &'a LockName, prefix: &'a str) -> Self {
        Self { keys, name, prefix }
    }

    /// Reads the entries, also those that can't be contenders: they block the queue too.
    pub(crate) fn entries(&self, kvs: &[KeyValue]) -> Result<Vec<Entry>> {
        self.own(kvs).map(|kv| Ok(Entry { id: id(kv)?, mode: mode(kv) })).collect()
    }

    /// Reads the entries in their order, with what they say about themselves.
    pub(crate) fn contenders(&self, kvs: &[KeyValue]) -> Result<Vec<Contender>> {
        let mut kvs: Vec<&KeyValue> = self.own(kvs).collect();
        kvs.sort_by_key(|kv| kv.create_revision());
        let entries: Vec<Entry> = kvs
            .iter()
            .map(|kv| Ok(Entry { id: id(kv)?, mode: mode(kv) }))
            .collect::<Result<_>>()?;
        // Those who hold stand before those who wait, in every mode.
        let holds = |entry: &&Entry| matches!(queue::turn(&entries, &entry.id), Ok(Place::First));
        let holders = entries.iter().take_while(holds).count();
        let contender = |(at, (kv, entry)): (usize, (&&KeyValue, &Entry))| Contender {
            entry: entry.id.clone(),
            holds: at < holders,
            token: Some(entry.id.position),
            record: Record::read(kv.value()),
        };
        Ok(kvs.iter().zip(&entries).enumerate().map(contender).collect())
    }

    /// Decides where `me` stands, given at least the entries that may stand before it.
    pub(crate) fn turn(
        &self,
        kvs: &[KeyValue],
        me: &EntryId,
        mode: Mode,
        as_of: u64,
    ) -> Result<Turn> {
        let mut entries = self.entries(kvs)?;
        if !entries.iter().any(|entry| entry.id == *me) {
            entries.push(Entry { id: me.clone(), mode });
        }
        self.place(&entries, kvs, me, as_of)
    }

    /// Decides where `me` stands among entries that were read from `kvs` before.
    pub(crate) fn place(
        &self,
        entries: &[Entry],
        kvs: &[KeyValue],
        me: &EntryId,
        as_of: u64,
    ) -> Result<Turn> {
        match queue::turn(entries, me)? {
            Place::First => Ok(Turn::Held { token: me.position, expires: Expires::WithSession }),
            Place::Absent => Ok(Turn::Lost),
            Place::Behind(blockers) => match self.foreign(kvs, &blockers) {
                Some(error) => Err(error),
                None => Ok(Turn::Waiting { blockers, as_of }),
            },
        }
    }

    /// Says whether one who came next would have to wait; an error if it would be in vain.
    pub(crate) fn is_taken(
        &self,
        kvs: &[KeyValue],
        next: &Arc<str>,
        mode: Mode,
        as_of: u64,
    ) -> Result<bool> {
        let next = EntryId { key: Arc::clone(next), position: as_of.saturating_add(1) };
        Ok(matches!(self.turn(kvs, &next, mode, as_of)?, Turn::Waiting { .. }))
    }

    fn own<'k>(&self, kvs: &'k [KeyValue]) -> impl Iterator<Item = &'k KeyValue> {
        kvs.iter().filter(|kv| self.keys.member(self.prefix, kv) != Member::Elsewhere)
    }

    fn foreign(&self, kvs: &[KeyValue], blockers: &[Arc<str>]) -> Option<Error> {
        kvs.iter().find_map(|kv| match self.keys.member(self.prefix, kv) {
            Member::Foreign(fault) if blockers.contains(&text(kv.key())) => Some(
                Error::new(ErrorKind::Conflict, STORE, "queue").with_key(self.name.as_str()).with_detail(
                    format!(
                        "the key `{}` is in the way and will not go by itself: {fault}; accepted \
                         below `{}` are `<hex of a lease>` and `<hex of a lease>-<anything>` with a \
                         lease; it is left as it is",
                        text(kv.key()).escape_debug(),
                        self.prefix
                    ),
                ),
            ),
            _ => None,
        })
    }
}

fn id(kv: &KeyValue) -> Result<EntryId> {
    Ok(EntryId { key: text(kv.key()), position: revision(kv.create_revision())? })
}

fn mode(kv: &KeyValue) -> Mode {
    Record::read(kv.value()).mode
}
