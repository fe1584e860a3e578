//! Fences in ZooKeeper: a mark in a node of its own, and a lock's own node as a condition.
//!
//! | | mark fence, [`ZooKeeperFence`] | existence fence, [`LockNode`] |
//! |---|---|---|
//! | the lock is | in any store | in the store of the data |
//! | a write passes | unless a later holder was here | only while the entry stands |
//! | before the first read | open | nothing |
//! | keeps | a mark for each resource | nothing |

mod error;
mod existence;

use std::fmt;

use async_trait::async_trait;
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::{FencingToken, SharedToken};
use zookeeper_client::{
    Acl, Acls, Client, CreateMode, Error as ClientError, MultiWriteError, MultiWriteResult,
    MultiWriter,
};

use self::error::failed;
pub use self::existence::LockNode;
use crate::call::{Call, Effect, mark_of};
use crate::fence::Fence;

/// A *mark fence* in ZooKeeper, for data that lives there; it takes the tokens of a lock of any store.
///
/// Where the lock is in the same ensemble as the data, [`LockNode`] needs no mark; it differs in what
/// it refuses.
///
/// A resource is the persistent node `<path>/<resource>`, escaped as a lock's name is, so that `a`
/// never meets `a/b`. It holds the token as a line of text, and the value after the line's end. What
/// changes it is read first, and written with the version that was read. A server that lags behind
/// makes that fail, never pass; then it is done again, which means that somebody else was admitted
/// meanwhile.
///
/// A mark is as durable as the data beside it: restored data takes both back.
///
/// # Example
///
/// ```no_run
/// use portunus_fence::zookeeper::{Updated, ZooKeeperFence};
/// use portunus_fence::{Fence, Result};
/// use zookeeper_client::{Acls, Client};
///
/// # async fn deploy(client: Client, guard: &portunus_core::guard::Guard) -> Result<()> {
/// let fence = ZooKeeperFence::new(client, "/fences", Acls::creator_all());
/// let token = guard.token();
/// fence.open("app", &token).await?; // before the first read
/// let step = fence.update("app", &token, |step| {
///     step.add_set_data("/app/image", b"v2", None)?;
///     step.add_set_data("/app/replicas", b"3", None)
/// });
/// if let Updated::Failed { index, error } = step.await? {
///     eprintln!("operation {index} failed, and nothing was written: {error}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ZooKeeperFence {
    client: Client,
    path: String,
    acls: Vec<Acl>,
}

/// What became of a step that the mark let pass.
#[must_use = "a step that failed wrote nothing"]
#[derive(Debug, Eq, PartialEq)]
pub enum Updated {
    /// The mark is raised, and all of it is done: the results of the step's operations, in order.
    Applied(Vec<MultiWriteResult>),
    /// One of the step's own operations failed: nothing was done, and the mark is as it was.
    Failed {
        /// Which one, counted from 0.
        index: usize,
        /// What ZooKeeper said.
        error: ClientError,
    },
}

impl ZooKeeperFence {
    /// Makes a fence whose nodes are below `path`, as `client` sees it. Nothing is asked of the servers
    /// yet; `path` is made with the first mark. A client needs a runtime, which a feature of the crate
    /// `zookeeper-client` names (`tokio`).
    ///
    /// `acls` is what nodes are made with. Whoever may write or delete a mark can undo the fence:
    /// `Acls::anyone_all()` is for ensembles that only friends can reach. Those who
    /// [`check`](Fence::check) need to read, and to create and delete nodes below `path`.
    #[must_use]
    pub fn new(client: Client, path: &str, acls: Acls<'_>) -> Self {
        let path = path.trim_end_matches('/').to_owned();
        Self { client, path, acls: acls.to_vec() }
    }

    /// Raises the mark to `token` and does what `step` adds, in one transaction.
    ///
    /// `step` is called once for every try, hence should do no more than add. What it adds must leave
    /// the node of the mark alone.
    ///
    /// # Errors
    ///
    /// As [`Fence`], and nothing of the step was done, but for `Unconfirmed`: after that a retry with
    /// the same token is safe for the mark, and the step may be done twice. When an operation of the
    /// step fails it is no error, but [`Updated::Failed`].
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the step was taken, is taken later, or never. A higher token bars it.
    pub async fn update(
        &self,
        resource: &str,
        token: &FencingToken,
        step: impl Fn(&mut MultiWriter<'_>) -> Result<(), ClientError> + Send + Sync,
    ) -> Result<Updated> {
        let call = Call::new(FENCE, "update", resource)?;
        self.step(&call, token, None, step).await.map(|(updated, _)| updated)
    }

    /// Returns also the value as it is after the step.
    async fn step(
        &self,
        call: &Call,
        token: &FencingToken,
        value: Option<&[u8]>,
        step: impl Fn(&mut MultiWriter<'_>) -> Result<(), ClientError> + Send + Sync,
    ) -> Result<(Updated, Option<Vec<u8>>)> {
        call.exclusive(token, u64::MAX)?;
        let node = self.node(call);
        for _ in 0..TRIES {
            let read = self.read(call, &node).await?;
            call.pass(read.as_ref().map(|read| &read.mark), token)?;
            let value = value.or_else(|| read.as_ref()?.value.as_deref());
            let data = encode(token, value);
            let mut writer = self.client.new_multi_writer();
            let added = match &read {
                Some(read) => writer.add_set_data(&node, &data, Some(read.version)),
                None => self.add_create(&mut writer, &node, &data),
            };
            added.and_then(|()| step(&mut writer)).map_err(|error| refused(call, error))?;
            match writer.commit().await {
                Ok(mut results) if !results.is_empty() => {
                    results.remove(0);
                    return Ok((Updated::Applied(results), value.map(<[u8]>::to_vec)));
                }
                Ok(_) => return Err(call.garbled("a transaction without results")),
                Err(MultiWriteError::RequestFailed { source }) => {
                    return Err(failed(call, source, Effect::Write));
                }
                Err(MultiWriteError::OperationFailed { index: 0, source }) => match source {
                    ClientError::BadVersion | ClientError::NodeExists => {}
                    ClientError::NoNode if read.is_none() => self.make_path(call).await?,
                    ClientError::NoNode => {}
                    error => return Err(refused(call, error)),
                },
                Err(MultiWriteError::OperationFailed { index, source: error }) => {
                    return Ok((Updated::Failed { index: index - 1, error }, None));
                }
            }
        }
        Err(crowded(call))
    }

    async fn read(&self, call: &Call, node: &str) -> Result<Option<Read>> {
        let (data, stat) = match self.client.get_data(node).await {
            Ok(read) => read,
            Err(ClientError::NoNode) => return Ok(None),
            Err(error) => return Err(failed(call, error, Effect::Read)),
        };
        let (line, value) = match data.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&data[..end], Some(data[end + 1..].to_vec())),
            None => (&data[..], None),
        };
        let mark = std::str::from_utf8(line).ok().and_then(|line| line.parse().ok());
        let mark = mark.ok_or_else(|| call.garbled("what the mark's node holds is no mark"))?;
        // To the server it means any version. It comes after 2³² − 1 writes.
        if stat.version == ANY_VERSION {
            return Err(call.garbled("the node's version is used up: delete it, and make it anew"));
        }
        Ok(Some(Read { mark, value, version: stat.version }))
    }

    fn add_create(
        &self,
        writer: &mut MultiWriter<'_>,
        node: &str,
        data: &[u8],
    ) -> Result<(), ClientError> {
        let options = CreateMode::Persistent.with_acls(Acls::new(&self.acls));
        writer.add_create(node, data, &options)
    }

    async fn make_path(&self, call: &Call) -> Result<()> {
        let no_chroot = || {
            call.error(ErrorKind::Unsupported)
                .with_detail("the client's chroot is not there, and is not made here")
        };
        // Nothing but the chroot itself is above the nodes then.
        if self.path.is_empty() {
            return Err(no_chroot());
        }
        let options = CreateMode::Persistent.with_acls(Acls::new(&self.acls));
        match self.client.mkdir(&self.path, &options).await {
            Ok(()) => Ok(()),
            Err(ClientError::NoNode) => Err(no_chroot()),
            // Of the mark itself nothing was written.
            Err(error) => Err(failed(call, error, Effect::Read)),
        }
    }

    fn node(&self, call: &Call) -> String {
        format!("{}/{}", self.path, call.resource().escaped())
    }
}

#[async_trait]
impl Fence for ZooKeeperFence {
    async fn open(&self, resource: &str, token: &FencingToken) -> Result<Option<Vec<u8>>> {
        let call = Call::new(FENCE, "open", resource)?;
        self.step(&call, token, None, |_| Ok(())).await.map(|(_, value)| value)
    }

    async fn admit(&self, resource: &str, token: &FencingToken, value: &[u8]) -> Result<()> {
        let call = Call::new(FENCE, "admit", resource)?;
        call.value(value)?;
        self.step(&call, token, Some(value), |_| Ok(())).await.map(drop)
    }

    /// What was read may be old, and also after a `sync`, which asks no majority. So a transaction that
    /// changes nothing confirms it: that the version is still this one, or that there is no node, by
    /// making one and deleting it.
    async fn check(&self, resource: &str, token: &SharedToken) -> Result<Option<Vec<u8>>> {
        let call = Call::new(FENCE, "check", resource)?;
        call.shared(token, u64::MAX)?;
        let node = self.node(&call);
        for _ in 0..TRIES {
            let read = self.read(&call, &node).await?;
            call.pass_shared(read.as_ref().map(|read| &read.mark), token)?;
            let mut writer = self.client.new_multi_writer();
            let added = match &read {
                Some(read) => writer.add_check_version(&node, read.version),
                None => self
                    .add_create(&mut writer, &node, b"")
                    .and_then(|()| writer.add_delete(&node, None)),
            };
            added.map_err(|error| refused(&call, error))?;
            match writer.commit().await {
                Ok(_) => return Ok(read.and_then(|read| read.value)),
                Err(MultiWriteError::RequestFailed { source }) => {
                    return Err(failed(&call, source, Effect::Read));
                }
                Err(MultiWriteError::OperationFailed { source, .. }) => match source {
                    // Not even the path is there.
                    ClientError::NoNode if read.is_none() => return Ok(None),
                    ClientError::BadVersion | ClientError::NodeExists | ClientError::NoNode => {}
                    error => return Err(refused(&call, error)),
                },
            }
        }
        Err(crowded(&call))
    }

    async fn mark(&self, resource: &str) -> Result<Option<FencingToken>> {
        let call = Call::new(FENCE, "mark", resource)?;
        let node = self.node(&call);
        self.client.sync(&node).await.map_err(|error| failed(&call, error, Effect::Read))?;
        Ok(self.read(&call, &node).await?.map(|read| read.mark))
    }
}

impl fmt::Debug for ZooKeeperFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeperFence").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What a read returned.
struct Read {
    mark: FencingToken,
    value: Option<Vec<u8>>,
    version: i32,
}

fn encode(token: &FencingToken, value: Option<&[u8]>) -> Vec<u8> {
    let mut data = mark_of(token).to_string().into_bytes();
    if let Some(value) = value {
        data.push(b'\n');
        data.extend_from_slice(value);
    }
    data
}

/// An operation that the servers, or the client by itself, did not take: nothing was written.
fn refused(call: &Call, error: ClientError) -> Error {
    failed(call, error, Effect::Read)
}

fn crowded(call: &Call) -> Error {
    let detail = format!("others were admitted in each of {TRIES} tries; nothing was written");
    call.error(ErrorKind::Unavailable).with_detail(detail)
}

/// Far more than there are clients at once with tokens that are not yet below the mark.
const TRIES: usize = 256;

const ANY_VERSION: i32 = -1;

const FENCE: &str = "zookeeper fence";
