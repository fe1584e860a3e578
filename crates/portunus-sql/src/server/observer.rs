//! The view of those who take no lock.

use std::sync::Arc;

use futures_util::stream;
use portunus_core::backend::{
    BoxStream, Contender, Entry, EntryId, NamePage, Observation, Probe, Record,
};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;

use super::backend::{Server, position_of};
use super::failure::Fallible;
use super::line::{Errand, LONGEST, Line};
use super::session::{settle_for_a_reader, settle_for_a_try};
use super::tables::{Database, Tables};
use super::watch::{Subject, Watcher};
use crate::rows;

impl<D: Database> Server<D> {
    pub(crate) async fn queue(&self, name: &LockName) -> Result<Vec<Entry>> {
        let mut taken = self.requests.take(Errand::new("queue", name.as_str())).await?;
        let (tables, key) = (&mut taken.tables, self.keys.key(name));
        let listed = match settle_for_a_reader(tables, &self.liveness).await {
            Ok(()) => tables.queue(&key).await,
            Err(failure) => Err(failure),
        };
        taken.end(listed)
    }

    pub(crate) async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        let mut taken = self.requests.take(Errand::new("contenders", name.as_str())).await?;
        let (tables, key) = (&mut taken.tables, self.keys.key(name));
        let listed = match settle_for_a_reader(tables, &self.liveness).await {
            Ok(()) => tables.records(&key, u32::MAX).await,
            Err(failure) => Err(failure),
        };
        rows::contenders(taken.end(listed)?.0)
    }

    pub(crate) async fn follow(
        &self,
        name: &LockName,
        since: u64,
    ) -> Result<BoxStream<Result<Observation>>> {
        // What is dead leads no more.
        let mut taken = self.requests.take(Errand::new("follow", name.as_str())).await?;
        let settled = settle_for_a_reader(&mut taken.tables, &self.liveness).await;
        taken.end(settled)?;
        let followed = Followed {
            requests: Arc::clone(&self.requests),
            watcher: Arc::clone(&self.watcher),
            key: self.keys.key(name),
            name: name.clone(),
        };
        let first = followed.head().await?;
        followed.check(first.observation.as_of, since)?;
        let state = Some((followed, first.clone(), Some(first.observation)));
        Ok(Box::pin(stream::unfold(state, |state| async {
            let (followed, last, unsaid) = state?;
            if let Some(first) = unsaid {
                return Some((Ok(first), Some((followed, last, None))));
            }
            match followed.next(last).await {
                Ok(head) => Some((Ok(head.observation.clone()), Some((followed, head, None)))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    pub(crate) async fn names(&self, prefix: &str, page: Option<&str>) -> Result<NamePage> {
        let begin = self.keys.begin(prefix);
        let after = page.map(|last| self.keys.begin(last));
        let mut taken = self.requests.take(Errand::of_all("names")).await?;
        let tables = &mut taken.tables;
        let listed = match settle_for_a_reader(tables, &self.liveness).await {
            Ok(()) => tables.keys(&begin, after.as_deref(), PAGE).await,
            Err(failure) => Err(failure),
        };
        let keys = taken.end(listed)?;
        let is_full = keys.len() == usize::try_from(PAGE).unwrap_or(usize::MAX);
        let names = keys.iter().filter_map(|key| self.keys.name_of(key)).collect();
        // The last that was read, whoever wrote it: a page may be full of keys that are no names.
        let last = keys.last().filter(|_| is_full);
        let next = last.and_then(|key| key.strip_prefix(&self.keys.begin(""))).map(str::to_owned);
        Ok(NamePage { names, next })
    }

    pub(crate) async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool> {
        let key = self.keys.key(name);
        let Some(position) = position_of(&key, entry) else { return Ok(false) };
        let mut taken = self.requests.take(Errand::new("evict", name.as_str())).await?;
        let evicted = taken.tables.evict(&key, position).await;
        let evicted = taken.end(evicted)?;
        self.watcher.nudge(&key);
        Ok(evicted)
    }

    /// Ends those who are dead, as one does who was turned away; whether there were any. For one who has no
    /// engine that bounds it.
    pub(crate) async fn settle(&self) -> Result<bool> {
        let settling = async {
            let mut taken = self.requests.take(Errand::of_all("settle")).await?;
            let settled = settle_for_a_try(&mut taken.tables, &self.liveness).await;
            Ok(taken.end(settled)?)
        };
        let settled = self.dialer.limited(LONGEST, settling).await;
        settled.map_err(|failure| Errand::of_all("settle").fail::<D>(failure))
    }

    pub(crate) async fn probe(&self) -> Result<Probe> {
        let mut taken = self.requests.take(Errand::of_all("probe")).await?;
        let incarnation = taken.tables.incarnation().clone();
        let probed = taken.tables.probe().await;
        let (version, mut warnings) = taken.end(probed)?;
        if !self.liveness.kernel.is_known() {
            warnings.push(
                "this system does not say which boot it is: what one process saw of a crashed \
                 holder is of no use to the next, so tries that are shorter than a time to live \
                 never find it dead"
                    .into(),
            );
        }
        Ok(Probe { incarnation, version, warnings })
    }
}

/// A lock whose head is followed.
struct Followed<D: Database> {
    requests: Arc<Line<D>>,
    watcher: Arc<Watcher<D>>,
    key: String,
    name: LockName,
}

/// A head as it was read, and what to compare with to know that it is another.
#[derive(Clone)]
struct Head {
    observation: Observation,
    first: Option<(u64, u64)>,
}

impl<D: Database> Followed<D> {
    async fn head(&self) -> Result<Head> {
        let mut taken = self.requests.take(self.errand()).await?;
        let head = self.read(&mut taken.tables).await;
        let (records, as_of, first) = taken.end(head)?;
        // The first of a queue always holds.
        let holder = rows::contenders(records)?.pop();
        Ok(Head { observation: Observation { as_of, holder }, first })
    }

    /// What is compared is read before what is told: a change in between is looked at once more.
    async fn read(&self, tables: &mut D::Tables) -> Fallible<Read> {
        let standing = tables.standing(std::slice::from_ref(&self.key), 1).await?;
        let first = standing.first().map(|first| (first.position, first.revision));
        let (records, as_of) = tables.records(&self.key, 1).await?;
        Ok((records, as_of, first))
    }

    /// Whether the database went back since it was at `since`.
    fn check(&self, as_of: u64, since: u64) -> Result<()> {
        if as_of >= since {
            return Ok(());
        }
        let detail = format!("the lock's counter is at {as_of} and was at {since}");
        let error = Error::new(ErrorKind::Regression, D::STORE, "follow");
        Err(error.with_key(self.name.as_str()).with_detail(detail))
    }

    /// Waits until the head is another, or says something else.
    async fn next(&self, mut last: Head) -> Result<Head> {
        loop {
            let subject = Subject::Head { first: last.first };
            let changed = self.watcher.watch(self.key.clone(), subject).await;
            changed.unwrap_or_else(|_| {
                let error = Error::new(ErrorKind::Unavailable, D::STORE, "follow");
                Err(error.with_key(self.name.as_str()))
            })?;
            let head = self.head().await?;
            self.check(head.observation.as_of, last.observation.as_of)?;
            if head.observation.holder != last.observation.holder {
                return Ok(head);
            }
            last = head;
        }
    }

    fn errand(&self) -> Errand<'_> {
        Errand::new("follow", self.name.as_str())
    }
}

type Read = (Vec<(EntryId, Record)>, u64, Option<(u64, u64)>);

/// How many names a page has at most.
const PAGE: u32 = 1000;
