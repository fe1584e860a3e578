//! A session: its node, by which it is renewed and through which its attempts enter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portunus_core::backend::SessionId;
use portunus_core::error::Result;
use zookeeper_client::{Client, CreateMode, Error as ClientError};

use crate::endpoints::Endpoints;
use crate::error::{Effect, Fault};
use crate::store::Store;

/// A session of this process.
pub(crate) struct LiveSession {
    pub(crate) endpoints: Endpoints,
    /// An ephemeral node. Whoever enters compares the version of its data in the same step, so
    /// raising the version bars every request that was sent before, wherever it is held up.
    pub(crate) node: String,
    version: AtomicI32,
}

impl LiveSession {
    pub(crate) fn new(endpoints: Endpoints, node: String) -> Self {
        Self { endpoints, node, version: AtomicI32::new(0) }
    }

    /// The version that a request compares which is sent now.
    pub(crate) fn version(&self) -> i32 {
        self.version.load(Ordering::Acquire)
    }

    /// Proves that the ensemble knows the session: a write that changes nothing, for a server that
    /// lost the ensemble answers pings and reads all the same.
    pub(crate) async fn renew(&self) -> Result<(), Fault> {
        let mut call = self.endpoints.begin_renewal().await?;
        let present = confirm(call.client.clone(), &self.node).await;
        if call.settle(present, Effect::Write)? { Ok(()) } else { Err(Fault::lost()) }
    }

    /// Bars all requests to enter that were sent before. Once this is done, a listing shows what
    /// became of them.
    pub(crate) async fn bar(&self) -> Result<(), Fault> {
        let set = |client: Client| async move {
            match client.set_data(&self.node, b"", None).await {
                Ok(stat) => Ok(Some(stat.version)),
                Err(ClientError::NoNode) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.learn(self.endpoints.run(Effect::Write, set).await?)
    }

    /// Learns the version after a request was refused that compared `tried`.
    pub(crate) async fn catch_up(&self, tried: i32) -> Result<(), Fault> {
        if self.version() != tried {
            return Ok(());
        }
        // The answer to a write was lost that had raised it.
        let read = |client: Client| async move {
            Ok(client.check_stat(&self.node).await?.map(|stat| stat.version))
        };
        self.learn(self.endpoints.run(Effect::Read, read).await?)
    }

    fn learn(&self, version: Option<i32>) -> Result<(), Fault> {
        let version = version.ok_or_else(Fault::lost)?;
        self.version.fetch_max(version, Ordering::AcqRel);
        Ok(())
    }
}

impl Store {
    /// Creates the node that lives as long as the session.
    pub(crate) async fn mark(&self, endpoints: &Endpoints, node: &str) -> Result<()> {
        let failed = |fault: Fault| fault.into_error("open_session", None);
        let mut call = endpoints.begin().await.map_err(failed)?;
        let options = CreateMode::Ephemeral.with_acls(self.acls);
        loop {
            match call.client.create(node, b"", &options).await {
                Ok(_) => {
                    call.answered();
                    return Ok(());
                }
                Err(ClientError::NoNode) => {
                    let parent = node.rsplit_once('/').map_or(node, |(parent, _)| parent);
                    self.ensure(&mut call, parent).await?;
                }
                Err(error) => return Err(failed(call.fault(error))),
            }
        }
    }
}

/// The sessions of one backend that are open.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<SessionId, Arc<LiveSession>>>);

impl Sessions {
    pub(crate) fn insert(&self, id: SessionId, session: LiveSession) {
        self.sessions().insert(id, Arc::new(session));
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<Arc<LiveSession>> {
        self.sessions().get(&id).cloned()
    }

    /// All of them, to read through one that answers.
    pub(crate) fn all(&self) -> Vec<Arc<LiveSession>> {
        self.sessions().values().cloned().collect()
    }

    pub(crate) fn remove(&self, id: SessionId) {
        self.sessions().remove(&id);
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<LiveSession>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a node stands, said by the ensemble and not by one server's memory.
///
/// A transaction that only checks is proposed, logged and voted on as any write, and fires no watch
/// on the node, as a write of its data would for the contender behind it.
pub(crate) async fn confirm(client: Client, path: &str) -> Result<bool, ClientError> {
    let mut check = client.new_multi_writer();
    check.add_check_version(path, -1)?;
    match check.commit().await.map_err(ClientError::from) {
        Ok(_) => Ok(true),
        Err(ClientError::NoNode) => Ok(false),
        Err(error) => Err(error),
    }
}
