//! Renewals: one stream of keep-alives, never used again after a question without an answer.

use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::{Error as ClientError, LeaseKeepAliveStream, LeaseKeeper};

use crate::endpoints::Endpoints;
use crate::error::{Effect, Fault};

/// Sends keep-alives.
#[derive(Debug)]
pub(crate) struct Renewals {
    endpoints: Arc<Endpoints>,
    /// Absent while a call uses it, so that a dropped call takes it away: a late reply on it would
    /// be taken for the answer to the next question.
    open: Mutex<Option<Open>>,
}

struct Open {
    lease: i64,
    epoch: u64,
    keeper: LeaseKeeper,
    replies: LeaseKeepAliveStream,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("lease", &self.lease).finish_non_exhaustive()
    }
}

impl Renewals {
    pub(crate) fn new(endpoints: Arc<Endpoints>) -> Self {
        Self { endpoints, open: Mutex::new(None) }
    }

    /// Renews the lease once; `Ok` only when the server said that it lives.
    pub(crate) async fn renew(&self, lease: i64) -> Result<(), Fault> {
        let mut call = self.endpoints.begin();
        let epoch = call.epoch();
        let usable = |open: &Open| open.lease == lease && open.epoch == epoch;
        let open = self.slot().take().filter(usable);
        let result = match open {
            Some(open) => open.ask().await,
            None => call.request(|client| keep_alive(client.lease_client(), lease)).await.map(
                // Opening asks and awaits the first answer.
                |(keeper, replies)| Open { lease, epoch, keeper, replies },
            ),
        };
        let open = call.settle(result, Effect::Write)?;
        *self.slot() = Some(open);
        Ok(())
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    async fn ask(mut self) -> Result<Self, ClientError> {
        self.keeper.keep_alive().await?;
        match self.replies.message().await? {
            Some(reply) if reply.id() != self.lease => {
                Err(ClientError::Internal("a keep-alive answers for another lease".into()))
            }
            Some(reply) if reply.ttl() > 0 => Ok(self),
            Some(_) => Err(ClientError::LeaseKeepAliveError("lease not found".into())),
            None => Err(ClientError::LeaseKeepAliveError("the stream ended".into())),
        }
    }
}

async fn keep_alive(
    mut leases: etcd_client::LeaseClient,
    lease: i64,
) -> Result<(LeaseKeeper, LeaseKeepAliveStream), ClientError> {
    leases.keep_alive(lease).await
}
