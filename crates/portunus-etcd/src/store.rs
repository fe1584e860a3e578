//! Transactions: sending them, checking that the store did not go back, reading the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{
    Compare, CompareOp, DeleteResponse, GetOptions, KeyValue, ResponseHeader, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse,
};
use portunus_core::error::{Error, ErrorKind, Result};

use crate::endpoints::Endpoints;
use crate::error::{Effect, Fault, STORE};

/// The store, by one connection.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) endpoints: Arc<Endpoints>,
    horizon: Arc<Horizon>,
}

/// What a transaction answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) succeeded: bool,
    /// The store's revision when it answered.
    pub(crate) revision: u64,
    pub(crate) cluster: u64,
    parts: std::vec::IntoIter<TxnOpResponse>,
}

impl Store {
    pub(crate) fn new(endpoints: Arc<Endpoints>, horizon: Arc<Horizon>) -> Self {
        Self { endpoints, horizon }
    }

    /// Runs a transaction.
    pub(crate) async fn txn(
        &self,
        operation: &'static str,
        key: Option<&str>,
        effect: Effect,
        txn: Txn,
    ) -> Result<Answer> {
        match self.try_txn(effect, txn).await {
            Ok(answer) => answer.map_err(|disorder| disorder.into_error(operation, key)),
            Err(fault) => Err(fault.into_error(operation, key)),
        }
    }

    /// The same, with the failure as the client reported it.
    pub(crate) async fn try_txn(
        &self,
        effect: Effect,
        txn: Txn,
    ) -> Result<Result<Answer, Disorder>, Fault> {
        let seen = self.horizon.revision();
        let mut call = self.endpoints.begin();
        let result = call.request(|client| {
            let kv = client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
            let (mut kv, txn) = (kv, txn.clone());
            async move { kv.txn(txn).await }
        });
        let result = result.await;
        let response = call.settle(result, effect)?;
        let checked = self.horizon.check(response.header(), seen, effect);
        if checked.is_err() {
            // Another member may know better.
            call.fail();
        }
        Ok(checked.map(|(cluster, revision)| Answer {
            succeeded: response.succeeded(),
            revision,
            cluster,
            parts: response.op_responses().into_iter(),
        }))
    }
}

impl Answer {
    /// Takes the next part of the answer, which is that of a range.
    pub(crate) fn kvs(&mut self) -> Result<Vec<KeyValue>> {
        match self.parts.next() {
            Some(TxnOpResponse::Get(mut get)) => Ok(get.take_kvs()),
            _ => Err(malformed("a transaction's answer lacks a range")),
        }
    }

    /// Whether the next part of the answer, which is that of a deletion, found something.
    pub(crate) fn deleted(&mut self) -> Result<bool> {
        match self.parts.next() {
            Some(TxnOpResponse::Delete(delete)) => Ok(DeleteResponse::deleted(&delete) > 0),
            _ => Err(malformed("a transaction's answer lacks a deletion")),
        }
    }

    /// Skips a part without an answer of interest.
    pub(crate) fn skip(&mut self) {
        self.parts.next();
    }
}

/// The furthest that this process saw the store.
#[derive(Debug, Default)]
pub(crate) struct Horizon {
    /// 0 until the first answer.
    cluster: AtomicU64,
    revision: AtomicU64,
}

/// An answer that contradicts an earlier one.
#[derive(Debug)]
pub(crate) struct Disorder {
    kind: ErrorKind,
    detail: String,
}

impl Disorder {
    pub(crate) fn into_error(self, operation: &'static str, key: Option<&str>) -> Error {
        let error = Error::new(self.kind, STORE, operation).with_detail(self.detail);
        match key {
            Some(key) => error.with_key(key),
            None => error,
        }
    }
}

impl Horizon {
    fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Compares an answer with the revision `seen` before its request was sent; answers of
    /// concurrent requests may come in any order.
    fn check(
        &self,
        header: Option<&ResponseHeader>,
        seen: u64,
        effect: Effect,
    ) -> Result<(u64, u64), Disorder> {
        let (cluster, revision) =
            header.map_or((0, 0), |header| (header.cluster_id(), header.revision()));
        self.compare(cluster, u64::try_from(revision).unwrap_or(0), seen, effect)
    }

    fn compare(
        &self,
        cluster: u64,
        revision: u64,
        seen: u64,
        effect: Effect,
    ) -> Result<(u64, u64), Disorder> {
        use Ordering::{AcqRel, Acquire};
        let known = match self.cluster.compare_exchange(0, cluster, AcqRel, Acquire) {
            Ok(_) => cluster,
            Err(known) => known,
        };
        if known != cluster {
            return Err(Disorder {
                kind: ErrorKind::Regression,
                detail: format!("cluster {cluster:x} answers where cluster {known:x} did"),
            });
        }
        if revision < seen {
            // Some servers answer reads from the past for a moment after a pause (etcd #20418). A
            // write went through the log, and there is no such excuse.
            let kind = match effect {
                Effect::Read => ErrorKind::Unavailable,
                Effect::Write => ErrorKind::Regression,
            };
            let detail = format!("the store is at revision {revision} and was at {seen}");
            return Err(Disorder { kind, detail });
        }
        self.revision.fetch_max(revision, AcqRel);
        Ok((cluster, revision))
    }
}

/// Compares the revision in which `key` was created; 0 means that it is absent.
pub(crate) fn created_at(key: &str, revision: u64) -> Compare {
    // A revision that no i64 holds is none that the server ever gave.
    Compare::create_revision(key, CompareOp::Equal, i64::try_from(revision).unwrap_or(i64::MAX))
}

/// Reads the newest entries below `prefix`: `limit` of them, or all for 0, with no later creation
/// than `newest`, or all for 0.
pub(crate) fn newest(prefix: &str, limit: i64, newest: u64) -> TxnOp {
    let options = GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Create, SortOrder::Descend)
        .with_limit(limit)
        .with_max_create_revision(i64::try_from(newest).unwrap_or(i64::MAX));
    TxnOp::get(prefix, Some(options))
}

/// What Go's client takes as well, and the most that the server sends. By the default of 4 MiB the
/// queue of a few candidates with long values could not be read.
pub(crate) const LARGEST_ANSWER: usize = (1 << 31) - 1;

pub(crate) fn malformed(detail: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, STORE, "answer").with_detail(detail)
}

/// Reads a revision, which is never negative.
pub(crate) fn revision(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| malformed("a revision is negative"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_went_back_or_was_replaced_is_told() {
        let horizon = Horizon::default();
        let kind = |result: Result<_, Disorder>| result.err().map(|disorder| disorder.kind);
        assert_eq!(kind(horizon.compare(7, 10, 0, Effect::Write)), None);
        // A concurrent answer, sent before revision 10 was seen.
        assert_eq!(kind(horizon.compare(7, 9, 0, Effect::Write)), None);
        let seen = horizon.revision();
        assert_eq!(seen, 10);
        assert_eq!(kind(horizon.compare(7, 9, seen, Effect::Write)), Some(ErrorKind::Regression));
        assert_eq!(kind(horizon.compare(7, 9, seen, Effect::Read)), Some(ErrorKind::Unavailable));
        assert_eq!(kind(horizon.compare(8, 99, seen, Effect::Read)), Some(ErrorKind::Regression));
    }
}
