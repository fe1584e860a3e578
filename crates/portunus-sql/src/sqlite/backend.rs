//! The verbs of a lock, each one transaction.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use portunus_core::backend::{
    Attempt, Capabilities, Entered, EntryId, Left, LockBackend, Mode, Renewal, Session,
    TokenStrength, Turn,
};
use portunus_core::clock::{BootClock, Clock};
use portunus_core::error::{Error, ErrorKind, Result};

use super::config::SqliteConfig;
use super::connection::Open;
use super::enter::{self, Change};
use super::error::STORE;
use super::line::{Line, Purpose};
use super::onward::{Back, read_onward};
use super::precedence::{Manners, Precedence};
use super::queue;
use super::session::{self, lost};
use super::watch::{Subject, Watcher};
use crate::rows::{self, Keys};
use crate::sessions::Liveness;

/// The longest value of a leader, in bytes of UTF-8: 128 KiB. SQLite would take more; with this one a
/// value fits other stores too.
pub const MAX_VALUE_BYTES: usize = 128 * 1024;

/// Locks in an SQLite file.
pub struct Sqlite {
    config: SqliteConfig,
    pub(super) keys: Keys,
    pub(super) liveness: Arc<Liveness>,
    pub(super) requests: Arc<Line>,
    /// A connection for sessions alone: those requests of ours that have not begun let a renewal go first.
    /// One that has begun holds it up for a sync of the disk.
    renewals: Line,
    pub(super) watcher: Arc<Watcher>,
}

impl Sqlite {
    /// Prepares the backend. Opens the file with the first request.
    #[must_use]
    pub fn new(config: SqliteConfig) -> Self {
        Self::with_clock(config, Arc::new(BootClock::new()))
    }

    /// The same by another clock. Sessions of one kernel compare their times: those who use the file
    /// together need the same clock.
    #[must_use]
    pub fn with_clock(config: SqliteConfig, clock: Arc<dyn Clock>) -> Self {
        let liveness = Arc::new(Liveness::new(clock));
        let line = |thread, manners| Line::new(thread, config.place().clone(), manners);
        let precedence = Arc::new(Precedence::default());
        let gives_way = Manners::GivesWay(Arc::clone(&precedence));
        let watcher = Watcher::new(config.place().clone(), Arc::clone(&liveness));
        Self {
            keys: config.keys(),
            requests: Arc::new(line("portunus-sqlite", gives_way)),
            renewals: line("portunus-sqlite-renew", Manners::Goes(precedence)),
            watcher: Arc::new(watcher),
            liveness,
            config,
        }
    }

    async fn change(
        &self,
        operation: &'static str,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        change: Change,
    ) -> Result<()> {
        let (owned, position) = (attempt.clone(), position_of(entry));
        let liveness = Arc::clone(&self.liveness);
        let changing =
            self.requests.run(purpose(operation, session, attempt), move |open| match position {
                Some(position) => {
                    enter::change(&mut open.connection, &liveness, &owned, position, &change)
                }
                None => Ok(false),
            });
        if changing.await? {
            self.watcher.nudge();
            return Ok(());
        }
        Err(lost(operation).with_key(attempt.name.as_str()).with_detail("the entry is gone"))
    }
}

/// Names the file: errors of the engine show it.
impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.config.path();
        f.debug_struct("Sqlite")
            .field("path", &path)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl LockBackend for Sqlite {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            store: STORE,
            fifo: true,
            shared: true,
            permits: true,
            convert: true,
            push: true,
            strength: TokenStrength::Durable,
            crash_release: true,
            // A sync of a busy disk takes tens of milliseconds, and a sixth of this is a request's time.
            min_ttl: Duration::from_millis(500),
            max_ttl: Duration::from_secs(24 * 3600),
            fail_over: Duration::ZERO,
            max_value: MAX_VALUE_BYTES,
        }
    }

    async fn open_session(&self, ttl: Duration) -> Result<Session> {
        self.capabilities().check_ttl(ttl)?;
        let liveness = Arc::clone(&self.liveness);
        let undoing = Arc::clone(&liveness);
        let purpose = Purpose { operation: "open_session", key: None, patience: OBSERVER_PATIENCE };
        let opening = self.renewals.run_or_undo(
            purpose,
            move |open| session::open(&mut open.connection, &liveness, ttl),
            // Nobody would know of this one.
            move |(id, _), open| drop(session::close(&mut open.connection, &undoing, id)),
        );
        let (id, incarnation) = opening.await?;
        Ok(Session::leased(id, incarnation, ttl))
    }

    async fn renew(&self, session: &Session, held: &[Arc<Attempt>]) -> Result<Renewal> {
        let (id, liveness, held) = (session.id, Arc::clone(&self.liveness), held.to_vec());
        let purpose = Purpose { operation: "renew", key: None, patience: patience(session) };
        let renewing = move |open: &mut Open| {
            session::renew(&mut open.connection, &liveness, id)?;
            Ok(Renewal { lost: session::missing(&open.connection, id, &held)? })
        };
        let renewed = self.renewals.run(purpose, renewing).await;
        if renewed.as_ref().is_err_and(|error| error.kind() == ErrorKind::Lost) {
            self.liveness.confirmed.forget(id);
        }
        renewed
    }

    async fn close_session(&self, session: &Session) -> Result<()> {
        let id = session.id;
        let purpose =
            Purpose { operation: "close_session", key: None, patience: patience(session) };
        let liveness = Arc::clone(&self.liveness);
        let closing = move |open: &mut Open| session::close(&mut open.connection, &liveness, id);
        self.requests.run(purpose, closing).await?;
        self.watcher.nudge();
        Ok(())
    }

    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        let (id, owned, key) = (session.id, attempt.clone(), self.keys.key(&attempt.name));
        let liveness = Arc::clone(&self.liveness);
        let entering = self.requests.run(purpose("enter", session, attempt), move |open| {
            enter::enter(&mut open.connection, &liveness, id, &owned, &key)
        });
        let entered = entering.await?;
        // For those who follow the head.
        self.watcher.nudge();
        Ok(entered)
    }

    async fn look(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        let (owned, wanted) = (attempt.clone(), entry.clone());
        let (key, liveness) = (self.keys.key(&attempt.name), Arc::clone(&self.liveness));
        let looking =
            self.requests.run(purpose("look", session, attempt), move |open| {
                // Both halves of a grant on one state of the file: the entry stands, and none before it.
                let back = Back(ErrorKind::Lost, "look");
                let (turn, is_marked) =
                    read_onward(&mut open.connection, &liveness, back, |transaction| {
                        match queue::own(transaction, owned.id)? {
                            Some(own) if !own.is_ended && own.entry.id == wanted => {
                                Ok((queue::turn(transaction, &key, own.entry)?, own.is_marked))
                            }
                            _ => Ok((Turn::Lost, true)),
                        }
                    })?;
                let is_permit = matches!(owned.mode, Mode::Permit { .. });
                let has_come = matches!(turn, Turn::Held { .. }) && is_permit && !is_marked;
                if has_come
                    && !enter::change(
                        &mut open.connection,
                        &liveness,
                        &owned,
                        wanted.position,
                        &Change::Mark,
                    )?
                {
                    return Ok((Turn::Lost, true));
                }
                Ok((turn, has_come))
            });
        let (turn, is_changed) = looking.await?;
        if is_changed {
            self.watcher.nudge();
        }
        Ok(turn)
    }

    async fn changed(
        &self,
        _session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        turn: &Turn,
    ) -> Result<()> {
        let (blockers, as_of) = match turn {
            Turn::Waiting { blockers, as_of } => (blockers.as_slice(), *as_of),
            Turn::Held { .. } => (&[][..], 0),
            Turn::Lost => return Ok(()),
        };
        let blockers: Option<Vec<u64>> = blockers.iter().map(|key| rows::position(key)).collect();
        let (Some(blockers), Some(own)) = (blockers, position_of(entry)) else { return Ok(()) };
        let subject = Subject::Turn { own, blockers, as_of };
        self.watcher.watch(self.keys.key(&attempt.name), subject)?.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, STORE, "changed")
                .with_detail("it watches no more"))
        })
    }

    async fn leave(&self, session: &Session, attempt: &Attempt, in_doubt: bool) -> Result<Left> {
        let (id, owned) = (session.id, attempt.clone());
        let leaving = self.requests.run(purpose("leave", session, attempt), move |open| {
            enter::leave(&mut open.connection, id, &owned, in_doubt)
        });
        let left = leaving.await?;
        self.watcher.nudge();
        Ok(left)
    }

    async fn convert(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<()> {
        self.change("convert", session, attempt, entry, Change::Share).await
    }

    async fn publish(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: &str,
    ) -> Result<()> {
        let value = Change::Publish(value.to_owned());
        self.change("publish", session, attempt, entry, value).await
    }
}

fn purpose<'a>(operation: &'static str, session: &Session, attempt: &'a Attempt) -> Purpose<'a> {
    Purpose { operation, key: Some(attempt.name.as_str()), patience: patience(session) }
}

/// How long a request may wait for the file's lock: less than the engine waits for its answer, so that
/// the answer is a definite one. Nor so long that those behind it in the line wait for ever.
fn patience(session: &Session) -> Duration {
    (session.request_timeout * 3 / 4).min(LONGEST_PATIENCE)
}

/// The row of an entry, if the entry can be one of ours.
pub(super) fn position_of(entry: &EntryId) -> Option<u64> {
    rows::position(&entry.key).filter(|position| *position == entry.position)
}

const LONGEST_PATIENCE: Duration = Duration::from_secs(5);
/// The same for those who have no session.
pub(super) const OBSERVER_PATIENCE: Duration = Duration::from_secs(1);
