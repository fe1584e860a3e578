//! Entries of a lock's queue, and the answers that a store gives about them.

use std::sync::Arc;

use super::attempt::{Mode, Record};
use crate::clock::Moment;
use crate::name::LockName;
use crate::token::Incarnation;

/// What identifies one entry: a later entry under the same key has another position.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct EntryId {
    /// What the store calls it: key, node or row.
    pub key: Arc<str>,
    /// Its place in the queue's order: create revision, sequence or row number.
    pub position: u64,
}

/// One entry of a queue, as [`queue::turn`](crate::queue::turn) reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Which entry.
    pub id: EntryId,
    /// How it wants to hold.
    pub mode: Mode,
}

/// The first definite answer to [`enter`](super::LockBackend::enter).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Entered {
    /// The entry stands.
    Queued {
        /// Which entry.
        entry: EntryId,
        /// Where it stands.
        turn: Turn,
    },
    /// A try-only attempt found the lock taken; no entry was made.
    Refused,
}

/// Where an entry stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Turn {
    /// It holds the lock, confirmed.
    Held {
        /// The number of the fencing token; belongs to the entry and never changes.
        token: u64,
        /// Until when.
        expires: Expires,
    },
    /// It waits for others.
    Waiting {
        /// The keys of the entries whose going, or for permits whose change, may be its turn.
        blockers: Vec<Arc<str>>,
        /// The store's position at which this was read; 0 where the store has none.
        as_of: u64,
    },
    /// It is gone: evicted, or its session ended.
    Lost,
}

/// How long a grant stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expires {
    /// As long as its session.
    WithSession,
    /// Until this moment of the engine's clock, unless renewed.
    At(Moment),
}

/// What [`leave`](super::LockBackend::leave) found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left {
    /// The entry stood until now.
    Removed,
    /// There was none any more, or never one.
    Absent,
}

/// One entry with what it says about itself, for people and tools.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Contender {
    /// Which entry.
    pub entry: EntryId,
    /// Whether it holds the lock; the others wait.
    pub holds: bool,
    /// The number of its fencing token, where its entry tells it.
    pub token: Option<u64>,
    /// What it wrote about itself.
    pub record: Record,
}

/// The head of a queue at one time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Observation {
    /// The store's position of this view; pass it to `follow` to go on from here.
    pub as_of: u64,
    /// Who holds, if anybody does.
    pub holder: Option<Contender>,
}

/// One page of names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NamePage {
    /// Names with at least one entry.
    pub names: Vec<LockName>,
    /// What to pass for the next page; `None` at the end.
    pub next: Option<String>,
}

/// Who a store says it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// Its present life.
    pub incarnation: Incarnation,
    /// The server's version, as it writes it.
    pub version: String,
    /// Settings that weaken what [`Capabilities`](super::Capabilities) promise, for people.
    pub warnings: Vec<String>,
}
