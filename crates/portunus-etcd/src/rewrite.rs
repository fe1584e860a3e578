//! Writes to an entry that stands: it keeps its key, its place and its lease.

use etcd_client::{KeyValue, PutOptions, Txn, TxnOp};
use portunus_core::backend::{Attempt, EntryId, Session, Turn};
use portunus_core::error::{ErrorKind, Result};

use crate::backend::{Etcd, error, lease};
use crate::error::Effect;
use crate::store::created_at;

impl Etcd {
    /// Replaces the value of an entry, if it still stands.
    pub(crate) async fn rewrite(
        &self,
        operation: &'static str,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: String,
    ) -> Result<()> {
        let lease = PutOptions::new().with_lease(lease(session)?);
        let put = TxnOp::put(&*entry.key, value, Some(lease));
        let txn = Txn::new().when([created_at(&entry.key, entry.position)]).and_then([put]);
        let name = Some(attempt.name.as_str());
        match self.store.txn(operation, name, Effect::Write, txn).await?.succeeded {
            true => Ok(()),
            false => {
                Err(error(ErrorKind::Lost, operation, attempt).with_detail("the entry is gone"))
            }
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
