//! Whole queues, read together with others who ask: readers are woken in crowds.

use std::sync::Arc;

use futures_util::future::join;
use portunus_core::backend::{Attempt, Entry, SessionId};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::joint::Joint;
use zookeeper_client::{Client, Error as ClientError};

use crate::backend::ZooKeeper;
use crate::error::{Effect, Fault, STORE};
use crate::queue::Queue;
use crate::session::{LiveSession, confirm};

/// Queues, by the session that reads them and the queue's node.
pub(crate) type Listings = Joint<(SessionId, String), Arc<Vec<Entry>>>;

impl ZooKeeper {
    /// Lists a queue as the ensemble knows it, together with the other readers of this session.
    ///
    /// A write by the session first, which only a quorum confirms: the listing, which the server
    /// answers after it, shows all that had been done when this call began. A reader that stands in
    /// it, behind no writer, has both halves of a grant.
    pub(crate) async fn list_together(
        &self,
        session: SessionId,
        live: &Arc<LiveSession>,
        attempt: &Attempt,
        parent: &str,
    ) -> Result<Arc<Vec<Entry>>> {
        let key = (session, parent.to_owned());
        let (live, name, parent) = (Arc::clone(live), attempt.name.clone(), parent.to_owned());
        let strangers = Arc::clone(&self.strangers);
        let list = || async move {
            let (node, parent) = (&live.node, &parent);
            let ask = |client: Client| async move {
                // Both are sent at once, in this order, which the server keeps. A call of the client
                // sends when it is made, so the second is made when it is polled.
                let lives = confirm(client.clone(), node);
                let list = async { client.list_children(parent).await };
                let (lives, children) = join(lives, list).await;
                match (lives?, children) {
                    (false, _) => Ok(None),
                    (true, Err(ClientError::NoNode)) => Ok(Some(Vec::new())),
                    (true, children) => children.map(Some),
                }
            };
            let listed = live.endpoints.run(Effect::Read, ask).await;
            let failed = |fault: Fault| fault.into_error("look", Some(name.as_str()));
            let children = listed.and_then(|children| children.ok_or_else(Fault::lost));
            let children = children.map_err(failed)?;
            Ok(Arc::new(Queue::new(parent, &strangers).entries(&children)))
        };
        self.listings.read(key, list).await
    }
}

/// The failure of a request about a node that stands: of the attempt, nothing is definite.
pub(crate) fn unconfirmed(failed: Error) -> Error {
    match failed.kind() {
        ErrorKind::Unavailable => Error::new(ErrorKind::Unconfirmed, STORE, "enter")
            .with_detail("the node stands, and its place is not known")
            .with_source(failed),
        _ => failed,
    }
}
