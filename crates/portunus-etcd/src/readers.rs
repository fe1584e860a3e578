//! Readers, who come and are woken in crowds: those of one lock read its queue together.

use std::sync::Arc;

use etcd_client::{KeyValue, Txn};
use portunus_core::backend::{Attempt, Entry, EntryId, Mode, Turn};
use portunus_core::error::Result;
use portunus_core::joint::Joint;

use crate::backend::Etcd;
use crate::error::Effect;
use crate::queue::Queue;
use crate::store::newest;

/// Listings of queues, by their prefix.
pub(crate) type Readers = Joint<String, Arc<Listing>>;

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

    /// Where a reader's entry stands, by a listing that it shares with the other readers here.
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
        let listing = self.readers.read(prefix.clone(), list).await?;
        let queue = Queue::new(&self.keys, &attempt.name, &prefix);
        queue.place(&listing.entries, &listing.kvs, entry, listing.revision)
    }
}

/// How many of the newest entries a reader reads when it enters: enough for most queues, and so few
/// that a crowd does not read itself over and over.
const WINDOW: i64 = 16;
