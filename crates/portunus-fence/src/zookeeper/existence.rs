//! A lock's own node as a condition of the caller's transaction.

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::guard::Guard;
use zookeeper_client::{Client, Error as ClientError, MultiWriter};

use super::{ANY_VERSION, FENCE};

/// An *existence fence*: the node of a lock in the same ensemble, as a condition of a transaction of
/// yours, which is done only while that grant stands. It needs no mark and no open.
///
/// - It refuses a holder whose node is gone, also when no other came after it. A mark lets that pass.
/// - The node of each holder was gone before the next was granted, so whoever reads under it *can* see
///   what earlier holders wrote, if every write has the condition. But the server that is read may lag
///   behind, also after a `sync`, which asks no majority: commit the condition in a transaction of its
///   own first and read through the same client, or write with the version that was read.
/// - It is for grants of every kind.
/// - It compares no tokens, so it is no matter whether they are [weak](portunus_core::token::FencingToken#weak-tokens).
/// - It protects nothing once data was restored, in which old nodes are held anew; a mark of the same
///   age does no better.
///
/// ```no_run
/// use portunus_fence::zookeeper::LockNode;
/// use zookeeper_client::{Client, Error, MultiWriteError};
///
/// # async fn deploy(
/// #     client: &Client,
/// #     guard: &portunus_core::guard::Guard,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let held = LockNode::of(guard, client)?;
/// let mut step = client.new_multi_writer();
/// held.check(&mut step)?; // the operation at index 0
/// step.add_set_data("/app/image", b"v2", None)?;
/// match step.commit().await {
///     Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => {
///         eprintln!("the lock is lost, and nothing was written");
///     }
///     done => drop(done?),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LockNode {
    path: String,
}

impl LockNode {
    /// Takes what ZooKeeper calls the grant, as `client` sees it. It has to be of the same ensemble; no
    /// session, chroot or password need be the same as the manager's.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: the lock's node is not below the client's chroot, or the lock is in a
    /// store of another kind.
    pub fn of<M>(guard: &Guard<M>, client: &Client) -> Result<Self> {
        let key = &guard.entry().key;
        match below(key, client.path()) {
            Some(path) => Ok(Self { path: path.to_owned() }),
            None => Err(Error::new(ErrorKind::Invalid, FENCE, "entry")
                .with_key(guard.name().as_str())
                .with_detail("the lock's node is not below the client's chroot")),
        }
    }

    /// Adds the condition to a transaction: without the lock's node the operation fails with `NoNode`,
    /// and the transaction with it.
    ///
    /// # Errors
    ///
    /// None in practice: the path was a node's.
    pub fn check(&self, writer: &mut MultiWriter<'_>) -> Result<(), ClientError> {
        // Any version: renewals write to the node. Its name belongs to one grant for ever.
        writer.add_check_version(&self.path, ANY_VERSION)
    }
}

fn below<'p>(path: &'p str, chroot: &str) -> Option<&'p str> {
    path.strip_prefix(chroot.trim_end_matches('/')).filter(|path| path.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_as_the_client_sees_it() {
        for (chroot, seen) in [
            ("/", Some("/app/locks/a/x")),
            ("/app", Some("/locks/a/x")),
            ("/app/locks", Some("/a/x")),
            ("/ap", None),
            ("/other", None),
            ("/app/locks/a/x", None),
        ] {
            assert_eq!(below("/app/locks/a/x", chroot), seen, "{chroot}");
        }
        assert_eq!(below("portunus/a/1f-3", "/"), None);
    }
}
