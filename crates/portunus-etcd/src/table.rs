//! Who waits for which key, and what was seen to go: the state of the watch hub, without I/O.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::news::{Changes, News, Order, Wake};

/// Locks that are watched, one watch each, and those who wait.
///
/// A watch outlives the last wait: between two waits of one attempt there is a look, and a watch
/// opened anew may have missed what happened in between. It is closed when too many are idle, or
/// when it has brought a ring full of news that nobody waited for.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Boxed, for a hash table is up to half empty.
    locks: HashMap<Arc<str>, Box<Lock>>,
    watches: HashMap<i64, Arc<str>>,
    waiting: HashMap<u64, Waiting>,
    /// Idle locks by the time at which they became so.
    idle: BTreeMap<u64, Arc<str>>,
    last_wait: u64,
    last_watch: i64,
    last_idle: u64,
}

#[derive(Debug)]
struct Lock {
    watch: i64,
    puts: bool,
    /// Everything after this revision is in `recent` or was delivered; none until it is watched.
    floor: Option<u64>,
    recent: VecDeque<News>,
    /// Who waits for which key; sorted, for it is small, or large and searched often.
    index: Vec<(Arc<str>, u64)>,
    idle: Option<u64>,
    /// The holder of this process and the revision at which it was last seen to hold.
    confirmed: Option<(Arc<str>, u64)>,
}

#[derive(Debug)]
struct Waiting {
    prefix: Arc<str>,
    as_of: u64,
    changes: Changes,
    wake: oneshot::Sender<Wake>,
}

impl Table {
    /// Waits for any of `keys` to go, or to change if that is awaited, after revision `as_of`.
    pub(crate) fn register(
        &mut self,
        prefix: &str,
        keys: Vec<Arc<str>>,
        as_of: u64,
        changes: Changes,
    ) -> (u64, oneshot::Receiver<Wake>, Option<Order>) {
        let (wake, woken) = oneshot::channel();
        self.last_wait += 1;
        let id = self.last_wait;
        let order = self.open(prefix, changes != Changes::Unwatched);
        let (prefix, lock) = self.lock(prefix).expect("BUG: it was just put there");
        let missed = |key: &Arc<str>| {
            lock.recent.iter().any(|news| news.key == *key && news.concerns(as_of, changes))
        };
        let early = match lock.floor {
            Some(floor) if as_of < floor => Some(Wake::Stale),
            _ if keys.iter().any(missed) => Some(Wake::Gone),
            _ => None,
        };
        if let Some(reason) = early {
            // The receiver is in our hands.
            let _ = wake.send(reason);
            return (id, woken, order);
        }
        if lock.index.is_empty() {
            // Held locks are many, and each has one.
            lock.index.reserve_exact(keys.len());
        }
        for key in keys {
            let item = (key, id);
            let at = lock.index.binary_search(&item).unwrap_or_else(|at| at);
            lock.index.insert(at, item);
        }
        if let Some(stamp) = lock.idle.take() {
            self.idle.remove(&stamp);
        }
        self.waiting.insert(id, Waiting { prefix, as_of, changes, wake });
        (id, woken, order)
    }

    /// Has a lock watched, with the changes of its entries if `puts`.
    fn open(&mut self, prefix: &str, puts: bool) -> Option<Order> {
        self.last_watch += 1;
        let watch = self.last_watch;
        let (prefix, replaces) = match self.lock(prefix) {
            Some((_, lock)) if lock.puts || !puts => return None,
            Some((prefix, lock)) => {
                // Until the new one begins, what happens is seen by none: `created` wakes then.
                lock.floor = None;
                lock.puts = true;
                (prefix, Some(std::mem::replace(&mut lock.watch, watch)))
            }
            None => {
                let prefix = Arc::<str>::from(prefix);
                self.locks.insert(Arc::clone(&prefix), Box::new(Lock::new(watch, puts)));
                (prefix, None)
            }
        };
        if let Some(replaced) = replaces {
            self.watches.remove(&replaced);
        }
        self.watches.insert(watch, Arc::clone(&prefix));
        Some(Order::Open { watch, prefix, puts, replaces })
    }

    /// Ends a wait; does nothing when it already ended.
    pub(crate) fn deregister(&mut self, id: u64) -> Option<Order> {
        let waiting = self.waiting.remove(&id)?;
        let (prefix, lock) = self.lock(&waiting.prefix)?;
        lock.index.retain(|(_, waiter)| *waiter != id);
        if !lock.index.is_empty() {
            return None;
        }
        lock.index.shrink_to_fit();
        self.last_idle += 1;
        let stamp = self.last_idle;
        self.locks.get_mut(&prefix)?.idle = Some(stamp);
        self.idle.insert(stamp, prefix);
        if self.idle.len() <= MAX_IDLE {
            return None;
        }
        let (_, oldest) = self.idle.pop_first()?;
        self.close(&oldest)
    }

    /// The store watches since `revision`.
    pub(crate) fn created(&mut self, watch: i64, revision: u64) {
        let Some((_, lock)) = self.watched(watch) else { return };
        lock.floor = Some(revision);
        let ids: Vec<u64> = lock.index.iter().map(|(_, id)| *id).collect();
        for id in ids {
            if self.waiting.get(&id).is_some_and(|waiting| waiting.as_of < revision) {
                self.wake(id, Wake::Stale);
            }
        }
    }

    /// A key went, or changed, at `revision`.
    pub(crate) fn event(&mut self, watch: i64, news: News) -> Option<Order> {
        let (prefix, lock) = self.watched(watch)?;
        let from = lock.index.partition_point(|(k, _)| *k < news.key);
        let of_key = lock.index[from..].iter().take_while(|(k, _)| *k == news.key);
        let ids: Vec<u64> = of_key.map(|(_, id)| *id).collect();
        let waiting = &self.waiting;
        let concerned = |id: &u64| {
            waiting.get(id).is_some_and(|waiting| news.concerns(waiting.as_of, waiting.changes))
        };
        let ids: Vec<u64> = ids.into_iter().filter(concerned).collect();
        let (_, lock) = self.watched(watch)?;
        let mut overflow = false;
        if lock.recent.len() == RING {
            overflow = true;
            let dropped = lock.recent.pop_front().map_or(0, |news| news.revision);
            lock.floor = lock.floor.max(Some(dropped));
        }
        lock.recent.push_back(news);
        let idle = lock.idle;
        for id in ids {
            self.wake(id, Wake::Gone);
        }
        match idle {
            Some(stamp) if overflow => {
                self.idle.remove(&stamp);
                self.close(&prefix)
            }
            _ => None,
        }
    }

    /// Remembers that `key` was seen to stand at `revision`.
    pub(crate) fn confirm(&mut self, prefix: &str, key: &Arc<str>, revision: u64) {
        if let Some((_, lock)) = self.lock(prefix) {
            lock.confirmed = Some((Arc::clone(key), revision));
        }
    }

    /// Returns the revision at which `key` was last seen to stand, if it is remembered.
    pub(crate) fn confirmed(&mut self, prefix: &str, key: &Arc<str>) -> Option<u64> {
        let (_, lock) = self.lock(prefix)?;
        lock.confirmed.as_ref().filter(|(k, _)| k == key).map(|(_, revision)| *revision)
    }

    pub(crate) fn knows(&self, watch: i64) -> bool {
        self.watches.contains_key(&watch)
    }

    /// Forgets everything and wakes all; ids are not used again.
    pub(crate) fn clear(&mut self, reason: &Wake) {
        self.locks.clear();
        self.watches.clear();
        self.idle.clear();
        for (_, waiting) in self.waiting.drain() {
            // A wait that was dropped needs no waking.
            let _ = waiting.wake.send(reason.clone());
        }
    }

    fn wake(&mut self, id: u64, reason: Wake) {
        // It stays in the index until the waiter ends its wait, which then finds it there.
        if let Some(waiting) = self.waiting.get_mut(&id) {
            let (closed, _) = oneshot::channel();
            let _ = std::mem::replace(&mut waiting.wake, closed).send(reason);
        }
    }

    fn close(&mut self, prefix: &Arc<str>) -> Option<Order> {
        let lock = self.locks.remove(prefix)?;
        self.watches.remove(&lock.watch);
        Some(Order::Close { watch: lock.watch })
    }

    fn lock(&mut self, prefix: &str) -> Option<(Arc<str>, &mut Lock)> {
        let prefix = Arc::clone(self.locks.get_key_value(prefix)?.0);
        self.locks.get_mut(&prefix).map(|lock| (prefix, &mut **lock))
    }

    fn watched(&mut self, watch: i64) -> Option<(Arc<str>, &mut Lock)> {
        let prefix = Arc::clone(self.watches.get(&watch)?);
        self.locks.get_mut(&prefix).map(|lock| (prefix, &mut **lock))
    }
}

impl Lock {
    fn new(watch: i64, puts: bool) -> Self {
        Self {
            watch,
            puts,
            floor: None,
            recent: VecDeque::new(),
            index: Vec::new(),
            idle: None,
            confirmed: None,
        }
    }
}

/// How many deletions and changes of one lock are remembered.
const RING: usize = 32;

/// How many locks stay watched while nobody waits: enough for the waiters of a process that all
/// look at once.
const MAX_IDLE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Arc<str> {
        text.into()
    }

    fn gone(name: &str, revision: u64) -> News {
        News { key: key(name), revision, stands: false }
    }

    fn wait(table: &mut Table, keys: &[&str], as_of: u64) -> (u64, oneshot::Receiver<Wake>) {
        let keys = keys.iter().map(|text| key(text)).collect();
        let (id, woken, _) = table.register("l/", keys, as_of, Changes::Unwatched);
        (id, woken)
    }

    fn woken(receiver: &mut oneshot::Receiver<Wake>) -> Option<Wake> {
        receiver.try_recv().ok()
    }

    #[test]
    fn a_deletion_wakes_those_who_wait_for_it_and_no_others() {
        let mut table = Table::default();
        let (_, mut pending, order) =
            table.register("l/", vec![key("l/1")], 10, Changes::Unwatched);
        let open = Order::Open { watch: 1, prefix: key("l/"), puts: false, replaces: None };
        assert_eq!(order, Some(open));
        table.created(1, 10);
        let mut waiters: Vec<_> =
            (2..500).map(|n| wait(&mut table, &[&format!("l/{n}"), "l/own"], 10).1).collect();
        table.event(1, gone("l/7", 11));
        assert!(matches!(woken(&mut waiters[5]), Some(Wake::Gone)));
        assert!(woken(&mut pending).is_none());
        waiters.remove(5);
        assert!(waiters.iter_mut().all(|waiter| woken(waiter).is_none()));
    }

    #[test]
    fn what_may_have_been_missed_ends_the_wait_at_once() {
        let mut table = Table::default();
        let (_, mut early) = wait(&mut table, &["l/1"], 10);
        let (_, mut current) = wait(&mut table, &["l/1"], 12);
        table.created(1, 12);
        assert!(matches!(woken(&mut early), Some(Wake::Stale)));
        assert!(woken(&mut current).is_none());
        table.event(1, gone("l/9", 13));
        // It looked at 12, so the deletion at 13 came between its look and its wait.
        assert!(matches!(woken(&mut wait(&mut table, &["l/9"], 12).1), Some(Wake::Gone)));
        assert!(woken(&mut wait(&mut table, &["l/9"], 13).1).is_none());
        for revision in 14..=u64::try_from(RING).unwrap() + 13 {
            table.event(1, gone("l/x", revision));
        }
        assert!(matches!(woken(&mut wait(&mut table, &["l/5"], 12).1), Some(Wake::Stale)));
        assert!(woken(&mut wait(&mut table, &["l/5"], 13).1).is_none());
    }

    #[test]
    fn a_change_wakes_those_who_wait_for_changes() {
        let mut table = Table::default();
        let (_, mut holder) = wait(&mut table, &["l/1"], 10);
        table.created(1, 10);
        let mut register = |changes| table.register("l/", vec![key("l/1")], 10, changes);
        let (_, mut reader, order) = register(Changes::Awaited);
        let open = Order::Open { watch: 2, prefix: key("l/"), puts: true, replaces: Some(1) };
        assert_eq!(order, Some(open));
        let (_, mut permit, order) = register(Changes::Ignored);
        assert_eq!(order, None);
        // What the first watch still brings is seen again by the second.
        table.event(1, gone("l/1", 11));
        table.created(2, 10);
        table.event(2, News { stands: true, ..gone("l/1", 12) });
        assert!(matches!(woken(&mut reader), Some(Wake::Gone)));
        assert!(woken(&mut holder).is_none() && woken(&mut permit).is_none());
        assert!(woken(&mut wait(&mut table, &["l/1"], 11).1).is_none());
        let (_, mut late, _) = table.register("l/", vec![key("l/1")], 11, Changes::Awaited);
        assert!(matches!(woken(&mut late), Some(Wake::Gone)));
        table.event(2, gone("l/1", 13));
        assert!(matches!(woken(&mut holder), Some(Wake::Gone)));
        assert!(matches!(woken(&mut permit), Some(Wake::Gone)));
    }

    #[test]
    fn a_watch_outlives_its_waits_until_its_news_are_in_vain() {
        let mut table = Table::default();
        let (id, _woken) = wait(&mut table, &["l/1"], 10);
        table.created(1, 10);
        assert_eq!(table.deregister(id), None);
        let (id, _woken, order) = table.register("l/", vec![key("l/1")], 10, Changes::Unwatched);
        assert_eq!(order, None);
        table.deregister(id);
        assert_eq!(table.deregister(id), None);
        let ring = u64::try_from(RING).unwrap();
        let orders: Vec<_> =
            (0..=ring).filter_map(|at| table.event(1, gone("l/x", 11 + at))).collect();
        assert_eq!(orders, [Order::Close { watch: 1 }]);
        assert!(!table.knows(1) && table.idle.is_empty() && table.waiting.is_empty());
    }

    #[test]
    fn too_many_idle_watches_end_the_oldest() {
        let mut table = Table::default();
        let mut closed = Vec::new();
        for n in 0..=MAX_IDLE {
            let (id, _woken, _) =
                table.register(&format!("{n}/"), vec![key("k")], 1, Changes::Unwatched);
            closed.extend(table.deregister(id));
        }
        assert_eq!(closed, [Order::Close { watch: 1 }]);
    }

    #[test]
    fn the_end_of_the_stream_wakes_all() {
        let mut table = Table::default();
        let (id, mut waiter) = wait(&mut table, &["l/1"], 10);
        table.confirm("l/", &key("l/1"), 10);
        assert_eq!(table.confirmed("l/", &key("l/1")), Some(10));
        table.clear(&Wake::Stale);
        assert!(matches!(woken(&mut waiter), Some(Wake::Stale)));
        assert_eq!(table.deregister(id), None);
        assert_eq!(table.confirmed("l/", &key("l/1")), None);
    }
}
