//! What the manager's tasks share about one lock: the highest token, and the waiters' safety net.
//!
//! The store's wake-ups are trusted for speed, never for liveness. While a lock has local waiters,
//! one listing each min(TTL, 10 s) decides for all of them whether they have to look again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;

use super::context::Context;
use crate::backend::{AttemptId, Entry, EntryId, Mode};
use crate::clock::{Clock, limited};
use crate::name::LockName;

/// The state of one lock in this manager.
#[derive(Debug)]
pub(crate) struct LockState {
    pub(crate) name: LockName,
    highest: Mutex<u64>,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    by_attempt: BTreeMap<AttemptId, Waiter>,
    /// Whether a sweep is under way: one for all, also when the last waiter goes and another comes.
    swept: bool,
}

#[derive(Debug)]
struct Waiter {
    entry: EntryId,
    mode: Mode,
    blockers: Vec<Arc<str>>,
    nudge: Arc<Notify>,
}

/// One place among the waiters; leaves it on drop.
#[derive(Debug)]
pub(crate) struct WaiterPlace {
    lock: Arc<LockState>,
    attempt: AttemptId,
    nudge: Arc<Notify>,
}

impl LockState {
    pub(crate) fn new(name: LockName) -> Self {
        Self { name, highest: Mutex::new(0), waiters: Mutex::default() }
    }

    /// Notes the token of a new grant. `Err` with the highest one seen when it is not larger than
    /// every exclusive one before it: the store went back.
    pub(crate) fn note(&self, token: u64, mode: Mode) -> Result<(), u64> {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        if token <= *highest {
            return Err(*highest);
        }
        if matches!(mode, Mode::Exclusive | Mode::Permit { limit: 1 }) {
            *highest = token;
        }
        Ok(())
    }

    /// Joins the waiters; one who finds no sweep starts it.
    pub(crate) fn join(
        self: &Arc<Self>,
        context: &Arc<Context>,
        attempt: AttemptId,
        entry: &EntryId,
        mode: Mode,
    ) -> WaiterPlace {
        let nudge = Arc::new(Notify::new());
        let waiter =
            Waiter { entry: entry.clone(), mode, blockers: Vec::new(), nudge: Arc::clone(&nudge) };
        let mut waiters = self.waiters();
        waiters.by_attempt.insert(attempt, waiter);
        let swept = std::mem::replace(&mut waiters.swept, true);
        drop(waiters);
        if !swept {
            let (weak, clock) = (Arc::downgrade(context), Arc::clone(&context.clock));
            context.threads.on_herald(sweep(weak, Arc::clone(self), clock));
        }
        WaiterPlace { lock: Arc::clone(self), attempt, nudge }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody waits; the sweep ends then, and the next waiter starts another.
    fn rests(&self) -> bool {
        let mut waiters = self.waiters();
        waiters.swept = !waiters.by_attempt.is_empty();
        !waiters.swept
    }

    /// Nudges those whose entry or blocker is not in the queue any more, and shared ones whose
    /// blocker became shared by a downgrade; permits always, for the queue does not show the change
    /// that they wait for.
    fn compare(&self, queue: &[Entry]) {
        let standing: HashMap<&str, Mode> =
            queue.iter().map(|entry| (&*entry.id.key, entry.mode)).collect();
        for waiter in self.waiters().by_attempt.values() {
            let blocks = |blocker: &Arc<str>| match standing.get(&**blocker) {
                Some(Mode::Shared) => waiter.mode != Mode::Shared,
                Some(_) => true,
                None => false,
            };
            let moved = matches!(waiter.mode, Mode::Permit { .. })
                || !standing.contains_key(&*waiter.entry.key)
                || !waiter.blockers.iter().all(blocks);
            if moved {
                waiter.nudge.notify_one();
            }
        }
    }
}

impl WaiterPlace {
    /// Says whom this waiter waits for now.
    pub(crate) fn wait_for(&self, blockers: &[Arc<str>]) {
        if let Some(waiter) = self.lock.waiters().by_attempt.get_mut(&self.attempt) {
            waiter.blockers = blockers.to_vec();
        }
    }

    /// Completes when the sweep found that something moved.
    pub(crate) async fn nudged(&self) {
        self.nudge.notified().await;
    }
}

impl Drop for WaiterPlace {
    fn drop(&mut self) {
        self.lock.waiters().by_attempt.remove(&self.attempt);
    }
}

/// Keeps neither the manager nor its threads alive.
async fn sweep(context: Weak<Context>, lock: Arc<LockState>, clock: Arc<dyn Clock>) {
    loop {
        let Some(interval) = context.upgrade().map(|context| interval(&context)) else { return };
        clock.sleep_until(clock.now().after(interval)).await;
        let Some(context) = context.upgrade() else { return };
        if lock.rests() {
            return;
        }
        let queue = context.backend.queue(&lock.name);
        match limited(&*clock, interval, queue).await {
            Some(Ok(queue)) => lock.compare(&queue),
            Some(Err(error)) => tracing::debug!(%error, "the sweep could not list the queue"),
            None => tracing::debug!("the sweep's listing went unanswered"),
        }
    }
}

pub(super) fn interval(context: &Context) -> Duration {
    context.options.ttl.min(Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mode::{Exclusive, Shared};
    use futures_util::FutureExt;

    const LIMITED: Mode = Mode::Permit { limit: 2 };

    fn entry(key: &str, position: u64, mode: Mode) -> Entry {
        Entry { id: EntryId { key: key.into(), position }, mode }
    }

    /// Whether one who waits as `mode` for `blocker` is nudged by a listing of `queue`.
    fn nudged(mode: Mode, queue: &[Entry]) -> bool {
        let lock = LockState::new(LockName::new("a").unwrap());
        let nudge = Arc::new(Notify::new());
        let waiter = Waiter {
            entry: entry("own", 2, mode).id,
            mode,
            blockers: vec!["blocker".into()],
            nudge: Arc::clone(&nudge),
        };
        lock.waiters().by_attempt.insert(AttemptId(1), waiter);
        lock.compare(queue);
        nudge.notified().now_or_never().is_some()
    }

    #[test]
    fn the_sweep_nudges_those_who_may_have_their_turn() {
        for (mode, blocker, expected) in [
            (Exclusive, Exclusive, false),
            (Exclusive, Shared, false),
            (Shared, Exclusive, false),
            // It was not shared when the wait began.
            (Shared, Shared, true),
            (LIMITED, LIMITED, true),
        ] {
            let own = entry("own", 2, mode);
            let queue = [entry("blocker", 1, blocker), own.clone()];
            assert_eq!(nudged(mode, &queue), expected, "{mode:?} behind {blocker:?}");
            assert!(nudged(mode, &queue[..1]), "{mode:?}: the own entry is gone");
            assert!(nudged(mode, &[own]), "{mode:?}: the blocker is gone");
        }
    }
}
