//! A lock's own key as a condition of the caller's transaction.

use etcd_client::{Compare, CompareOp};
use portunus_core::guard::Guard;

/// An *existence fence*: the entry of a lock in the same etcd, as a condition of a transaction of
/// yours, which is done only while that grant stands. It needs no mark and no open.
///
/// - It refuses a holder whose entry is gone, also when no other came after it. A mark lets that pass.
/// - Whoever reads under it sees what earlier holders wrote: the entry of each was gone before the next
///   was granted. For that every write has to have the condition.
/// - It is for grants of every kind. After a downgrade the entry is the same.
/// - It compares no tokens, so it is no matter whether they are [weak](portunus_core::token::FencingToken#weak-tokens).
/// - It protects nothing once a snapshot was restored, in which old entries are held anew; a mark of
///   the same age does no better.
///
/// The client of the transaction needs nothing in common with the manager's but the cluster: the
/// lock's key is whole, with its namespace. A client with a key prefix of its own (`KvClientPrefix`)
/// would put that before it, and always be refused. So is the guard of a lock in another store.
///
/// ```no_run
/// use etcd_client::{Client, Error, Txn, TxnOp};
/// use portunus_fence::etcd::LockKey;
///
/// # async fn deploy(client: &mut Client, guard: &portunus_core::guard::Guard) -> Result<(), Error> {
/// let held = LockKey::of(guard).compare();
/// let step = Txn::new().when([held]).and_then([TxnOp::put("app/image", "v2", None)]);
/// if !client.txn(step).await?.succeeded() {
///     eprintln!("the lock is lost, and nothing was written");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LockKey {
    key: String,
    revision: i64,
}

impl LockKey {
    /// Takes what etcd calls the grant.
    #[must_use]
    pub fn of<M>(guard: &Guard<M>) -> Self {
        let entry = guard.entry();
        // A key that is not there has the revision 0, which no entry in etcd has.
        let revision = i64::try_from(entry.position).ok().filter(|revision| *revision > 0);
        Self { key: entry.key.to_string(), revision: revision.unwrap_or(i64::MAX) }
    }

    /// Makes the condition, for [`Txn::when`](etcd_client::Txn::when): the lock's key is there, and it is this grant's.
    #[must_use]
    pub fn compare(&self) -> Compare {
        Compare::create_revision(&*self.key, CompareOp::Equal, self.revision)
    }
}
