//! Waiting: one thread that looks whether the file changed, for all who wait, and only then.
//!
//! SQLite tells nobody of a change; asking it whether there was one (`PRAGMA data_version`) costs a
//! few microseconds. Whoever leaves in this process says so, and is not waited for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portunus_core::clock::Moment;
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::Incarnation;
use tokio::sync::oneshot;

use super::connection::Open;
use super::error::{Fallible, STORE};
use super::place::Place;
use super::queue::natural;
use super::session::settle;
use crate::sessions::Liveness;

/// What somebody waits for.
#[derive(Debug)]
pub(super) enum Subject {
    /// That it may be an entry's turn, or that the entry is gone.
    Turn {
        own: u64,
        /// Those before it, none for one that holds.
        blockers: Vec<u64>,
        /// At which position they were read.
        as_of: u64,
    },
    /// That the file is no longer at this position, be it further or, put back from a copy, before it.
    Head { as_of: u64 },
}

/// The thread, and those who wait for it. Ends with this value.
#[derive(Debug)]
pub(super) struct Watcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    place: Place,
    liveness: Arc<Liveness>,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    watches: BTreeMap<u64, Watch>,
    next: u64,
    is_running: bool,
    is_over: bool,
    /// This process changed something.
    is_nudged: bool,
}

#[derive(Debug)]
struct Watch {
    key: String,
    subject: Subject,
    /// What it waits for may have come before it began to wait.
    is_new: bool,
    tell: oneshot::Sender<Result<()>>,
}

impl Watcher {
    pub(super) fn new(place: Place, liveness: Arc<Liveness>) -> Self {
        let shared = Shared { place, liveness, state: Mutex::default(), wake: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Begins to wait; the answer completes when it may have come. Dropping it ends the waiting.
    pub(super) fn watch(
        &self,
        key: String,
        subject: Subject,
    ) -> Result<oneshot::Receiver<Result<()>>> {
        let (tell, told) = oneshot::channel();
        let mut state = self.shared.state();
        if !state.is_running {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("portunus-sqlite-watch".to_owned());
            thread.spawn(move || shared.run()).map_err(|cause| {
                Error::new(ErrorKind::Unavailable, STORE, "changed").with_source(cause)
            })?;
            state.is_running = true;
        }
        let number = state.next;
        state.next += 1;
        state.watches.insert(number, Watch { key, subject, is_new: true, tell });
        drop(state);
        self.shared.wake.notify_one();
        Ok(told)
    }

    /// Says that this process changed something.
    pub(super) fn nudge(&self) {
        let mut state = self.shared.state();
        if !state.watches.is_empty() {
            state.is_nudged = true;
            drop(state);
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let _running = Running(self);
        let mut eye: Option<Eye> = None;
        while self.wait() {
            let looked = match &mut eye {
                Some(eye) => eye.look(self),
                None => Open::new(&self.place, PATIENCE)
                    .and_then(|open| eye.insert(Eye::new(open)).look(self)),
            };
            if let Err(failure) = looked {
                // Those who wait look for themselves, and come back.
                eye = None;
                let error = failure.into_error("changed", None);
                for watch in std::mem::take(&mut self.state().watches).into_values() {
                    let _ = watch.tell.send(Err(error.clone()));
                }
            }
        }
    }

    /// Waits for the next look: not at all for those who are new, else a little while; as long as
    /// nobody waits, until somebody does. `false` at the end.
    fn wait(&self) -> bool {
        let mut state = self.state();
        let mut is_rested = false;
        loop {
            state.watches.retain(|_, watch| !watch.tell.is_closed());
            if state.is_over {
                return false;
            }
            if state.watches.is_empty() {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let is_urgent = state.is_nudged || state.watches.values().any(|watch| watch.is_new);
            if is_urgent || is_rested {
                return true;
            }
            let holds = |watch: &Watch| matches!(&watch.subject, Subject::Turn { blockers, .. } if blockers.is_empty());
            let rest = if state.watches.values().all(holds) { CALM } else { PERIOD };
            let waited = self.wake.wait_timeout(state, rest);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            (state, is_rested) = (guard, timeout.timed_out());
        }
    }
}

/// That the thread runs. After a panic those who wait look for themselves, and who comes next starts
/// another.
struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_running = false;
        state.watches.clear();
    }
}

/// What the thread saw at its last look.
struct Eye {
    open: Open,
    version: i64,
    position: u64,
    moved: u64,
    /// When a session may be found dead.
    look_again: Moment,
}

impl Eye {
    fn new(open: Open) -> Self {
        Self { open, version: -1, position: 0, moved: 0, look_again: Moment::default() }
    }

    fn look(&mut self, shared: &Shared) -> Fallible<()> {
        if !self.open.is_at(&shared.place) {
            let error = Error::new(ErrorKind::Unavailable, STORE, "changed");
            return Err(error.with_detail("the file was replaced").into());
        }
        let version = {
            let mut ask = self.open.connection.prepare_cached("PRAGMA data_version")?;
            ask.query_row([], |row| row.get(0))?
        };
        let is_changed = std::mem::replace(&mut self.version, version) != version;
        let is_due = shared.liveness.beats.is_past(self.look_again);
        let (is_nudged, is_new) = {
            let mut state = shared.state();
            let is_new = state.watches.values().any(|watch| watch.is_new);
            (std::mem::take(&mut state.is_nudged), is_new)
        };
        if !(is_changed || is_due || is_nudged || is_new) {
            return Ok(());
        }
        if is_changed || is_due {
            // What this ends is no change of the version, but of the numbers below.
            self.look_again = match settle(&mut self.open.connection, &shared.liveness) {
                // Somebody writes at length: at the next look again.
                Err(failure) if !failure.spoils_connection() => Moment::default(),
                settled => settled?,
            };
        }
        let (position, moved, life): (_, _, Vec<u8>) = {
            let mut read = self.open.connection.prepare_cached(NUMBERS)?;
            read.query_row([], |row| Ok((natural(row.get(0)?), natural(row.get(1)?), row.get(2)?)))?
        };
        if Incarnation::new(life)? != self.open.incarnation {
            // A copy of another one was put into it.
            let error = Error::new(ErrorKind::Unavailable, STORE, "changed");
            return Err(error.with_detail("the file has another life").into());
        }
        // A file that was put back from a copy may say nothing else that is new.
        let went_back = std::mem::replace(&mut self.position, position) > position;
        let has_moved = std::mem::replace(&mut self.moved, moved) != moved || went_back;
        let standing = self.standing(shared, has_moved)?;
        let mut state = shared.state();
        let mut told = Vec::new();
        for (number, watch) in &mut state.watches {
            let is_come = match &watch.subject {
                Subject::Head { as_of } => position != *as_of,
                Subject::Turn { own, blockers, as_of } => match standing.get(&watch.key) {
                    Some(standing) => {
                        let blocks =
                            |blocker| standing.get(blocker).is_some_and(|changed| changed <= as_of);
                        watch.is_new = false;
                        !standing.contains_key(own) || !blockers.iter().all(blocks)
                    }
                    None => false,
                },
            };
            if matches!(watch.subject, Subject::Head { .. }) {
                watch.is_new = false;
            }
            if is_come {
                told.push(*number);
            }
        }
        let told: Vec<Watch> =
            told.into_iter().filter_map(|number| state.watches.remove(&number)).collect();
        drop(state);
        for watch in told {
            let _ = watch.tell.send(Ok(()));
        }
        Ok(())
    }

    /// The queues in which somebody waits whose turn may have come: each position with that of its
    /// last change.
    fn standing(
        &self,
        shared: &Shared,
        has_moved: bool,
    ) -> Fallible<HashMap<String, HashMap<u64, u64>>> {
        let mut standing = HashMap::new();
        for watch in shared.state().watches.values() {
            let is_turn = matches!(watch.subject, Subject::Turn { .. });
            if is_turn && (has_moved || watch.is_new) && !standing.contains_key(&watch.key) {
                standing.insert(watch.key.clone(), HashMap::new());
            }
        }
        let mut read = self.open.connection.prepare_cached(
            "SELECT position, changed FROM portunus_entry WHERE key = ?1 AND ended = 0",
        )?;
        for (key, rows) in &mut standing {
            let mut found = read.query([key])?;
            while let Some(row) = found.next()? {
                rows.insert(natural(row.get(0)?), natural(row.get(1)?));
            }
        }
        Ok(standing)
    }
}

const NUMBERS: &str = "SELECT position, moved, incarnation FROM portunus_meta";
/// How often it looks while somebody waits for another: a hand-over between processes takes that long.
const PERIOD: Duration = Duration::from_millis(2);
/// How often while there are only holders, who learn of an eviction by it.
const CALM: Duration = Duration::from_millis(20);
/// How long it waits for the file's lock, to end a session that is dead.
const PATIENCE: Duration = Duration::from_millis(250);
