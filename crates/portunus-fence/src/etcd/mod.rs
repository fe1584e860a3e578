//! Fences in etcd: a mark compared inside a transaction, and a lock's own entry as a condition.
//!
//! | | mark fence, [`EtcdFence`] | existence fence, [`LockKey`] |
//! |---|---|---|
//! | the lock is | in any store | in the store of the data |
//! | a write passes | unless a later holder was here | only while the entry stands |
//! | before the first read | open | nothing |
//! | keeps | a mark for each resource | nothing |

mod error;
mod existence;

use std::fmt;

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, GetResponse, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use portunus_core::error::Result;
use portunus_core::token::{FencingToken, SharedToken};

use self::error::failed;
pub use self::existence::LockKey;
use crate::call::{Call, Effect};
use crate::fence::Fence;

/// A *mark fence* in etcd, for data that lives there; it takes the tokens of a lock of any store.
///
/// Where the lock is in the same etcd as the data, [`LockKey`] needs no mark; it differs in what it
/// refuses.
///
/// A resource is two keys: `<prefix>/<resource>/mark` with the text `<origin>:<token as 20 digits>`,
/// and `<prefix>/<resource>/value`. In their names the resource is escaped as a lock's name is, so
/// that `a` never meets `a/b`. Neither key has a lease. Each call is one transaction; the bytes of
/// marks are in the order of their tokens, and the server compares them.
///
/// A mark is as durable as the data beside it: a restored snapshot takes both back.
///
/// # Example
///
/// ```no_run
/// use etcd_client::{Txn, TxnOp};
/// use portunus_fence::etcd::EtcdFence;
/// use portunus_fence::{Fence, Result};
///
/// # async fn deploy(client: etcd_client::Client, guard: &portunus_core::guard::Guard) -> Result<()> {
/// let (fence, token) = (EtcdFence::new(client, "fences"), guard.token());
/// fence.open("app", &token).await?; // before the first read
/// let steps = [TxnOp::put("app/image", "v2", None), TxnOp::put("app/replicas", "3", None)];
/// fence.update("app", &token, Txn::new().and_then(steps)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EtcdFence {
    client: Client,
    prefix: String,
}

impl EtcdFence {
    /// Makes a fence whose keys begin with `<prefix>/`. Nothing is asked of the server yet. Deadlines of
    /// requests are the client's: without any it waits for a server that hangs.
    #[must_use]
    pub fn new(client: Client, prefix: impl Into<String>) -> Self {
        Self { client, prefix: prefix.into() }
    }

    /// Raises the mark to `token` and runs `step`, in one transaction; returns what it answered.
    ///
    /// The step keeps its meaning: when its own conditions fail, its `or_else` is what is done, beside
    /// the mark, and [`succeeded`](TxnResponse::succeeded) tells. It may have 3 operations fewer than
    /// the server's `--max-txn-ops`: 125 by default.
    ///
    /// # Errors
    ///
    /// As [`Fence`], and nothing of the step was done, but for `Unconfirmed`.
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) is also a step that the server does not take,
    /// because it is too large, or writes a key twice, or one of the fence's own.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the step was taken, is taken later, or never. A higher token bars it.
    pub async fn update(
        &self,
        resource: &str,
        token: &FencingToken,
        step: Txn,
    ) -> Result<TxnResponse> {
        let call = Call::new(FENCE, "update", resource)?;
        match self.step(&call, token, TxnOp::txn(step)).await? {
            TxnOpResponse::Txn(answer) => Ok(answer),
            _ => Err(reply(&call)),
        }
    }

    /// The mark refuses in two ways: it is above the token's own, or below all of its origin. What
    /// is left is no mark, for which both comparisons fail, or one that the token passes. As two
    /// questions, one in the other's `else`, the step is sent once.
    async fn step(&self, call: &Call, token: &FencingToken, step: TxnOp) -> Result<TxnOpResponse> {
        call.exclusive(token, u64::MAX)?;
        let key = self.mark_key(call);
        let (lowest, own) = (format!("{}:", token.origin()), encode(token));
        let above = Compare::value(&*key, CompareOp::Greater, &*own);
        let below = Compare::value(&*key, CompareOp::Less, lowest);
        let refuse = [TxnOp::get(&*key, None)];
        let raise = TxnOp::put(&*key, own, None);
        let pass = Txn::new().when([below]).and_then(refuse.clone()).or_else([raise, step]);
        let step = Txn::new().when([above]).and_then(refuse).or_else([TxnOp::txn(pass)]);
        let mut answer = self.run(call, step, Effect::Write).await?;
        if !answer.succeeded() {
            answer = match first(call, &answer)? {
                TxnOpResponse::Txn(answer) => answer,
                _ => return Err(reply(call)),
            };
        }
        if !answer.succeeded() {
            return answer.op_responses().into_iter().nth(1).ok_or_else(|| reply(call));
        }
        let mark = first(call, &answer)?;
        call.pass(decode(call, &got(call, mark)?)?.as_ref(), token)?;
        Err(call.garbled(NO_MARK))
    }

    async fn run(&self, call: &Call, step: Txn, effect: Effect) -> Result<TxnResponse> {
        let answer = self.client.kv_client().txn(step).await;
        answer.map_err(|error| failed(call, error, effect))
    }

    fn mark_key(&self, call: &Call) -> String {
        format!("{}/{}/mark", self.prefix, call.resource().escaped())
    }

    fn value_key(&self, call: &Call) -> String {
        format!("{}/{}/value", self.prefix, call.resource().escaped())
    }
}

#[async_trait]
impl Fence for EtcdFence {
    async fn open(&self, resource: &str, token: &FencingToken) -> Result<Option<Vec<u8>>> {
        let call = Call::new(FENCE, "open", resource)?;
        let read = TxnOp::get(self.value_key(&call), None);
        let answer = self.step(&call, token, read).await?;
        Ok(value(&got(&call, answer)?))
    }

    async fn admit(&self, resource: &str, token: &FencingToken, value: &[u8]) -> Result<()> {
        let call = Call::new(FENCE, "admit", resource)?;
        call.value(value)?;
        let write = TxnOp::put(self.value_key(&call), value, None);
        self.step(&call, token, write).await.map(drop)
    }

    /// One transaction that only reads: from a majority, as etcd does unless told otherwise.
    async fn check(&self, resource: &str, token: &SharedToken) -> Result<Option<Vec<u8>>> {
        let call = Call::new(FENCE, "check", resource)?;
        call.shared(token, u64::MAX)?;
        let keys = [self.mark_key(&call), self.value_key(&call)];
        let reads = Txn::new().and_then(keys.map(|key| TxnOp::get(key, None)));
        let answer = self.run(&call, reads, Effect::Read).await?.op_responses();
        let Ok([mark, written]) = <[_; 2]>::try_from(answer) else { return Err(reply(&call)) };
        call.pass_shared(decode(&call, &got(&call, mark)?)?.as_ref(), token)?;
        Ok(value(&got(&call, written)?))
    }

    async fn mark(&self, resource: &str) -> Result<Option<FencingToken>> {
        let call = Call::new(FENCE, "mark", resource)?;
        let answer = self.client.kv_client().get(self.mark_key(&call), None).await;
        decode(&call, &answer.map_err(|error| failed(&call, error, Effect::Read))?)
    }
}

impl fmt::Debug for EtcdFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdFence").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Writes a mark, so that the order of bytes is that of the tokens of one origin.
fn encode(token: &FencingToken) -> String {
    format!("{}:{:020}", token.origin(), token.value())
}

fn decode(call: &Call, answer: &GetResponse) -> Result<Option<FencingToken>> {
    let Some(kv) = answer.kvs().first() else { return Ok(None) };
    let text = std::str::from_utf8(kv.value()).ok();
    let parsed = text.and_then(|text| text.split_once(':')).and_then(|(origin, digits)| {
        format!("{digits};origin={origin}")
            .parse()
            .ok()
            .filter(|token| Some(&*encode(token)) == text)
    });
    parsed.ok_or_else(|| call.garbled(NO_MARK)).map(Some)
}

fn value(answer: &GetResponse) -> Option<Vec<u8>> {
    answer.kvs().first().map(KeyValue::value).map(<[u8]>::to_vec)
}

fn first(call: &Call, answer: &TxnResponse) -> Result<TxnOpResponse> {
    answer.op_responses().into_iter().next().ok_or_else(|| reply(call))
}

fn got(call: &Call, answer: TxnOpResponse) -> Result<GetResponse> {
    match answer {
        TxnOpResponse::Get(answer) => Ok(answer),
        _ => Err(reply(call)),
    }
}

fn reply(call: &Call) -> crate::Error {
    call.garbled("the transaction's answer has another form than its question")
}

const FENCE: &str = "etcd fence";
const NO_MARK: &str = "what stands under the mark's key is no mark";

#[cfg(test)]
mod tests {
    use portunus_core::name::LockName;
    use portunus_core::token::{Incarnation, Origin};

    use super::*;

    fn token(value: u64, name: &str) -> FencingToken {
        let name = LockName::new(name).unwrap();
        FencingToken::new(value, Origin::new(Incarnation::new(b"x").unwrap(), name))
    }

    #[test]
    fn marks_are_in_the_order_of_their_tokens() {
        let two = 1 << 53;
        let tokens = [1, 9, 10, two, two + 1, u64::MAX - 1, u64::MAX];
        let marks = tokens.map(|value| encode(&token(value, "a")));
        assert!(marks.is_sorted());
        let lowest = format!("{}:", token(1, "a").origin());
        for mark in marks {
            assert!(mark > lowest);
            for other in ["A", "b", "aa"].map(|name| encode(&token(7, name))) {
                assert!(other < lowest || other > encode(&token(u64::MAX, "a")), "{other}");
            }
        }
    }
}
