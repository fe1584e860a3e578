//! Waiting: one task and one connection for all who wait, and only then.
//!
//! Where the server tells of changes, being told is a hint for when to look. Behind a pooler that hands
//! the session to others nothing is ever told, and no setting says so: therefore the task looks often
//! until it was told something, then seldom; and often again when a look finds a change that it should
//! have been told of.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portunus_core::clock::Moment;
use portunus_core::error::{Error, ErrorKind, Result};
use tokio::sync::{Notify, oneshot};

use super::failure::Fallible;
use super::line::{Dialer, Errand};
use super::session::settle;
use super::standings::Standings;
use super::tables::{Database, Tables};
pub(super) use super::watches::Subject;
use super::watches::{Watch, Watches};

/// The task, and those who wait for it. Ends with this value.
#[derive(Debug)]
pub(super) struct Watcher<D>(Arc<Shared<D>>);

#[derive(Debug)]
struct Shared<D> {
    dialer: Dialer<D>,
    state: Mutex<State>,
    wake: Notify,
    /// The server was seen to tell of changes.
    is_told: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    watches: Watches,
    /// Keys at which this process changed something.
    nudged: HashSet<String>,
    is_running: bool,
    is_over: bool,
}

impl<D: Database> Watcher<D> {
    pub(super) fn new(dialer: Dialer<D>) -> Self {
        Self(Arc::new(Shared {
            dialer,
            state: Mutex::default(),
            wake: Notify::new(),
            is_told: AtomicBool::new(false),
        }))
    }

    /// Begins to wait; the answer completes when it may have come. Dropping it ends the waiting.
    pub(super) fn watch(&self, key: String, subject: Subject) -> oneshot::Receiver<Result<()>> {
        let (tell, told) = oneshot::channel();
        let mut state = self.0.state();
        state.watches.insert(Watch { key, subject, tell });
        let is_running = std::mem::replace(&mut state.is_running, true);
        drop(state);
        if is_running {
            self.0.wake.notify_one();
        } else {
            // With the state unlocked: a runtime that shuts down drops the task at once.
            tokio::spawn(Running(Arc::clone(&self.0)).run());
        }
        told
    }

    /// Says that this process changed something at a key.
    pub(super) fn nudge(&self, key: &str) {
        let is_told = self.0.is_told.load(Ordering::Relaxed);
        let mut state = self.0.state();
        // Of what makes no difference to those who wait for their turn the server tells nothing.
        let is_news = |subject: &Subject| !is_told || matches!(subject, Subject::Head { .. });
        if state.watches.has(key, is_news) && state.nudged.insert(key.to_owned()) {
            drop(state);
            self.0.wake.notify_one();
        }
    }

    /// The same for all keys.
    pub(super) fn nudge_all(&self) {
        let mut state = self.0.state();
        state.nudged = state.watches.keys().into_iter().collect();
        if !state.nudged.is_empty() {
            drop(state);
            self.0.wake.notify_one();
        }
    }
}

impl<D> Drop for Watcher<D> {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.wake.notify_one();
    }
}

impl<D> Shared<D> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That the task runs. When its runtime ends those who wait look for themselves, and who comes next
/// starts another.
struct Running<D>(Arc<Shared<D>>);

impl<D> Drop for Running<D> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_running = false;
        drop(state.watches.clear());
    }
}

impl<D: Database> Running<D> {
    async fn run(self) {
        let shared = &*self.0;
        let mut eye: Option<Eye<D::Tables>> = None;
        while let Some(look) = next(shared, &mut eye).await {
            let looking = async {
                let eye = match &mut eye {
                    Some(eye) => eye,
                    None => eye.insert(Eye::open(shared).await?),
                };
                eye.look(shared, look).await
            };
            let looked = shared.dialer.limited(LONGEST, looking).await;
            if let Err(failure) = looked {
                // Those who wait look for themselves, and come back.
                eye = None;
                shared.is_told.store(false, Ordering::Relaxed);
                let error = Errand::of_all("changed").fail::<D>(failure);
                let error = match error.kind() {
                    // Only this connection has failed; what it asked for was a reading.
                    ErrorKind::Unconfirmed => {
                        Error::new(ErrorKind::Unavailable, D::STORE, "changed").with_source(error)
                    }
                    _ => error,
                };
                let watches = shared.state().watches.clear();
                watches.into_iter().for_each(|watch| drop(watch.tell.send(Err(error.clone()))));
            }
        }
    }
}

/// What to look at.
struct Look {
    /// Keys of which something was said.
    said: HashSet<String>,
    /// It is time to look at all.
    is_timed: bool,
}

/// Waits until there is something to look at; `None` at the end.
async fn next<D: Database>(shared: &Shared<D>, eye: &mut Option<Eye<D::Tables>>) -> Option<Look> {
    loop {
        let has_waiters = {
            let mut state = shared.state();
            if state.is_over {
                return None;
            }
            let mut keys = std::mem::take(&mut state.nudged);
            if state.watches.has_fresh() {
                keys.extend(state.watches.take_fresh());
                if let Some(eye) = eye {
                    eye.quicken(shared.dialer.liveness.beats.stamp());
                }
            }
            keys.retain(|key| state.watches.has(key, |_| true));
            let has_waiters = !state.watches.is_empty();
            // However often something is said of some keys: of the others perhaps nothing ever is.
            let is_due =
                |eye: &Eye<_>| has_waiters && shared.dialer.liveness.beats.is_past(eye.next);
            let is_timed = eye.as_ref().is_some_and(is_due);
            if is_timed || !keys.is_empty() {
                return Some(Look { said: keys, is_timed });
            }
            has_waiters
        };
        let Some(eye) = eye else {
            // Each who comes is new, and makes it look.
            shared.wake.notified().await;
            continue;
        };
        let pause = async {
            match has_waiters {
                true => shared.dialer.clock.sleep_until(eye.next).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            told = eye.tables.told() => match told {
                Ok(keys) => {
                    shared.is_told.store(true, Ordering::Relaxed);
                    shared.state().nudged.extend(keys);
                }
                // The next look says why.
                Err(_) => return Some(Look { said: HashSet::new(), is_timed: true }),
            },
            () = shared.wake.notified() => {}
            () = pause => {}
        }
    }
}

/// A connection, and when to look by it.
struct Eye<T> {
    tables: T,
    /// When to look at all that is waited for.
    next: Moment,
    /// How long after a look.
    pace: Duration,
    /// When to read all of the queues, and not their beginnings alone.
    whole: Moment,
    /// When to look at the sessions.
    settle: Moment,
}

impl<T: Tables> Eye<T> {
    async fn open<D: Database<Tables = T>>(shared: &Shared<D>) -> Fallible<Self> {
        let mut tables = shared.dialer.connect().await?;
        tables.listen().await?;
        let begun = Moment::default();
        Ok(Self { tables, next: begun, pace: QUICK, whole: begun, settle: begun })
    }

    /// Somebody is new, and what he waits for may be about to come, untold: who left looked for
    /// somebody to tell before there was one.
    fn quicken(&mut self, now: Moment) {
        self.pace = QUICK;
        self.next = self.next.min(now.after(QUICK));
    }

    async fn look<D: Database<Tables = T>>(
        &mut self,
        shared: &Shared<D>,
        look: Look,
    ) -> Fallible<()> {
        let beats = &shared.dialer.liveness.beats;
        let begun = beats.stamp();
        let awaits_others = shared.state().watches.any(Subject::awaits_others);
        if awaits_others && beats.is_past(self.settle) {
            match settle(&mut self.tables, &shared.dialer.liveness).await {
                Ok(settled) => {
                    let soon = beats.stamp().after(settled.shortest / SAMPLES);
                    self.settle = soon.min(settled.look_again);
                }
                // Somebody else is at it: at the next look again.
                Err(failure) if failure.spares_connection() => {}
                Err(failure) => return Err(failure),
            }
        }
        let Look { said, is_timed } = look;
        let is_whole = is_timed && beats.is_past(self.whole);
        let (keys, most_blockers): (Vec<_>, _) = {
            let mut state = shared.state();
            let keys = match is_timed {
                true => {
                    state.watches.sweep();
                    state.watches.keys()
                }
                false => said.iter().cloned().collect(),
            };
            (keys, state.watches.most_blockers())
        };
        let beginning = u32::try_from(2 * most_blockers).unwrap_or(u32::MAX).max(BEGINNING);
        let limit = if is_whole { u32::MAX } else { beginning };
        let rows = self.tables.standing(&keys, limit).await?;
        let mut queues: HashMap<String, Standings> =
            keys.into_iter().map(|key| (key, Standings::new(limit))).collect();
        for row in rows {
            if let Some(queue) = queues.get_mut(&row.key) {
                queue.push(row.position, row.revision);
            }
        }
        let mut come = Vec::new();
        {
            let mut state = shared.state();
            for (key, standings) in &queues {
                come.extend(state.watches.take_come(key, standings));
            }
        }
        let is_untold = |watch: &Watch| {
            matches!(watch.subject, Subject::Turn { .. }) && !said.contains(&watch.key)
        };
        if come.iter().any(is_untold) {
            shared.is_told.store(false, Ordering::Relaxed);
        }
        come.into_iter().for_each(|watch| drop(watch.tell.send(Ok(()))));
        if is_timed {
            self.plan(shared, begun, awaits_others, is_whole);
        }
        Ok(())
    }

    /// Says when to look again: looking takes at most a tenth of the time.
    fn plan<D>(&mut self, shared: &Shared<D>, begun: Moment, awaits_others: bool, was_whole: bool) {
        let now = shared.dialer.liveness.beats.stamp();
        let rest = now.since(begun) * 9;
        let longest = match awaits_others && !shared.is_told.load(Ordering::Relaxed) {
            true => QUICK,
            false => CALM,
        };
        let pace = self.pace.min(longest);
        // So that managers do not look all at once.
        self.next = now.after(pace.mul_f64(rand::random_range(0.75..1.25)).max(rest));
        self.pace = (pace * 2).min(CALM);
        if awaits_others {
            // Who crashed is found in time, whatever the pace.
            self.next = self.next.min(self.settle.max(now.after(rest)));
        }
        if was_whole {
            self.whole = now.after(CALM.max(rest));
        }
    }
}

/// How long a look may take. Then its connection has fallen silent, and those who wait look for
/// themselves.
const LONGEST: Duration = Duration::from_secs(5);
/// How often it looks while nothing is told: a hand-over between processes takes that long.
const QUICK: Duration = Duration::from_millis(25);
/// How often otherwise.
const CALM: Duration = Duration::from_secs(1);
/// How many of a queue are read at least. Of ten thousand who wait in one, a hand-over concerns the
/// first.
const BEGINNING: u32 = 64;
/// How often in a time to live the sessions are looked at: a crash is found by a fraction of it later
/// than it could be.
const SAMPLES: u32 = 8;
