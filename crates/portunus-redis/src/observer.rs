//! The view of those who take no lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use portunus_core::backend::{
    BoxStream, Contender, Entry, EntryId, LockObserver, NamePage, Observation, Probe,
};
use portunus_core::error::{ErrorKind, Result};
use portunus_core::name::LockName;

use crate::backend::Redis;
use crate::entry::{Lock, Place, foreign};
use crate::error::error;
use crate::node::Lane;
use crate::nodes::Replies;
use crate::script::{Call, EVICT, LIST};

#[async_trait]
impl LockObserver for Redis {
    async fn queue(&self, name: &LockName) -> Result<Vec<Entry>> {
        let listed = self.listed(name).await?;
        Ok(listed.into_iter().map(|one| Entry { id: one.entry, mode: one.record.mode }).collect())
    }

    async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        self.listed(name).await
    }

    async fn follow(&self, name: &LockName, _since: u64) -> Result<BoxStream<Result<Observation>>> {
        let subscription = self.news.listen(self.keys.channel(name), Some(name));
        subscription.ready(LIMIT).await;
        let view = self.view();
        let start = (view, name.clone(), subscription, None::<Option<Contender>>);
        let stream = futures_util::stream::try_unfold(start, |(view, name, subscription, last)| {
            async move {
                loop {
                    let bell = Arc::clone(&subscription.bell);
                    let mut bell = std::pin::pin!(bell.notified());
                    bell.as_mut().enable();
                    let listed = view.listed(&name).await?;
                    let holder = listed.into_iter().find(|one| one.holds);
                    if last.as_ref() != Some(&holder) {
                        let seen = Observation { as_of: 0, holder: holder.clone() };
                        return Ok(Some((seen, (view, name, subscription, Some(holder)))));
                    }
                    // Nobody tells when a lock is taken.
                    tokio::select! {
                        () = bell => {}
                        () = view.nodes.sleep(FOLLOW) => {}
                    }
                }
            }
        });
        Ok(Box::pin(stream))
    }

    async fn names(&self, prefix: &str, page: Option<&str>) -> Result<NamePage> {
        let Some(pattern) = self.keys.pattern(prefix) else {
            return Err(error(ErrorKind::Unsupported, "names")
                .with_detail("with `layout=plain` the keys of locks can't be told from others"));
        };
        let scans = self.nodes.all().iter().map(|node| self.scan(node, &pattern));
        let scanned = futures_util::future::join_all(scans).await;
        let answered = scanned.iter().filter(|names| names.is_ok()).count();
        let mut names: BTreeMap<LockName, usize> = BTreeMap::new();
        for of_node in scanned {
            match of_node {
                Ok(of_node) => {
                    for name in of_node.into_iter().collect::<BTreeSet<_>>() {
                        *names.entry(name).or_default() += 1;
                    }
                }
                Err(error) if answered < self.nodes.quorum() => return Err(error),
                Err(_) => {}
            }
        }
        // As many as a majority has at least among those that answered; fewer are late to let it go.
        let silent = self.nodes.all().len() - answered;
        let least = self.nodes.quorum() - silent;
        let mut names: Vec<LockName> = names
            .into_iter()
            .filter(|(_, count)| *count >= least)
            .map(|(name, _)| name)
            .filter(|name| name.as_str().starts_with(prefix))
            .filter(|name| page.is_none_or(|page| name.as_str() > page))
            .collect();
        let next = (names.len() > PAGE).then(|| {
            names.truncate(PAGE);
            names.last().map(|name| name.as_str().to_owned())
        });
        Ok(NamePage { names, next: next.flatten() })
    }

    async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool> {
        if !self.nodes.is_one() {
            // Its position is what the servers agreed on, and not each of them knows it.
            let listed = self.listed(name).await?;
            if !listed.iter().any(|one| one.entry == *entry) {
                return Ok(false);
            }
        }
        let keys = [self.keys.lock(name), self.keys.line(name)];
        let of = [entry.key.to_string(), entry.position.to_string(), self.keys.sessions()];
        let all = |replies: &Replies| replies.definite().count() == replies.by_node.len();
        let evict = async |owner: &str| {
            let args = of.iter().cloned().chain([owner.to_owned()]);
            let call = Call::new("evict", &EVICT, keys.clone(), args);
            self.nodes.ask(Lane::Requests, LIMIT, "evict", None, |_| Some(call.clone()), all).await
        };
        let evicted = evict("").await;
        if !evicted.is_majority(&["removed", "absent"]) {
            return Err(evicted.failure_after(&["removed"]));
        }
        let removed = evicted.definite().find(|(_, reply)| reply.word() == "removed");
        let Some((_, removed)) = removed else { return Ok(false) };
        let (owner, quorum) = (removed.text(1)?, self.nodes.quorum());
        if owner.is_empty() || barred(&evicted) >= quorum {
            return Ok(true);
        }
        // One that waits may come to stand where it did not: a majority has to bar it, unless so many do not
        // know its session that it is lost.
        let again = evict(owner).await;
        let unknown = again.definite().count() - barred(&again);
        match barred(&again) >= quorum || unknown > self.nodes.all().len() - quorum {
            true => Ok(true),
            false => Err(again.failure_after(&["removed", "absent"])),
        }
    }

    async fn probe(&self) -> Result<Probe> {
        self.examine().await
    }
}

/// How many servers let an evicted attempt come to nothing from now on.
fn barred(evicted: &Replies) -> usize {
    evicted.definite().filter(|(_, reply)| reply.text(2).is_ok_and(|told| told == "barred")).count()
}

/// What a listing needs, for streams that outlive a call.
#[derive(Clone, Debug)]
pub(crate) struct View {
    nodes: Arc<crate::nodes::Nodes>,
    keys: crate::keys::Keys,
}

impl Redis {
    fn view(&self) -> View {
        View { nodes: Arc::clone(&self.nodes), keys: self.keys.clone() }
    }

    async fn listed(&self, name: &LockName) -> Result<Vec<Contender>> {
        self.view().listed(name).await
    }

    async fn scan(&self, node: &Arc<crate::node::Node>, pattern: &str) -> Result<Vec<LockName>> {
        let (mut names, mut cursor) = (Vec::new(), "0".to_owned());
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000);
            let (next, keys): (String, Vec<Vec<u8>>) = node.read("names", &scan).await?;
            let texts = keys.iter().filter_map(|key| std::str::from_utf8(key).ok());
            names.extend(texts.filter_map(|key| self.keys.name(key)));
            if next == "0" {
                return Ok(names);
            }
            cursor = next;
        }
    }
}

impl View {
    /// The holder, and those who wait in their order, as a majority of the servers sees them.
    async fn listed(&self, name: &LockName) -> Result<Vec<Contender>> {
        let keys = [self.keys.lock(name), self.keys.line(name)];
        let call = Call::new("list", &LIST, keys, [self.keys.sessions()]);
        let all = |replies: &Replies| replies.definite().count() == replies.by_node.len();
        let listed =
            self.nodes.ask(Lane::Requests, LIMIT, "list", None, |_| Some(call.clone()), all).await;
        if !listed.is_majority(&["list"]) {
            return Err(listed.failure());
        }
        let mut waiting: HashMap<EntryId, (Contender, usize)> = HashMap::new();
        let mut holding: HashMap<Vec<u8>, (Contender, u64, usize)> = HashMap::new();
        for (_, reply) in listed.definite().filter(|(_, reply)| reply.word() == "list") {
            if let Some((value, _)) = reply.holder(1)? {
                let lock = Lock::read(value);
                let serial = lock.as_ref().map_or(0, |lock| lock.serial);
                let holder = lock.map_or_else(|| foreign(value), |lock| lock.contender());
                let of = holding
                    .entry(Lock::grant(value).to_vec())
                    .or_insert_with(|| (holder.clone(), serial, 0));
                of.2 += 1;
                // A server that was too late for a confirmation or a value shows what was before.
                if (of.0.token, of.1) < (holder.token, serial) {
                    (of.0, of.1) = (holder, serial);
                }
            }
            for at in (3..reply.len()).step_by(2) {
                let place = Place::read(reply.bytes(at)?, reply.bytes(at + 1)?);
                if let Some(place) = place.filter(|place| place.position != 0) {
                    let one = place.contender();
                    waiting.entry(one.entry.clone()).or_insert((one, 0)).1 += 1;
                }
            }
        }
        let quorum = listed.count(&["list"]) / 2 + 1;
        // A round that is not decided yet has no token.
        let holding = holding.into_values().filter(|(one, ..)| one.token != Some(0));
        let holding = holding.map(|(one, _, count)| (one, count));
        let seen = holding.chain(waiting.into_values()).filter(|(_, count)| *count >= quorum);
        let mut contenders: Vec<Contender> = seen.map(|(contender, _)| contender).collect();
        contenders.sort_by_key(|one| (!one.holds, one.entry.position));
        contenders.dedup_by(|later, one| later.entry == one.entry);
        Ok(contenders)
    }
}

/// How long one of several servers may take for those who have no session.
const LIMIT: Duration = Duration::from_secs(2);
/// How often one looks who follows a lock.
const FOLLOW: Duration = Duration::from_millis(100);
/// How many names make a page.
const PAGE: usize = 1000;
