//! Writes to an entry that stands: it keeps its node, and with it its place and its session.

use portunus_core::backend::{Attempt, EntryId, Record, Turn};
use portunus_core::error::{ErrorKind, Result};
use zookeeper_client::{Client, Error as ClientError};

use crate::backend::{ZooKeeper, error};
use crate::error::{Effect, Fault};
use crate::layout::{child_of, is_entry};
use crate::session::LiveSession;

impl ZooKeeper {
    /// Changes what an entry says about itself, if it still stands.
    ///
    /// The write compares that nothing changed since the entry was read. So it takes nothing back
    /// that was written before, and a request that arrives late changes nothing once another was
    /// applied; for that it is sent even if it would write what stands there already.
    pub(crate) async fn rewrite(
        &self,
        operation: &'static str,
        live: &LiveSession,
        attempt: &Attempt,
        entry: &EntryId,
        change: impl FnOnce(&mut Record) + Send,
    ) -> Result<()> {
        let failed = |fault: Fault| fault.into_error(operation, Some(attempt.name.as_str()));
        let gone = || error(ErrorKind::Lost, operation, attempt).with_detail("the entry is gone");
        let parent = self.store.paths.queue(&attempt.name);
        let prefix = self.store.paths.entry(attempt.id, attempt.mode);
        let is_own = |child: &str| child.starts_with(&prefix);
        // No other node is ever called so: it need not be compared with what it was.
        if !is_entry(entry, &parent) || !child_of(&entry.key, &parent).is_some_and(is_own) {
            return Err(gone());
        }
        let read = |client: Client| async move {
            match client.get_data(&entry.key).await {
                Ok(read) => Ok(Some(read)),
                Err(ClientError::NoNode) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let read = live.endpoints.run(Effect::Read, read).await.map_err(failed)?;
        let (data, stat) = read.ok_or_else(gone)?;
        let mut record = Record::read(&data);
        change(&mut record);
        let record = record.to_json();
        let set = |client: Client| async move {
            match client.set_data(&entry.key, record.as_bytes(), Some(stat.version)).await {
                Ok(_) => Ok(Written::Applied),
                Err(ClientError::BadVersion) => Ok(Written::Overtaken),
                Err(ClientError::NoNode) => Ok(Written::Gone),
                Err(error) => Err(error),
            }
        };
        match live.endpoints.run(Effect::Write, set).await.map_err(failed)? {
            Written::Applied => Ok(()),
            Written::Overtaken => Err(error(ErrorKind::Unavailable, operation, attempt)
                .with_detail(
                    "another write of the entry came in between; this one is not applied",
                )),
            Written::Gone => Err(gone()),
        }
    }

    /// Tells the waiter behind a permit that it holds, by a write that changes nothing: `held`, or
    /// `Lost` when the node is gone.
    pub(crate) async fn mark(
        &self,
        live: &LiveSession,
        attempt: &Attempt,
        entry: &EntryId,
        held: Turn,
    ) -> Result<Turn> {
        let record = attempt.record().to_json();
        let set = |client: Client| async move {
            // Of the first version only: once is enough, and a second one would wake in vain.
            match client.set_data(&entry.key, record.as_bytes(), Some(0)).await {
                Ok(_) | Err(ClientError::BadVersion) => Ok(true),
                Err(ClientError::NoNode) => Ok(false),
                Err(error) => Err(error),
            }
        };
        let set = live.endpoints.run(Effect::Write, set).await;
        let stands = set.map_err(|fault| fault.into_error("look", Some(attempt.name.as_str())))?;
        Ok(if stands { held } else { Turn::Lost })
    }
}

/// What became of a write that compared.
enum Written {
    Applied,
    Overtaken,
    Gone,
}
