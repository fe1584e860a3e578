//! The view of those who take no lock.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream;
use portunus_core::backend::{
    BoxStream, Contender, Entry, EntryId, LockObserver, NamePage, Observation, Probe,
};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;
use rusqlite::{Connection, params};

use super::backend::{OBSERVER_PATIENCE, Sqlite, position_of};
use super::connection::warnings;
use super::error::{Fallible, STORE, read};
use super::line::{Line, Purpose};
use super::onward::{Back, write_onward};
use super::queue::{self, number};
use super::session::settle_for_a_reader;
use super::watch::{Subject, Watcher};
use crate::rows;

#[async_trait]
impl LockObserver for Sqlite {
    async fn queue(&self, name: &LockName) -> Result<Vec<Entry>> {
        let key = self.keys.key(name);
        self.list("queue", name, move |connection| queue::all(connection, &key)).await
    }

    async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        let key = self.keys.key(name);
        let all = move |connection: &mut Connection| queue::records(connection, &key, u64::MAX);
        rows::contenders(self.list("contenders", name, all).await?)
    }

    async fn follow(&self, name: &LockName, since: u64) -> Result<BoxStream<Result<Observation>>> {
        // What is dead leads no more.
        self.list("follow", name, |_| Ok(())).await?;
        let followed = Followed {
            requests: Arc::clone(&self.requests),
            watcher: Arc::clone(&self.watcher),
            key: self.keys.key(name),
            name: name.clone(),
        };
        let first = followed.head().await?;
        followed.check(first.as_of, since)?;
        let state = Some((followed, first.clone(), Some(first)));
        Ok(Box::pin(stream::unfold(state, |state| async {
            let (followed, last, unsaid) = state?;
            if let Some(first) = unsaid {
                return Some((Ok(first), Some((followed, last, None))));
            }
            match followed.next(&last).await {
                Ok(head) => Some((Ok(head.clone()), Some((followed, head, None)))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn names(&self, prefix: &str, page: Option<&str>) -> Result<NamePage> {
        let begin = self.keys.begin(prefix);
        let after = page.map(|last| self.keys.begin(last));
        let purpose = purpose("names", None);
        let liveness = Arc::clone(&self.liveness);
        let listing = self.requests.run(purpose, move |open| {
            settle_for_a_reader(&mut open.connection, &liveness)?;
            keys(&open.connection, &begin, after.as_deref())
        });
        let keys = listing.await?;
        let is_full = keys.len() == PAGE;
        let names: Vec<LockName> = keys.iter().filter_map(|key| self.keys.name_of(key)).collect();
        let next = names.last().filter(|_| is_full).map(|last| last.as_str().to_owned());
        Ok(NamePage { names, next })
    }

    async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool> {
        let Some(position) = position_of(entry) else { return Ok(false) };
        let key = self.keys.key(name);
        let liveness = Arc::clone(&self.liveness);
        let evicting = self.requests.run(purpose("evict", Some(name)), move |open| {
            // In a file that went back the number may be another's.
            let back = Back(ErrorKind::Regression, "evict");
            write_onward(&mut open.connection, &liveness, back, |transaction| {
                let place = params![number(position), key];
                let removed = transaction.execute(
                    "DELETE FROM portunus_entry WHERE position = ?1 AND key = ?2 AND ended = 0",
                    place,
                )?;
                Ok((removed, removed > 0))
            })
        });
        let removed = evicting.await?;
        self.watcher.nudge();
        Ok(removed > 0)
    }

    async fn probe(&self) -> Result<Probe> {
        let asking = self.requests.run(purpose("probe", None), |open| {
            Ok((queue::at(&open.connection)?.incarnation, warnings(&open.connection)?))
        });
        let (incarnation, mut warnings) = asking.await?;
        if !self.liveness.kernel.is_known() {
            warnings.push(
                "this system does not say which boot it is: who crashed is found by observation \
                 alone, which takes a time to live from when others begin to wait"
                    .into(),
            );
        }
        Ok(Probe { incarnation, version: rusqlite::version().to_owned(), warnings })
    }
}

impl Sqlite {
    /// Reads something of a queue, without those who are dead.
    async fn list<T: Send + 'static>(
        &self,
        operation: &'static str,
        name: &LockName,
        list: impl FnOnce(&mut Connection) -> Fallible<T> + Send + 'static,
    ) -> Result<T> {
        let liveness = Arc::clone(&self.liveness);
        let listing = self.requests.run(purpose(operation, Some(name)), move |open| {
            settle_for_a_reader(&mut open.connection, &liveness)?;
            list(&mut open.connection)
        });
        listing.await
    }
}

/// A lock whose head is followed.
struct Followed {
    requests: Arc<Line>,
    watcher: Arc<Watcher>,
    key: String,
    name: LockName,
}

impl Followed {
    async fn head(&self) -> Result<Observation> {
        let key = self.key.clone();
        let looking = self.requests.run(purpose("follow", Some(&self.name)), move |open| {
            read(&mut open.connection, |transaction| {
                Ok((queue::records(transaction, &key, 1)?, queue::position(transaction)?))
            })
        });
        let (first, as_of) = looking.await?;
        // The first of a queue always holds.
        Ok(Observation { as_of, holder: rows::contenders(first)?.pop() })
    }

    /// Whether the file went back since it was at `since`.
    fn check(&self, as_of: u64, since: u64) -> Result<()> {
        if as_of >= since {
            return Ok(());
        }
        let detail = format!("the file is at position {as_of} and was at {since}");
        let error = Error::new(ErrorKind::Regression, STORE, "follow");
        Err(error.with_key(self.name.as_str()).with_detail(detail))
    }

    /// Waits until the head is another, or says something else.
    async fn next(&self, last: &Observation) -> Result<Observation> {
        let mut as_of = last.as_of;
        loop {
            let changed = self.watcher.watch(self.key.clone(), Subject::Head { as_of })?;
            changed.await.unwrap_or_else(|_| {
                let error = Error::new(ErrorKind::Unavailable, STORE, "follow");
                Err(error.with_key(self.name.as_str()))
            })?;
            let head = self.head().await?;
            self.check(head.as_of, as_of)?;
            if head.holder != last.holder {
                return Ok(head);
            }
            as_of = head.as_of;
        }
    }
}

/// One page of keys with entries that begin with `begin`, behind `after`.
fn keys(connection: &Connection, begin: &str, after: Option<&str>) -> Fallible<Vec<String>> {
    let mut list = connection.prepare_cached(
        "SELECT DISTINCT key FROM portunus_entry \
         WHERE ended = 0 AND key >= ?1 AND (?2 IS NULL OR key > ?2) ORDER BY key LIMIT ?3",
    )?;
    let page = i64::try_from(PAGE).unwrap_or(i64::MAX);
    let found = list.query_map(params![begin, after, page], |row| row.get::<_, String>(0))?;
    let mut keys = Vec::new();
    for key in found {
        let key = key?;
        // In the order of their bytes all that begin so stand together.
        if !key.starts_with(begin) {
            break;
        }
        keys.push(key);
    }
    Ok(keys)
}

fn purpose<'a>(operation: &'static str, name: Option<&'a LockName>) -> Purpose<'a> {
    Purpose { operation, key: name.map(LockName::as_str), patience: OBSERVER_PATIENCE }
}

/// How many names a page has at most.
const PAGE: usize = 1000;
