//! Nodes: creating them, and what they say about the store's life.

use std::sync::atomic::{AtomicU64, Ordering};

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::Incarnation;
use zookeeper_client::{Acls, CreateMode, Error as ClientError, Stat};

use crate::connection::barrier;
use crate::endpoints::{Call, Endpoints};
use crate::error::{Effect, Fault, STORE};
use crate::layout::Paths;

/// The tree as this backend sees it.
pub(crate) struct Store {
    pub(crate) paths: Paths,
    pub(crate) acls: Acls<'static>,
    horizon: AtomicU64,
}

impl Store {
    pub(crate) fn new(paths: Paths, acls: Acls<'static>) -> Self {
        Self { paths, acls, horizon: AtomicU64::new(0) }
    }

    /// The furthest that this process saw the store.
    pub(crate) fn horizon(&self) -> u64 {
        self.horizon.load(Ordering::Acquire)
    }

    /// Reads the zxid of a node's creation, which must be later than all that was `seen` before the
    /// node was asked for.
    pub(crate) fn created(&self, stat: &Stat, seen: u64) -> Result<u64> {
        let zxid = zxid(stat)?;
        if zxid <= seen {
            return Err(Error::new(ErrorKind::Regression, STORE, "enter").with_detail(format!(
                "the store is at zxid {zxid:#x} and was at {seen:#x}: it was restored or replaced"
            )));
        }
        self.horizon.fetch_max(zxid, Ordering::AcqRel);
        Ok(zxid)
    }

    /// Makes sure that `path` is there, and what is missing above it, below the chroot.
    ///
    /// These are containers, which the server removes when they are empty for a while. From below
    /// upward: on what exists the user may have fewer rights than below it.
    pub(crate) async fn ensure(&self, call: &mut Call<'_>, path: &str) -> Result<()> {
        let options = CreateMode::Container.with_acls(self.acls);
        let steps: Vec<&str> = self.paths.ancestry(path).collect();
        let mut at = steps.len() - 1;
        while at < steps.len() {
            match call.client.create(steps[at], b"", &options).await {
                Err(ClientError::NoNode) if at == 0 => {
                    call.answered();
                    return Err(Error::new(ErrorKind::Invalid, STORE, "connect")
                        .with_key(self.paths.chroot())
                        .with_detail(
                            "the chroot does not exist, and is not created; nothing is left",
                        ));
                }
                Err(ClientError::NoNode) => at -= 1,
                Ok(_) | Err(ClientError::NodeExists) => at += 1,
                Err(error) => {
                    return Err(call.fault(error).into_error("enter", Some(steps[at])));
                }
            }
        }
        call.answered();
        Ok(())
    }

    /// Asks which life of the store this is; marks a new one.
    pub(crate) async fn incarnation(
        &self,
        endpoints: &Endpoints,
        operation: &'static str,
    ) -> Result<Incarnation> {
        let path = self.paths.incarnation();
        let failed = |fault: Fault| fault.into_error(operation, Some(&path));
        let mut call = endpoints.begin().await.map_err(failed)?;
        loop {
            match call.client.get_data(&path).await {
                Ok((data, _)) => {
                    call.answered();
                    return parse(&data, operation, &path);
                }
                Err(ClientError::NoNode) => {}
                Err(error) => return Err(failed(call.fault(error))),
            }
            let fresh = format!("{:032x}", rand::random::<u128>());
            let options = CreateMode::Persistent.with_acls(self.acls);
            match call.client.create(&path, fresh.as_bytes(), &options).await {
                // Read it back: the server may lag, and has caught up with this answer.
                Ok(_) | Err(ClientError::NodeExists) => {}
                Err(ClientError::NoNode) => {
                    let root = self.paths.root();
                    self.ensure(&mut call, &root).await?;
                }
                Err(error) => return Err(failed(call.fault(error))),
            }
        }
    }

    /// Waits until the server has seen all that anybody was told of before this call.
    pub(crate) async fn catch_up(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        let caught_up = barrier(&call.client).await;
        call.settle(caught_up, Effect::Read)
    }
}

/// Whether a node goes by itself: with its session, or after a time.
pub(crate) fn is_ephemeral(stat: &Stat) -> bool {
    // Containers have the lowest number as their owner.
    !matches!(stat.ephemeral_owner, 0 | i64::MIN)
}

/// The zxid as the number of a token.
pub(crate) fn zxid(stat: &Stat) -> Result<u64> {
    u64::try_from(stat.czxid).map_err(|_| malformed("a zxid is negative"))
}

pub(crate) fn malformed(detail: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, STORE, "answer").with_detail(detail)
}

fn parse(data: &[u8], operation: &'static str, path: &str) -> Result<Incarnation> {
    let digits = std::str::from_utf8(data).ok().filter(|digits| digits.len() == 32);
    let id = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
    id.map(Incarnation::from).ok_or_else(|| {
        Error::new(ErrorKind::Conflict, STORE, operation)
            .with_key(path)
            .with_detail("this node holds something else; accepted are 32 digits of hex")
    })
}
