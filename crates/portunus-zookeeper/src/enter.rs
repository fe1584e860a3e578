//! Making an attempt's node: exactly one, whatever becomes of the requests.
//!
//! A request can be held up on its way, in the server or between servers, and be applied after it
//! was given up. Moving the session to another server bars it only until the session comes back.
//! So each request compares the version of the session's node, in one transaction with the create;
//! raising that version bars all requests that were sent before, for good.

use futures_util::future::join;
use portunus_core::backend::{Attempt, SessionId};
use portunus_core::error::{ErrorKind, Result};
use zookeeper_client::{
    Client, CreateMode, Error as ClientError, MultiWriteError, MultiWriteResult,
};

use crate::backend::{ZooKeeper, error};
use crate::error::{Effect, Fault};
use crate::layout::{child_of, position};
use crate::session::LiveSession;
use crate::slots::Own;
use crate::store::{malformed, zxid};

impl ZooKeeper {
    /// Creates the attempt's node and reads the queue, both sent at once: the server keeps their
    /// order.
    pub(crate) async fn create(
        &self,
        live: &LiveSession,
        session: SessionId,
        attempt: &Attempt,
        parent: &str,
    ) -> Result<(Own, Vec<String>)> {
        let name = Some(attempt.name.as_str());
        let failed = |fault: Fault| fault.into_error("enter", name);
        let prefix = format!("{parent}/{}", self.store.paths.entry(attempt.id, attempt.mode));
        let record = attempt.record().to_json();
        let options = CreateMode::EphemeralSequential.with_acls(self.store.acls);
        loop {
            let begun = live.endpoints.begin().await.inspect_err(|_| {
                // Nothing was sent.
                self.slots.end(attempt.id);
            });
            let mut call = begun.map_err(failed)?;
            let client = call.client.clone();
            let (seen, version) = (self.store.horizon(), live.version());
            let mut write = client.new_multi_writer();
            let written = write
                .add_check_version(&live.node, version)
                .and_then(|()| write.add_create(&prefix, record.as_bytes(), &options));
            written.map_err(|error| failed(Fault::new(error, Effect::Read)))?;
            let creating = write.commit();
            let (created, children) = join(creating, client.list_children(parent)).await;
            let mut results = match created {
                Ok(results) => results,
                Err(MultiWriteError::OperationFailed { index: 0, source: ClientError::NoNode }) => {
                    call.answered();
                    return Err(failed(Fault::lost()));
                }
                Err(MultiWriteError::OperationFailed {
                    index: 0,
                    source: ClientError::BadVersion,
                }) => {
                    call.answered();
                    live.catch_up(version).await.map_err(failed)?;
                    continue;
                }
                Err(MultiWriteError::OperationFailed { index: 1, source: ClientError::NoNode }) => {
                    self.store.ensure(&mut call, parent).await?;
                    continue;
                }
                Err(error) => {
                    let fault = call.fault(error.into());
                    if fault.verdict.kind != ErrorKind::Unconfirmed {
                        self.slots.end(attempt.id);
                    }
                    return Err(failed(fault));
                }
            };
            let Some(MultiWriteResult::Create { path, mut stat }) = results.pop() else {
                return Err(malformed("a transaction's answer lacks the new node"));
            };
            if stat.is_invalid() {
                // Servers before 3.8.2 leave it out (ZOOKEEPER-4026).
                let read = client.check_stat(&path).await;
                let read = call.settle(read, Effect::Write).map_err(failed)?;
                stat = read.ok_or_else(|| malformed("the new node went before it was read"))?;
            }
            let number = child_of(&path, parent).and_then(position);
            let number = number.ok_or_else(|| malformed("the new node has no number"))?;
            let own = Own::new(path, number, zxid(&stat)?);
            self.slots.done(session, attempt, own.clone());
            self.store.created(&stat, seen)?;
            // The node stands; with its place unknown, nothing is definite yet.
            let children = call.settle(children, Effect::Write).map_err(failed)?;
            return Ok((own, children));
        }
    }

    /// Finds the node of an attempt. If a request of it went unanswered, it is barred before.
    pub(crate) async fn find(
        &self,
        live: &LiveSession,
        attempt: &Attempt,
        parent: &str,
    ) -> Result<Option<Own>, Fault> {
        let prefix = self.store.paths.entry(attempt.id, attempt.mode);
        let find = |client: Client| async move {
            let children = match client.list_children(parent).await {
                Err(ClientError::NoNode) => return Ok(None),
                children => children?,
            };
            let Some(child) = children.iter().find(|child| child.starts_with(&prefix)) else {
                return Ok(None);
            };
            let path = format!("{parent}/{child}");
            let stat = client.check_stat(&path).await?;
            Ok(stat.map(|stat| (path, position(child), stat)))
        };
        let Some((path, number, stat)) = live.endpoints.run(Effect::Write, find).await? else {
            return Ok(None);
        };
        Ok(number.zip(zxid(&stat).ok()).map(|(number, token)| Own::new(path, number, token)))
    }

    /// Refuses a node so close to the end of the server's counter that the next ones may be equal.
    pub(crate) fn check_number(&self, attempt: &Attempt, own: &Own) -> Result<()> {
        if own.entry.position < LAST_NUMBER {
            return Ok(());
        }
        Err(error(ErrorKind::Unsupported, "enter", attempt).with_detail(format!(
            "the server numbers the entries of a lock up to 2147483647 and is at {}: delete the \
             lock's node while nobody is below it, which starts the numbers anew and lets the \
             tokens go on; the entry is withdrawn",
            own.entry.position
        )))
    }
}

/// The first number that is refused: 2³¹ − 2²⁰. The server's counter sticks at 2³¹ − 1, and then
/// two contenders are equal.
const LAST_NUMBER: u64 = (1 << 31) - (1 << 20);
