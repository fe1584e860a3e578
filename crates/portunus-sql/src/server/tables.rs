//! What the locks need of a database server: the statements, said once for every database.
//!
//! One value is one connection. A call that fails in a way that may leave a transaction open says so by
//! [`Failure::spares_connection`](super::failure::Failure::spares_connection), and one that is dropped
//! midway leaves the connection unusable: whoever calls throws it away then, and the server rolls back.
//!
//! Isolation is READ COMMITTED everywhere, set by each transaction itself, and every commit is durable
//! before it is confirmed, whatever the server's or the user's default is.

use std::time::Duration;

use async_trait::async_trait;
use portunus_core::backend::{
    Attempt, AttemptId, Capabilities, Entry, EntryId, Mode, Record, SessionId, Turn,
};
use portunus_core::beat::Sighting;
use portunus_core::error::Result;
use portunus_core::token::Incarnation;

use super::failure::Fallible;
use crate::rows;
use crate::sessions::Beating;

/// How to reach the tables.
#[async_trait]
pub(crate) trait Database: std::fmt::Debug + Send + Sync + 'static {
    type Tables: Tables;

    /// The word for this store in every error.
    const STORE: &'static str;

    /// What the store can do and promises.
    fn capabilities() -> Capabilities;

    /// Connects to the first server of those named that takes writes, makes the tables where they are
    /// missing and it may, and checks their version. A call that is dropped midway has the next one
    /// begin with the next server. `patience` is the longest that one statement may wait for a lock in
    /// the database; a transaction of ours that stands idle for a few of it is ended by the server.
    async fn connect(&self, patience: Duration) -> Fallible<Self::Tables>;
}

/// A connection to the tables.
#[async_trait]
pub(crate) trait Tables: Send + 'static {
    /// The life of the database: the random row of its tables, and what changes when another server
    /// takes over.
    fn incarnation(&self) -> &Incarnation;
    /// Whether the connection has ended, as far as is known without asking.
    fn is_over(&self) -> bool;

    // Sessions. The entries, tombstones and sightings of one go with its row, whoever deletes it.

    async fn open(&mut self, session: SessionId, ttl: Duration) -> Fallible<()>;
    /// Raises the beat; `None` without the row.
    async fn renew(&mut self, session: SessionId) -> Fallible<Option<u64>>;
    /// Those of the attempts that have no standing entry in this session; one statement for all.
    async fn missing(
        &mut self,
        session: SessionId,
        attempts: &[AttemptId],
    ) -> Fallible<Vec<AttemptId>>;
    /// Removes it, and wakes those who wait for its entries.
    async fn close(&mut self, session: SessionId) -> Fallible<()>;
    /// All sessions.
    async fn sessions(&mut self) -> Fallible<Vec<Beating>>;
    /// Removes those that still have the beat that is named, each by one comparing statement, and
    /// wakes those who wait for their entries.
    async fn end_dead(&mut self, dead: &[(SessionId, u64)]) -> Fallible<()>;
    /// What other processes of the host saw.
    async fn sightings(&mut self, kernel: &str) -> Fallible<Vec<(SessionId, Sighting)>>;
    /// Keeps what was seen, where it is new: another beat, or the same one seen earlier.
    async fn keep_sightings(
        &mut self,
        kernel: &str,
        seen: &[(SessionId, Sighting)],
    ) -> Fallible<()>;

    // An attempt.

    /// Begins a transaction and takes the lock of the key's row, raising its counter, then reads the
    /// queue by a new statement. An attempt that has a row already raises nothing, and gets the part
    /// of the queue before its own. Ended by [`insert`](Self::insert) or [`undo`](Self::undo), but for
    /// an error and [`Entering::Busy`], after which nothing is open.
    async fn begin_enter(
        &mut self,
        session: SessionId,
        attempt: &Attempt,
        key: &str,
    ) -> Fallible<Entering>;
    /// Inserts the entry at `position` and commits. Else nothing is applied, and nothing open.
    async fn insert(
        &mut self,
        session: SessionId,
        attempt: &Attempt,
        key: &str,
        position: u64,
        marked: bool,
    ) -> Fallible<Inserted>;
    /// Rolls back; the counter is as it was.
    async fn undo(&mut self) -> Fallible<()>;
    /// The own row, and the queue before it, in one statement, as of one moment. Writes nothing.
    async fn look(&mut self, attempt: &Attempt, key: &str) -> Fallible<Option<(Own, Before)>>;
    /// Removes the entry, if it stands, and wakes those behind it; whether it stood.
    async fn remove(&mut self, session: SessionId, attempt: AttemptId) -> Fallible<bool>;
    /// Makes the row of the attempt a tombstone, or inserts one if there is none, as long as the
    /// session lives; wakes those behind it. Whether an entry stood. Waits for an insertion of the
    /// same attempt that is under way.
    async fn withdraw(&mut self, session: SessionId, attempt: AttemptId) -> Fallible<bool>;
    /// Changes the entry, if it still is the one named, raises its revision, and wakes those behind it;
    /// whether it was. A value is written only if the revision is still the one that was read for it:
    /// else it is `Unavailable`, for a late request must not overwrite what came after it.
    async fn change(
        &mut self,
        attempt: AttemptId,
        position: u64,
        change: &Change,
    ) -> Fallible<bool>;

    // For those who take no lock, and for waiting.

    /// The queue of a lock in its order.
    async fn queue(&mut self, key: &str) -> Fallible<Vec<Entry>>;
    /// The same with what each says about itself, the first `limit` of them, and the highest position
    /// that the key ever gave; both as of one moment.
    async fn records(&mut self, key: &str, limit: u32) -> Fallible<(Vec<(EntryId, Record)>, u64)>;
    /// Keys with entries, in the order of their bytes, that begin with `begin` and come after `after`.
    async fn keys(&mut self, begin: &str, after: Option<&str>, limit: u32)
    -> Fallible<Vec<String>>;
    /// Removes anybody's entry, and wakes those behind it; whether it stood.
    async fn evict(&mut self, key: &str, position: u64) -> Fallible<bool>;
    /// The first `limit` of the queues of several locks, in their order, as waiters need them; one
    /// statement for all.
    async fn standing(&mut self, keys: &[String], limit: u32) -> Fallible<Vec<Standing>>;
    /// The server's version, and what about its settings is dangerous.
    async fn probe(&mut self) -> Fallible<(String, Vec<String>)>;
    /// Removes the rows of keys that nobody holds or waits for, without a later token being lower than
    /// an earlier one; how many.
    async fn prune(&mut self) -> Fallible<u64>;

    /// Asks to be told of changes, where the server tells. Told is a hint: who waits also polls.
    async fn listen(&mut self) -> Fallible<()>;
    /// Completes with the keys that the server says have changed; never where it tells nothing.
    /// Cancel safe: what was not returned is returned by the next call.
    async fn told(&mut self) -> Fallible<Vec<String>>;
}

/// What entering found.
#[derive(Debug)]
pub(crate) enum Entering {
    /// The attempt was withdrawn, and its tombstone stands.
    Ended,
    /// The attempt has an entry.
    Again(Own, Before),
    /// Somebody's transaction holds the key's row for longer than the patience; rolled back.
    Busy,
    /// It has none yet, and would get this position.
    First { position: u64, before: Before },
}

/// What inserting an entry found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Inserted {
    Done,
    /// The session has no row.
    NoSession,
    /// The attempt has got a row since it was looked for: an entry, by a request that was sent before
    /// and is late, or a tombstone.
    Overtaken,
}

/// The entry of an attempt.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) entry: Entry,
    /// Whether it is a permit that says of itself that it holds.
    pub(crate) is_marked: bool,
}

impl Own {
    /// Whether it would have to be marked once it holds.
    pub(crate) fn is_unmarked_permit(&self) -> bool {
        !self.is_marked && matches!(self.entry.mode, Mode::Permit { .. })
    }
}

/// The part of the queue before an entry that decides about it, see [`Window`](crate::rows::Window), in
/// any order. Each entry with its [`revision`](Standing::revision).
#[derive(Debug)]
pub(crate) struct Before(pub(crate) Vec<(Entry, u64)>);

impl Before {
    /// Decides where `own` stands behind them. `as_of` of one that waits is the sum of its blockers'
    /// revisions.
    pub(crate) fn turn(self, own: Entry) -> Result<Turn> {
        let Self(before) = self;
        let entries = before.iter().map(|(entry, _)| entry.clone()).collect();
        let mut turn = rows::turn(entries, own, 0)?;
        if let Turn::Waiting { blockers, as_of } = &mut turn {
            let blocks = |(entry, _): &&(Entry, u64)| blockers.contains(&entry.id.key);
            *as_of = before.iter().filter(blocks).map(|(_, revision)| revision).sum();
        }
        Ok(turn)
    }
}

/// A change to the row of a grant that stands.
#[derive(Debug)]
pub(crate) enum Change {
    /// A permit that waited and now holds: the one behind it is the first to wait.
    Mark,
    /// A downgrade.
    Share,
    Publish(String),
}

/// An entry as a waiter behind it, or its own holder, needs it.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) key: String,
    pub(crate) position: u64,
    /// How often it changed: its mode, its mark, its value.
    pub(crate) revision: u64,
}
