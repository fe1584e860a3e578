//! Renewals before all else: a manager's own requests would take the file's lock again and again while
//! its renewal asks for it, and SQLite lets nobody queue.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

/// How many renewals there are to do.
#[derive(Debug, Default)]
pub(super) struct Precedence {
    renewals: Mutex<usize>,
    none: Condvar,
}

/// A renewal, from when it is asked for to its end.
#[derive(Debug)]
pub(super) struct Renewing(Arc<Precedence>);

/// What a line does when both want the file's lock.
#[derive(Debug, Clone)]
pub(super) enum Manners {
    Goes(Arc<Precedence>),
    GivesWay(Arc<Precedence>),
}

impl Precedence {
    fn renewals(&self) -> MutexGuard<'_, usize> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_way(&self, patience: Duration) {
        let wait = self.none.wait_timeout_while(self.renewals(), patience, |count| *count > 0);
        drop(wait);
    }
}

impl Manners {
    /// Takes effect as soon as the request is made, not only when its turn comes.
    pub(super) fn claim(&self) -> Option<Renewing> {
        match self {
            Self::Goes(precedence) => {
                *precedence.renewals() += 1;
                Some(Renewing(Arc::clone(precedence)))
            }
            Self::GivesWay(_) => None,
        }
    }

    /// Waits for the renewals that there are; not for long, for theirs may be a wait for others.
    pub(super) fn wait(&self, patience: Duration) {
        if let Self::GivesWay(precedence) = self {
            precedence.give_way(patience / 4);
        }
    }

    /// Sets how a connection waits for the file's lock. SQLite's own way is to ask less and less often,
    /// which loses against all who come later.
    pub(super) fn set(
        &self,
        connection: &mut Connection,
        patience: Duration,
    ) -> rusqlite::Result<()> {
        match self {
            Self::GivesWay(_) => connection.busy_timeout(patience),
            Self::Goes(_) => {
                let times = patience.as_millis() / PERIOD.as_millis();
                TIMES.set(i32::try_from(times).unwrap_or(i32::MAX));
                connection.busy_handler(Some(ask_again))
            }
        }
    }
}

impl Drop for Renewing {
    fn drop(&mut self) {
        *self.0.renewals() -= 1;
        self.0.none.notify_all();
    }
}

thread_local! {
    /// How often this thread's request may ask again: SQLite hands its handler no more than a count.
    static TIMES: Cell<i32> = const { Cell::new(0) };
}

fn ask_again(asked: i32) -> bool {
    let is_patient = asked < TIMES.get();
    if is_patient {
        std::thread::sleep(PERIOD);
    }
    is_patient
}

/// Short beside a sync of the disk.
const PERIOD: Duration = Duration::from_millis(1);
