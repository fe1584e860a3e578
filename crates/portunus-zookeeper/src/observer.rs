//! The view of those who take no lock.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join, join_all, select_all};
use futures_util::stream;
use portunus_core::backend::{
    BoxStream, Contender, Entry, EntryId, LockObserver, NamePage, Observation, Probe, Record,
};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::queue::{self, Place};
use tokio::sync::Mutex as AsyncMutex;
use zookeeper_client::{Client, Error as ClientError, OneshotWatcher, Stat};

use crate::backend::ZooKeeper;
use crate::connection::Connection;
use crate::endpoints::Endpoints;
use crate::error::{Effect, Fault, STORE};
use crate::layout::{Paths, child_of, is_entry, mode, position};
use crate::queue::Queue;
use crate::session::LiveSession;
use crate::store::zxid;

#[async_trait]
impl LockObserver for ZooKeeper {
    async fn queue(&self, name: &LockName) -> Result<Vec<Entry>> {
        let parent = self.store.paths.queue(name);
        let children = self.children("queue", &parent).await?;
        Ok(Queue::new(&parent, &self.strangers).entries(&children))
    }

    async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        let parent = self.store.paths.queue(name);
        let children = self.children("contenders", &parent).await?;
        let mut entries = Queue::new(&parent, &self.strangers).entries(&children);
        let paths: Vec<_> = entries.iter().map(|entry| Arc::clone(&entry.id.key)).collect();
        let read = |client: Client| async move {
            let nodes = join_all(paths.iter().map(|path| client.get_data(path))).await;
            nodes.into_iter().map(there).collect::<Result<Vec<_>, _>>()
        };
        let nodes = self.ask("contenders", Some(name.as_str()), read).await?;
        let mut nodes = nodes.into_iter();
        // Who went between the two readings is left out.
        let mut standing = Vec::new();
        entries.retain(|entry| {
            let Some(Some((data, stat))) = nodes.next() else { return false };
            // The name decides, and other clients write no mode.
            standing.push((Record { mode: entry.mode, ..Record::read(&data) }, stat));
            true
        });
        let holds = |entry: &&Entry| matches!(queue::turn(&entries, &entry.id), Ok(Place::First));
        let holders = entries.iter().take_while(holds).count();
        let contenders = entries.iter().zip(standing).enumerate();
        contenders
            .map(|(at, (entry, (record, stat)))| {
                contender(entry.id.clone(), at < holders, record, &stat)
            })
            .collect()
    }

    async fn follow(&self, name: &LockName, since: u64) -> Result<BoxStream<Result<Observation>>> {
        let failed = |fault: Fault| fault.for_observer().into_error("follow", Some(name.as_str()));
        let through = self.through().await.map_err(failed)?;
        let parent = self.store.paths.queue(name);
        let followed = Followed { through, name: name.clone(), parent };
        let mut call = followed.through.begin().await.map_err(failed)?;
        // The position is of use only if the server knows at least what was known then.
        self.store.catch_up(&mut call).await.map_err(failed)?;
        drop(call);
        let (first, news) = followed.head(since).await?;
        if first.as_of < since {
            let detail = format!("the store is at zxid {:#x} and was at {since:#x}", first.as_of);
            return Err(followed.error(ErrorKind::Regression).with_detail(detail));
        }
        let state = Some((followed, news, first.clone(), Some(first)));
        Ok(Box::pin(stream::unfold(state, |state| async {
            let (followed, news, last, unsaid) = state?;
            if let Some(first) = unsaid {
                return Some((Ok(first), Some((followed, news, last, None))));
            }
            match followed.next(news, &last).await {
                Ok((head, news)) => Some((Ok(head.clone()), Some((followed, news, head, None)))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn names(&self, prefix: &str, page: Option<&str>) -> Result<NamePage> {
        let root = self.store.paths.root();
        let mut children = self.children("names", &root).await?;
        children.sort();
        let after = |child: &String| page.is_none_or(|last| child.as_str() > last);
        let named = children.into_iter().filter(after).filter_map(|child| {
            let name = Paths::name_of(&child).filter(|name| name.as_str().starts_with(prefix))?;
            Some((child, name))
        });
        let mut named: Vec<(String, LockName)> = named.take(PAGE + 1).collect();
        let more = named.len() > PAGE;
        named.truncate(PAGE);
        let next = named.last().filter(|_| more).map(|(child, _)| child.clone());
        let read = |client: Client| {
            let paths: Vec<_> = named.iter().map(|(child, _)| format!("{root}/{child}")).collect();
            async move {
                let nodes = join_all(paths.iter().map(|path| client.check_stat(path))).await;
                nodes.into_iter().collect::<Result<Vec<_>, _>>()
            }
        };
        let stats = self.ask("names", None, read).await?;
        let full = |stat: &Option<Stat>| stat.is_some_and(|stat| stat.num_children > 0);
        let names = named.into_iter().zip(stats).filter(|(_, stat)| full(stat));
        Ok(NamePage { names: names.map(|((_, name), _)| name).collect(), next })
    }

    async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool> {
        let parent = self.store.paths.queue(name);
        if child_of(&entry.key, &parent).is_none() {
            return Err(Error::new(ErrorKind::Invalid, STORE, "evict")
                .with_key(name.as_str())
                .with_detail(format!("the entry's node is not below `{parent}`")));
        }
        if !is_entry(entry, &parent) {
            return Ok(false);
        }
        let failed = |fault: Fault| fault.for_observer().into_error("evict", Some(name.as_str()));
        let through = self.through().await.map_err(failed)?;
        self.delete(&through, &entry.key).await.map_err(failed)
    }

    async fn probe(&self) -> Result<Probe> {
        let through =
            self.through().await.map_err(|fault| fault.for_observer().into_error("probe", None))?;
        let incarnation = self.store.incarnation(&through, "probe").await?;
        let (version, warnings) =
            crate::probe::inspect(&self.dial, &through, &self.store.acls).await?;
        Ok(Probe { incarnation, version, warnings })
    }
}

/// A session for those who only look, opened when there is no other to look through.
#[derive(Default)]
pub(crate) struct Reader(AsyncMutex<Option<Arc<Endpoints>>>);

/// What is looked through: somebody's session, or the one for looking.
enum Through {
    Session(Arc<LiveSession>),
    Own(Arc<Endpoints>),
}

impl Deref for Through {
    type Target = Endpoints;

    fn deref(&self) -> &Endpoints {
        match self {
            Self::Session(live) => &live.endpoints,
            Self::Own(endpoints) => endpoints,
        }
    }
}

impl ZooKeeper {
    async fn through(&self) -> Result<Through, Fault> {
        for live in self.sessions.all() {
            // One that ended, or is ending, is no way to look; nor is it the caller's to lose.
            let begun = live.endpoints.begin().await.map(|mut call| call.answered());
            if begun.is_ok() {
                return Ok(Through::Session(live));
            }
        }
        let mut own = self.reader.0.lock().await;
        // It may have expired, or the runtime that it lived on may have ended.
        if let Some(endpoints) = &*own
            && let Ok(mut call) = endpoints.begin().await
        {
            call.answered();
            return Ok(Through::Own(Arc::clone(endpoints)));
        }
        let opened = Arc::new(Endpoints::open(Arc::clone(&self.dial), LOOKING).await?);
        *own = Some(Arc::clone(&opened));
        Ok(Through::Own(opened))
    }

    async fn ask<T, R>(
        &self,
        operation: &'static str,
        key: Option<&str>,
        request: impl FnOnce(Client) -> R + Send,
    ) -> Result<T>
    where
        R: Future<Output = Result<T, ClientError>> + Send,
    {
        let failed = |fault: Fault| fault.for_observer().into_error(operation, key);
        let through = self.through().await.map_err(failed)?;
        through.run(Effect::Read, request).await.map_err(failed)
    }

    async fn children(&self, operation: &'static str, path: &str) -> Result<Vec<String>> {
        self.ask(operation, Some(path), |client| list(client, path)).await
    }
}

/// A lock whose head is followed.
struct Followed {
    through: Through,
    name: LockName,
    parent: String,
}

/// What wakes a follower, and the connection that it comes through.
type News = (Arc<Connection>, Vec<OneshotWatcher>);

impl Followed {
    /// The head now, no earlier than `since` when the lock's node is not there to tell.
    async fn head(&self, since: u64) -> Result<(Observation, News)> {
        let failed =
            |fault: Fault| fault.for_observer().into_error("follow", Some(self.name.as_str()));
        let mut call = self.through.begin().await.map_err(failed)?;
        let client = call.client.clone();
        loop {
            let listed = there(client.get_and_watch_children(&self.parent).await);
            let Some((children, stat, watcher)) =
                call.settle(listed, Effect::Read).map_err(failed)?
            else {
                let absent = client.check_and_watch_stat(&self.parent).await;
                let (stat, watcher) = call.settle(absent, Effect::Read).map_err(failed)?;
                if stat.is_some() {
                    continue;
                }
                let nobody = Observation { as_of: since, holder: None };
                return Ok((nobody, (call.into_connection(), vec![watcher])));
            };
            let as_of = u64::try_from(stat.pzxid).unwrap_or_default();
            let numbered = children.iter().filter_map(|child| Some((position(child)?, child)));
            let Some((position, child)) = numbered.min() else {
                let nobody = Observation { as_of, holder: None };
                return Ok((nobody, (call.into_connection(), vec![watcher])));
            };
            let path = format!("{}/{child}", self.parent);
            let first = there(client.get_and_watch_data(&path).await);
            let Some((data, stat, own)) = call.settle(first, Effect::Read).map_err(failed)? else {
                continue;
            };
            let as_of = as_of.max(u64::try_from(stat.mzxid).unwrap_or_default());
            let entry = EntryId { key: path.into(), position };
            let record = Record { mode: mode(child), ..Record::read(&data) };
            let holder = contender(entry, true, record, &stat)?;
            let head = Observation { as_of, holder: Some(holder) };
            return Ok((head, (call.into_connection(), vec![watcher, own])));
        }
    }

    /// Waits until the head is another, or says something else.
    async fn next(&self, mut news: News, last: &Observation) -> Result<(Observation, News)> {
        loop {
            let (connection, watchers) = news;
            let watched = watchers.into_iter().map(|watcher| Box::pin(connection.watched(watcher)));
            if select_all(watched).await.0.is_none() {
                let error = self.error(ErrorKind::Unavailable);
                return Err(error.with_detail("the connection ended"));
            }
            let (head, later) = self.head(last.as_of).await?;
            if head.holder != last.holder {
                return Ok((head, later));
            }
            news = later;
        }
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::new(kind, STORE, "follow").with_key(self.name.as_str())
    }
}

fn contender(entry: EntryId, holds: bool, record: Record, stat: &Stat) -> Result<Contender> {
    Ok(Contender { entry, holds, token: Some(zxid(stat)?), record })
}

/// The children of a node as the leader knows them when it is asked; none where there is no node.
pub(crate) async fn list(client: Client, path: &str) -> Result<Vec<String>, ClientError> {
    // Sent at once; the server lists when it has caught up.
    let (synced, listed) = join(client.sync(path), client.list_children(path)).await;
    synced?;
    Ok(there(listed)?.unwrap_or_default())
}

/// What was read of a node, if the node is there.
fn there<T>(read: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match read {
        Err(ClientError::NoNode) => Ok(None),
        read => read.map(Some),
    }
}

/// How many names a page has.
const PAGE: usize = 100;
/// The session timeout of one who only looks.
const LOOKING: Duration = Duration::from_secs(10);
