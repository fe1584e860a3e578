//! The store inside [`Memory`](super::Memory): sessions that expire, queues, tombstones.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

use crate::backend::{
    Attempt, AttemptId, Contender, Entered, Entry, EntryId, Expires, Left, Mode, Record, SessionId,
    Turn,
};
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::mutant::Mutant;
use crate::name::LockName;
use crate::queue::{self, Place};

#[derive(Debug, Default)]
pub(super) struct State {
    position: u64,
    sessions: BTreeMap<SessionId, SessionRow>,
    /// No session expires before this.
    quiet_until: Moment,
    queues: BTreeMap<LockName, BTreeMap<u64, EntryRow>>,
    entries: HashMap<AttemptId, (LockName, u64)>,
    observers: HashMap<LockName, Arc<Notify>>,
}

#[derive(Debug)]
struct SessionRow {
    ttl: Duration,
    expires: Moment,
    tombstones: HashSet<AttemptId>,
}

#[derive(Debug)]
struct EntryRow {
    attempt: AttemptId,
    session: SessionId,
    key: Arc<str>,
    record: Record,
    /// The position at which it last changed.
    changed: u64,
    /// A permit that waited and now holds: its successor was told.
    marked: bool,
    watchers: Vec<Weak<Notify>>,
}

impl State {
    /// Ends what has expired by `now`; every access begins with it.
    pub(super) fn settle(&mut self, now: Moment) {
        if now < self.quiet_until {
            return;
        }
        let expired = self.sessions.iter().filter(|(_, session)| session.expires <= now);
        for id in expired.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close(id);
        }
        let next = self.sessions.values().map(|session| session.expires).min();
        self.quiet_until = next.unwrap_or(Moment::NEVER);
    }

    pub(super) fn open(&mut self, now: Moment, ttl: Duration) -> SessionId {
        self.position += 1;
        let id = SessionId(self.position.into());
        let expires = now.after(ttl);
        self.quiet_until = self.quiet_until.min(expires);
        self.sessions.insert(id, SessionRow { ttl, expires, tombstones: HashSet::new() });
        id
    }

    pub(super) fn renew(&mut self, id: SessionId, now: Moment) -> Result<()> {
        let session = self.session(id)?;
        session.expires = now.after(session.ttl);
        Ok(())
    }

    pub(super) fn close(&mut self, id: SessionId) {
        self.sessions.remove(&id);
        let of_session = |row: &EntryRow| row.session == id;
        let entries = self.queues.values().flat_map(BTreeMap::values).filter(|row| of_session(row));
        for attempt in entries.map(|row| row.attempt).collect::<Vec<_>>() {
            self.remove(attempt);
        }
    }

    pub(super) fn enter(&mut self, id: SessionId, attempt: &Attempt) -> Result<Entered> {
        if self.session(id)?.tombstones.contains(&attempt.id) {
            return Err(lost("enter").with_detail("the attempt has left"));
        }
        let position = match self.entries.get(&attempt.id) {
            Some((_, position)) => *position,
            None => self.insert(id, attempt),
        };
        let entry = EntryId { key: attempt.id.to_string().into(), position };
        match self.turn(attempt, &entry) {
            Ok(Turn::Waiting { .. }) if attempt.try_only => {
                self.remove(attempt.id);
                Ok(Entered::Refused)
            }
            Ok(turn) => Ok(Entered::Queued { entry, turn }),
            Err(error) => {
                // It would make those behind it fail as well.
                self.remove(attempt.id);
                Err(error)
            }
        }
    }

    fn insert(&mut self, session: SessionId, attempt: &Attempt) -> u64 {
        self.position += 1;
        let row = EntryRow {
            attempt: attempt.id,
            session,
            key: attempt.id.to_string().into(),
            record: attempt.record(),
            changed: self.position,
            marked: false,
            watchers: Vec::new(),
        };
        self.entries.insert(attempt.id, (attempt.name.clone(), self.position));
        self.queues.entry(attempt.name.clone()).or_default().insert(self.position, row);
        self.observed(&attempt.name);
        self.position
    }

    /// Where an entry stands; a permit that got its turn by waiting marks its entry, so that the one
    /// behind it learns that it now is the first to wait.
    pub(super) fn look(&mut self, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        let turn = self.turn(attempt, entry)?;
        if let (Mode::Permit { .. }, Turn::Held { .. }) = (attempt.mode, &turn) {
            let queue = self.queues.get_mut(&attempt.name);
            let row = queue.and_then(|queue| queue.get_mut(&entry.position));
            if let Some(row) = row.filter(|row| !row.marked) {
                self.position += 1;
                row.marked = true;
                row.changed = self.position;
                row.wake();
            }
        }
        Ok(turn)
    }

    /// Where an entry stands. One lock guards all state, so what is read here is also confirmed.
    pub(super) fn turn(&self, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        let queue = self.queues.get(&attempt.name);
        let before = queue.and_then(|queue| queue.range(..entry.position).next_back());
        if Mutant::OwnEntryUnconfirmed.is_on() && before.is_none() {
            return Ok(Turn::Held { token: entry.position, expires: Expires::WithSession });
        }
        let own = queue.and_then(|queue| queue.get(&entry.position));
        let row = |(position, row): (&u64, &EntryRow)| row.entry(*position);
        let entries: Vec<Entry> = match attempt.mode {
            // The nearest neighbour decides; a long queue is not read for it.
            Mode::Exclusive => before
                .map(row)
                .into_iter()
                .chain(own.map(|own| own.entry(entry.position)))
                .collect(),
            _ => queue.into_iter().flatten().map(row).collect(),
        };
        Ok(match queue::turn(&entries, entry)? {
            Place::First => Turn::Held { token: entry.position, expires: Expires::WithSession },
            Place::Behind(blockers) => Turn::Waiting { blockers, as_of: self.position },
            Place::Absent => Turn::Lost,
        })
    }

    /// Has `notify` woken when `own` or a blocker goes or changes; `None` when one has gone, or a
    /// blocker changed after `as_of`. The moment is when the first of their sessions would expire.
    pub(super) fn watch(
        &mut self,
        name: &LockName,
        own: &EntryId,
        (blockers, as_of): (&[Arc<str>], u64),
        notify: &Arc<Notify>,
    ) -> Option<Moment> {
        let queue = self.queues.get_mut(name)?;
        let mut found = 0;
        let mut expires = Moment::NEVER;
        for (position, row) in queue.range_mut(..=own.position) {
            let is_own = *position == own.position && row.key == own.key;
            if is_own || blockers.contains(&row.key) {
                if !is_own && row.changed > as_of {
                    return None;
                }
                found += 1;
                row.watchers.retain(|watcher| watcher.strong_count() > 0);
                row.watchers.push(Arc::downgrade(notify));
                expires = expires.min(self.sessions.get(&row.session)?.expires);
            }
        }
        (found == blockers.len() + 1).then_some(expires)
    }

    pub(super) fn leave(&mut self, id: SessionId, attempt: &Attempt, in_doubt: bool) -> Left {
        if let Some(session) = self.sessions.get_mut(&id)
            && in_doubt
            && !Mutant::LateArrivalIgnored.is_on()
        {
            session.tombstones.insert(attempt.id);
        }
        if Mutant::ReleaseByName.is_on() {
            let first = self.queues.get(&attempt.name).and_then(BTreeMap::first_key_value);
            let Some(first) = first.map(|(_, row)| row.attempt) else { return Left::Absent };
            return self.remove(first);
        }
        self.remove(attempt.id)
    }

    pub(super) fn change(
        &mut self,
        operation: &'static str,
        attempt: &Attempt,
        entry: &EntryId,
        change: impl FnOnce(&mut Record),
    ) -> Result<()> {
        let queue = self.queues.get_mut(&attempt.name);
        let row = queue.and_then(|queue| queue.get_mut(&entry.position));
        let row = row.filter(|row| row.attempt == attempt.id && row.key == entry.key);
        let row = row.ok_or_else(|| lost(operation).with_detail("the entry is gone"))?;
        change(&mut row.record);
        self.position += 1;
        row.changed = self.position;
        row.wake();
        self.observed(&attempt.name);
        Ok(())
    }

    pub(super) fn evict(&mut self, name: &LockName, entry: &EntryId) -> bool {
        let row = self.queues.get(name).and_then(|queue| queue.get(&entry.position));
        let Some(attempt) = row.filter(|row| row.key == entry.key).map(|row| row.attempt) else {
            return false;
        };
        self.remove(attempt) == Left::Removed
    }

    pub(super) fn queue(&self, name: &LockName) -> Vec<Entry> {
        let queue = self.queues.get(name).into_iter().flatten();
        queue.map(|(position, row)| row.entry(*position)).collect()
    }

    pub(super) fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        let entries = self.queue(name);
        let rows = self.queues.get(name).into_iter().flat_map(BTreeMap::values);
        entries
            .iter()
            .zip(rows)
            .map(|(entry, row)| {
                Ok(Contender {
                    entry: entry.id.clone(),
                    holds: queue::turn(&entries, &entry.id)? == Place::First,
                    token: Some(entry.id.position),
                    record: row.record.clone(),
                })
            })
            .collect()
    }

    pub(super) fn names(&self, prefix: &str) -> Vec<LockName> {
        let mut names: Vec<_> =
            self.queues.keys().filter(|name| name.as_str().starts_with(prefix)).cloned().collect();
        names.sort();
        names
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// A signal that fires on every change of the queue of `name`.
    pub(super) fn observer(&mut self, name: &LockName) -> Arc<Notify> {
        Arc::clone(self.observers.entry(name.clone()).or_default())
    }

    pub(super) fn next_expiry(&self) -> Moment {
        self.quiet_until
    }

    fn remove(&mut self, attempt: AttemptId) -> Left {
        let Some((name, position)) = self.entries.remove(&attempt) else { return Left::Absent };
        if let Some(queue) = self.queues.get_mut(&name) {
            if let Some(row) = queue.remove(&position) {
                row.wake();
            }
            if queue.is_empty() {
                self.queues.remove(&name);
            }
        }
        self.position += 1;
        self.observed(&name);
        Left::Removed
    }

    fn observed(&mut self, name: &LockName) {
        if let Some(observer) = self.observers.get(name) {
            observer.notify_waiters();
        }
    }

    fn session(&mut self, id: SessionId) -> Result<&mut SessionRow> {
        self.sessions.get_mut(&id).ok_or_else(|| lost("session"))
    }
}

impl EntryRow {
    fn entry(&self, position: u64) -> Entry {
        Entry { id: EntryId { key: Arc::clone(&self.key), position }, mode: self.record.mode }
    }

    fn wake(&self) {
        for watcher in self.watchers.iter().filter_map(Weak::upgrade) {
            watcher.notify_one();
        }
    }
}

fn lost(operation: &'static str) -> Error {
    Error::new(ErrorKind::Lost, "memory", operation)
}
