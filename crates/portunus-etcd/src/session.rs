//! What a session begins with: the store's incarnation, and a lease.

use etcd_client::{LeaseGrantOptions, Txn, TxnOp};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::Incarnation;

use crate::error::{Effect, Fault, STORE};
use crate::layout::Keys;
use crate::store::{Store, created_at};

impl Store {
    /// Asks which life of the store this is; marks a new one.
    pub(crate) async fn incarnation(
        &self,
        keys: &Keys,
        operation: &'static str,
    ) -> Result<Incarnation> {
        let key = keys.incarnation();
        let get = || TxnOp::get(&*key, None);
        // Only read where it is there: a store that is full answers reads. Where an answer comes
        // from the past, the write decides.
        let read = self.try_txn(Effect::Read, Txn::new().and_then([get()])).await;
        let read = read.map_err(|fault| fault.into_error(operation, Some(&key)))?;
        let read = read
            .ok()
            .map(|mut answer| Ok::<_, Error>((answer.kvs()?, answer.cluster)))
            .transpose()?;
        let (kvs, cluster) = match read {
            Some((kvs, cluster)) if !kvs.is_empty() => (kvs, cluster),
            _ => {
                let fresh = format!("{:032x}", rand::random::<u128>());
                let txn = Txn::new()
                    .when([created_at(&key, 0)])
                    .and_then([TxnOp::put(&*key, fresh, None), get()])
                    .or_else([get(), get()]);
                let mut answer = self.txn(operation, Some(&key), Effect::Write, txn).await?;
                answer.skip();
                (answer.kvs()?, answer.cluster)
            }
        };
        let id = kvs.first().and_then(|kv| std::str::from_utf8(kv.value()).ok());
        let id = id.filter(|id| id.len() == 32).and_then(|id| u128::from_str_radix(id, 16).ok());
        let id = id.ok_or_else(|| {
            Error::new(ErrorKind::Conflict, STORE, operation)
                .with_key(&*key)
                .with_detail("this key holds something else; accepted are 32 digits of hex")
        })?;
        let mut bytes = cluster.to_be_bytes().to_vec();
        bytes.extend(id.to_be_bytes());
        Incarnation::new(bytes)
    }

    /// Grants a lease; returns its id and the seconds that the server gives it.
    pub(crate) async fn grant(&self, seconds: i64) -> Result<(i64, i64)> {
        // With an id of our own choice: one that is granted twice is refused, not shared.
        let lease = rand::random_range(1..=i64::MAX);
        let granted = self.endpoints.run(Effect::Write, |client| {
            let (mut leases, options) =
                (client.lease_client(), LeaseGrantOptions::new().with_id(lease));
            async move { leases.grant(seconds, Some(options)).await }
        });
        let granted = granted.await.map_err(|fault| fault.into_error("open_session", None))?;
        Ok((lease, granted.ttl()))
    }

    /// Revokes a lease: everything under it goes.
    pub(crate) async fn revoke(&self, lease: i64) -> Result<(), Fault> {
        let revoked = self.endpoints.run(Effect::Write, |client| {
            let mut leases = client.lease_client();
            async move { leases.revoke(lease).await }
        });
        revoked.await.map(drop)
    }
}
