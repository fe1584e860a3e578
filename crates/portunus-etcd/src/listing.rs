//! Whole queues: read where the newest entries do not tell enough, and together with others who ask.
//!
//! Readers come and are woken in crowds, and each has to know of all entries before it.

use std::sync::Arc;

use etcd_client::{KeyValue, Txn};
use portunus_core::backend::{Attempt, Entry, EntryId, LockBackend, Mode, Session, Turn};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::joint::Joint;

use crate::backend::Etcd;
use crate::error::{Effect, STORE};
use crate::queue::Queue;
use crate::store::{Answer, newest};

/// Listings of queues, by their prefix.
pub(crate) type Listings = Joint<String, Arc<Listing>>;

/// A whole queue at one time.
#[derive(Debug)]
pub(crate) struct Listing {
    kvs: Vec<KeyValue>,
    /// Read once for all.
    entries: Vec<Entry>,
    revision: u64,
}

impl Etcd {
    /// How many of the newest entries are read when one is made; 0 for all.
    pub(crate) fn window(&self, mode: Mode) -> i64 {
        match mode {
            Mode::Exclusive => self.limit(mode, 2),
            Mode::Shared if self.keys.is_exact() => WINDOW,
            Mode::Shared | Mode::Permit { .. } => 0,
        }
    }

    /// Looks at an entry that is known to stand: until its place is known, nothing is definite.
    pub(crate) async fn look_at_own(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
    ) -> Result<Turn> {
        self.look(session, attempt, entry).await.map_err(unconfirmed)
    }

    /// Whether a try would have to wait, by what its transaction read or, where that shows another
    /// kind of lock, by the whole queue: the newest entry may be the one that is refused.
    pub(crate) async fn is_taken(
        &self,
        queue: &Queue<'_>,
        answer: &mut Answer,
        own: &Arc<str>,
        attempt: &Attempt,
    ) -> Result<bool> {
        match queue.is_taken(&answer.kvs()?, own, attempt.mode, answer.revision) {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let txn = Txn::new().and_then([newest(&self.keys.queue(&attempt.name)?, 0, 0)]);
                let name = Some(attempt.name.as_str());
                let mut whole = self.store.txn("enter", name, Effect::Read, txn).await?;
                queue.is_taken(&whole.kvs()?, own, attempt.mode, whole.revision)
            }
            taken => taken,
        }
    }

    /// Where an entry stands, by a listing that it shares with all who ask here.
    ///
    /// One linearizable read shows both halves of a grant: the entry stands, and no writer before
    /// it. It was sent after this call began, so it answers everyone who waited for it.
    pub(crate) async fn look_together(
        &self,
        attempt: &Attempt,
        entry: &EntryId,
        prefix: String,
    ) -> Result<Turn> {
        let (store, keys) = (Arc::clone(&self.store), self.keys.clone());
        let (name, of) = (attempt.name.clone(), prefix.clone());
        let list = || async move {
            let txn = Txn::new().and_then([newest(&of, 0, 0)]);
            let mut answer = store.txn("look", Some(name.as_str()), Effect::Read, txn).await?;
            let kvs = answer.kvs()?;
            let entries = Queue::new(&keys, &name, &of).entries(&kvs)?;
            Ok(Arc::new(Listing { kvs, entries, revision: answer.revision }))
        };
        let listing = self.listings.read(prefix.clone(), list).await?;
        let queue = Queue::new(&self.keys, &attempt.name, &prefix);
        queue.place(&listing.entries, &listing.kvs, entry, listing.revision)
    }
}

/// The failure of a look at an entry that stands: of the attempt, nothing is definite.
pub(crate) fn unconfirmed(failed: Error) -> Error {
    match failed.kind() {
        ErrorKind::Unavailable => Error::new(ErrorKind::Unconfirmed, STORE, "enter")
            .with_detail("the entry stands, and its place is not known")
            .with_source(failed),
        _ => failed,
    }
}

/// How many of the newest entries a reader reads when it enters: enough for most queues, and so few
/// that a crowd does not read itself over and over.
const WINDOW: i64 = 16;
