//! An entry that stands, and writes to it: it keeps its key, its place and its lease.

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp};
use portunus_core::backend::{Attempt, EntryId, Record, Turn};
use portunus_core::error::{ErrorKind, Result};

use crate::backend::{Etcd, error};
use crate::error::Effect;
use crate::layout::{is_by, value};
use crate::store::created_at;

impl Etcd {
    /// Confirms that the entry stands; the revision at which it did.
    pub(crate) async fn stands(&self, attempt: &Attempt, entry: &EntryId) -> Result<Option<u64>> {
        let read = || TxnOp::get(&*entry.key, Some(GetOptions::new().with_keys_only()));
        let txn = Txn::new()
            .when([created_at(&entry.key, entry.position)])
            .and_then([read()])
            .or_else([read()]);
        let name = Some(attempt.name.as_str());
        let answer = self.store.txn("changed", name, Effect::Read, txn).await?;
        Ok(answer.succeeded.then_some(answer.revision))
    }

    /// Changes what an entry says about itself, if it still stands.
    ///
    /// The write compares that nothing changed since the entry was read. So it takes nothing back
    /// that was written before, and a request that arrives late changes nothing once another was
    /// applied; for that it is sent even if it would write what stands there already.
    pub(crate) async fn rewrite(
        &self,
        operation: &'static str,
        attempt: &Attempt,
        entry: &EntryId,
        change: impl FnOnce(&mut Record) + Send,
    ) -> Result<()> {
        let name = Some(attempt.name.as_str());
        let gone = || error(ErrorKind::Lost, operation, attempt).with_detail("the entry is gone");
        let is_own = |kv: &&KeyValue| {
            u64::try_from(kv.create_revision()).is_ok_and(|created| created == entry.position)
        };
        let read = Txn::new().and_then([TxnOp::get(&*entry.key, None)]);
        let standing = self.store.txn(operation, name, Effect::Read, read).await?.kvs()?;
        let own = standing.iter().find(is_own).filter(|kv| is_by(attempt.id, kv));
        let own = own.ok_or_else(gone)?;
        let mut record = Record::read(own.value());
        change(&mut record);
        let as_read = Compare::mod_revision(&*entry.key, CompareOp::Equal, own.mod_revision());
        let its_lease = PutOptions::new().with_ignore_lease();
        let put = TxnOp::put(&*entry.key, value(attempt.id, &record), Some(its_lease));
        let found = TxnOp::get(&*entry.key, Some(GetOptions::new().with_keys_only()));
        let txn = Txn::new().when([as_read]).and_then([put]).or_else([found]);
        let mut answer = self.store.txn(operation, name, Effect::Write, txn).await?;
        if answer.succeeded {
            return Ok(());
        }
        match answer.kvs()?.iter().find(is_own) {
            Some(_) => Err(error(ErrorKind::Unavailable, operation, attempt).with_detail(
                "another write of the entry came in between; this one is not applied",
            )),
            None => Err(gone()),
        }
    }

    /// Tells the waiter behind a permit that it holds, by a write that changes nothing: `held`, or
    /// `Lost` when the entry is gone.
    pub(crate) async fn mark(
        &self,
        attempt: &Attempt,
        entry: &EntryId,
        held: Turn,
    ) -> Result<Turn> {
        let as_it_is = PutOptions::new().with_ignore_value().with_ignore_lease();
        let put = TxnOp::put(&*entry.key, "", Some(as_it_is));
        let txn = Txn::new().when([created_at(&entry.key, entry.position)]).and_then([put]);
        let name = Some(attempt.name.as_str());
        match self.store.try_txn(Effect::Write, txn).await {
            Ok(answer) => {
                let answer = answer.map_err(|disorder| disorder.into_error("look", name))?;
                Ok(if answer.succeeded { held } else { Turn::Lost })
            }
            // A full store takes no writes. The grant stands without; the one behind learns of it
            // when the engine lists the queue.
            Err(fault) if fault.is_no_space() => Ok(held),
            Err(fault) => Err(fault.into_error("look", name)),
        }
    }
}

/// Whether the entry was written to since it was made.
pub(crate) fn is_marked(kvs: &[KeyValue], entry: &EntryId) -> bool {
    let own = kvs.iter().find(|kv| kv.key() == entry.key.as_bytes());
    own.is_some_and(|kv| kv.mod_revision() != kv.create_revision())
}
