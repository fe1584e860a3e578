//! The view of those who take no lock.

use std::sync::Arc;

use async_trait::async_trait;
use etcd_client::{
    GetOptions, KeyValue, SortOrder, SortTarget, Txn, TxnOp, WatchOptions, WatchStream,
};
use futures_util::stream;
use portunus_core::backend::{
    BoxStream, Contender, Entry, EntryId, LockObserver, NamePage, Observation, Probe,
};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;

use crate::backend::Etcd;
use crate::error::{Effect, STORE};
use crate::layout::{Keys, prefix_end};
use crate::queue::Queue;
use crate::store::{LARGEST_ANSWER, Store, created_at, newest};

#[async_trait]
impl LockObserver for Etcd {
    async fn queue(&self, name: &LockName) -> Result<Vec<Entry>> {
        let (prefix, kvs) = self.list("queue", name).await?;
        let mut entries = Queue::new(&self.keys, name, &prefix).entries(&kvs)?;
        entries.sort_by_key(|entry| entry.id.position);
        Ok(entries)
    }

    async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        let (prefix, kvs) = self.list("contenders", name).await?;
        Queue::new(&self.keys, name, &prefix).contenders(&kvs)
    }

    async fn follow(&self, name: &LockName, since: u64) -> Result<BoxStream<Result<Observation>>> {
        let followed = Followed {
            store: Arc::clone(&self.store),
            keys: self.keys.clone(),
            name: name.clone(),
            prefix: self.keys.queue(name)?,
        };
        let first = followed.head().await?;
        if first.as_of < since {
            let detail = format!("the store is at revision {} and was at {since}", first.as_of);
            return Err(followed.error(ErrorKind::Regression).with_detail(detail));
        }
        let events = followed.watch(first.as_of).await?;
        let state = Some((followed, events, first.clone(), Some(first)));
        Ok(Box::pin(stream::unfold(state, |state| async {
            let (followed, mut events, last, unsaid) = state?;
            if let Some(first) = unsaid {
                return Some((Ok(first), Some((followed, events, last, None))));
            }
            match followed.next(&mut events, &last).await {
                Ok(head) => Some((Ok(head.clone()), Some((followed, events, head, None)))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn names(&self, prefix: &str, page: Option<&str>) -> Result<NamePage> {
        let range = self.keys.names(prefix)?;
        let start = page.map_or_else(|| range.clone().into_bytes(), decode);
        // Without a namespace and a prefix: all there is. No key is empty or begins with NUL.
        let start = if start.is_empty() { vec![0] } else { start };
        let options = GetOptions::new()
            .with_range(prefix_end(range.as_bytes()))
            .with_limit(PAGE)
            .with_keys_only();
        let txn = Txn::new().and_then([TxnOp::get(start, Some(options))]);
        let mut answer = self.store.txn("names", None, Effect::Read, txn).await?;
        let kvs = answer.kvs()?;
        let mut names: Vec<LockName> =
            kvs.iter().filter_map(|kv| self.keys.name_of(kv.key())).collect();
        names.sort();
        names.dedup();
        let full = i64::try_from(kvs.len()).is_ok_and(|count| count >= PAGE);
        let next = kvs.last().filter(|_| full).map(|last| self.after(last));
        Ok(NamePage { names, next })
    }

    async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool> {
        let prefix = self.keys.queue(name)?;
        if !entry.key.starts_with(&prefix) {
            return Err(Error::new(ErrorKind::Invalid, STORE, "evict")
                .with_key(name.as_str())
                .with_detail(format!("the entry's key is not below `{prefix}`")));
        }
        let txn = Txn::new()
            .when([created_at(&entry.key, entry.position)])
            .and_then([TxnOp::delete(&*entry.key, None)]);
        let answer = self.store.txn("evict", Some(name.as_str()), Effect::Write, txn).await?;
        Ok(answer.succeeded)
    }

    async fn probe(&self) -> Result<Probe> {
        let incarnation = self.store.incarnation(&self.keys, "probe").await?;
        let (version, warnings) = crate::probe::inspect(&self.store.endpoints).await?;
        Ok(Probe { incarnation, version, warnings })
    }
}

impl Etcd {
    async fn list(
        &self,
        operation: &'static str,
        name: &LockName,
    ) -> Result<(String, Vec<KeyValue>)> {
        let prefix = self.keys.queue(name)?;
        let txn = Txn::new().and_then([newest(&prefix, 0, 0)]);
        let mut answer = self.store.txn(operation, Some(name.as_str()), Effect::Read, txn).await?;
        Ok((prefix, answer.kvs()?))
    }

    /// Where the page after `last` begins: behind all entries of its lock, where they stand
    /// together.
    fn after(&self, last: &KeyValue) -> String {
        let name = self.keys.name_of(last.key()).filter(|_| self.keys.is_exact());
        let start = match name.map(|name| self.keys.queue(&name)) {
            Some(Ok(queue)) => prefix_end(queue.as_bytes()),
            _ => [last.key(), b"\0"].concat(),
        };
        start.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A lock whose head is followed.
struct Followed {
    store: Arc<Store>,
    keys: Keys,
    name: LockName,
    prefix: String,
}

impl Followed {
    async fn head(&self) -> Result<Observation> {
        let limit = if self.keys.is_exact() { 1 } else { 0 };
        let options = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Create, SortOrder::Ascend)
            .with_limit(limit);
        let txn = Txn::new().and_then([TxnOp::get(&*self.prefix, Some(options))]);
        let name = Some(self.name.as_str());
        let mut answer = self.store.txn("follow", name, Effect::Read, txn).await?;
        let queue = Queue::new(&self.keys, &self.name, &self.prefix);
        let holder = queue.contenders(&answer.kvs()?)?.into_iter().next();
        Ok(Observation { as_of: answer.revision, holder })
    }

    async fn watch(&self, after: u64) -> Result<WatchStream> {
        let start = i64::try_from(after).unwrap_or(i64::MAX).saturating_add(1);
        let options = WatchOptions::new().with_prefix().with_start_revision(start);
        let opened = self.store.endpoints.run(Effect::Read, |client| {
            let watches = client.watch_client();
            let mut watches = watches.max_decoding_message_size(LARGEST_ANSWER);
            let (prefix, options) = (self.prefix.clone(), options.clone());
            async move { watches.watch(prefix, Some(options)).await }
        });
        opened.await.map_err(|fault| fault.into_error("follow", Some(self.name.as_str())))
    }

    /// Waits until the head is another, or says something else.
    async fn next(&self, events: &mut WatchStream, last: &Observation) -> Result<Observation> {
        loop {
            let ended = match events.message().await {
                Ok(Some(message)) if message.canceled() => message.cancel_reason().to_owned(),
                Ok(Some(message)) if message.events().is_empty() => continue,
                Ok(Some(_)) => {
                    let head = self.head().await?;
                    if head.holder == last.holder {
                        continue;
                    }
                    return Ok(head);
                }
                Ok(None) => "the stream ended".to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(self.error(ErrorKind::Unavailable).with_detail(ended));
        }
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::new(kind, STORE, "follow").with_key(self.name.as_str())
    }
}

/// Reads a page's start, which is hex because keys may be any bytes.
fn decode(page: &str) -> Vec<u8> {
    let (pairs, _) = page.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().filter_map(byte).collect()
}

/// How many keys a page of names is read from.
const PAGE: i64 = 1000;
