//! The verbs of a lock, each one transaction or less.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Attempt, Entered, EntryId, Left, Renewal, Session, Turn};
use portunus_core::clock::Clock;
use portunus_core::error::{Error, ErrorKind, Result};

use super::enter::{self, HasMarked};
use super::line::{Dialer, Errand, Line, lost};
use super::session;
use super::tables::{Change, Database, Tables};
use super::watch::{Subject, Watcher};
use crate::rows::{self, Keys};
use crate::sessions::Liveness;

/// Locks in the tables of one database. At most three connections, whatever the number of locks.
pub(crate) struct Server<D: Database> {
    pub(super) keys: Keys,
    /// For connections of other use.
    pub(crate) dialer: Dialer<D>,
    pub(super) liveness: Arc<Liveness>,
    pub(super) requests: Arc<Line<D>>,
    /// For sessions alone, so that no request delays a renewal.
    renewals: Line<D>,
    pub(super) watcher: Arc<Watcher<D>>,
}

impl<D: Database> Server<D> {
    pub(crate) fn new(database: D, keys: Keys, clock: Arc<dyn Clock>) -> Self {
        let database = Arc::new(database);
        let liveness = Arc::new(Liveness::new(Arc::clone(&clock)));
        let dialer = Dialer { database, liveness: Arc::clone(&liveness), clock };
        let watcher = Watcher::new(dialer.clone());
        Self {
            keys,
            requests: Arc::new(Line::new(dialer.clone())),
            renewals: Line::new(dialer.clone()),
            watcher: Arc::new(watcher),
            liveness,
            dialer,
        }
    }

    /// Makes the tables unless they are there, as each new connection does.
    pub(crate) async fn create_schema(&self) -> Result<()> {
        self.requests.take(Errand::of_all("create_schema")).await?.end(Ok(()))
    }

    /// Removes the rows of keys that nobody uses; how many.
    pub(crate) async fn prune(&self) -> Result<u64> {
        let mut taken = self.requests.take(Errand::of_all("prune")).await?;
        let done = taken.tables.prune().await;
        taken.end(done)
    }

    pub(crate) async fn open_session(&self, ttl: Duration) -> Result<Session> {
        D::capabilities().check_ttl(ttl)?;
        let mut taken = self.renewals.take(Errand::of_all("open_session")).await?;
        let opened = session::open(&mut taken.tables, &self.liveness, ttl).await;
        let incarnation = taken.tables.incarnation().clone();
        Ok(Session::leased(taken.end(opened)?, incarnation, ttl))
    }

    pub(crate) async fn renew(&self, session: &Session, held: &[Arc<Attempt>]) -> Result<Renewal> {
        let (id, liveness) = (session.id, &self.liveness);
        let renewing = async {
            let mut taken = self.renewals.take_for(session, Errand::of_all("renew")).await?;
            let done = session::renew(&mut taken.tables, liveness, D::STORE, id, held).await;
            taken.end(done)
        };
        let renewed = renewing.await;
        if renewed.as_ref().is_err_and(|error| error.kind() == ErrorKind::Lost) {
            liveness.confirmed.forget(id);
        }
        renewed
    }

    /// Whatever the life of the database is now: its row may have come over into another.
    pub(crate) async fn close_session(&self, session: &Session) -> Result<()> {
        self.liveness.confirmed.forget(session.id);
        let mut taken = self.requests.take(Errand::of_all("close_session")).await?;
        let done = taken.tables.close(session.id).await;
        taken.end(done)?;
        self.watcher.nudge_all();
        Ok(())
    }

    pub(crate) async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        let key = self.keys.key(&attempt.name);
        let errand = Errand::new("enter", attempt.name.as_str());
        let mut taken = self.requests.take_for(session, errand).await?;
        let (tables, liveness) = (&mut taken.tables, &self.liveness);
        let entering = enter::enter(tables, liveness, D::STORE, session.id, attempt, &key);
        let entered = entering.await;
        let entered = taken.end(entered)?;
        // For those who follow the head.
        self.watcher.nudge(&key);
        Ok(entered)
    }

    pub(crate) async fn look(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
    ) -> Result<Turn> {
        let key = self.keys.key(&attempt.name);
        let errand = Errand::new("look", attempt.name.as_str());
        let mut taken = self.requests.take_for(session, errand).await?;
        let looked = enter::look(&mut taken.tables, attempt, entry, &key).await;
        let (turn, HasMarked(is_changed)) = taken.end(looked)?;
        if is_changed {
            self.watcher.nudge(&key);
        }
        Ok(turn)
    }

    pub(crate) async fn changed(
        &self,
        attempt: &Attempt,
        entry: &EntryId,
        turn: &Turn,
    ) -> Result<()> {
        let (blockers, as_of) = match turn {
            Turn::Waiting { blockers, as_of } => (blockers.as_slice(), *as_of),
            Turn::Held { .. } => (&[][..], 0),
            Turn::Lost => return Ok(()),
        };
        let key = self.keys.key(&attempt.name);
        let blockers: Option<Vec<u64>> =
            blockers.iter().map(|blocker| rows::position_in(&key, blocker)).collect();
        let (Some(blockers), Some(own)) = (blockers, position_of(&key, entry)) else {
            return Ok(());
        };
        let subject = Subject::Turn { own, blockers, as_of };
        self.watcher.watch(key, subject).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, D::STORE, "changed")
                .with_detail("it watches no more"))
        })
    }

    pub(crate) async fn leave(
        &self,
        session: &Session,
        attempt: &Attempt,
        in_doubt: bool,
    ) -> Result<Left> {
        let errand = Errand::new("leave", attempt.name.as_str());
        let mut taken = self.requests.take_for(session, errand).await?;
        let left = match in_doubt {
            true => taken.tables.withdraw(session.id, attempt.id).await,
            false => taken.tables.remove(session.id, attempt.id).await,
        };
        let stood = taken.end(left)?;
        self.watcher.nudge(&self.keys.key(&attempt.name));
        Ok(if stood { Left::Removed } else { Left::Absent })
    }

    pub(crate) async fn change(
        &self,
        operation: &'static str,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        change: Change,
    ) -> Result<()> {
        let errand = Errand::new(operation, attempt.name.as_str());
        let gone =
            || errand.fail::<D>(lost::<D>(operation).with_detail("the entry is gone").into());
        let key = self.keys.key(&attempt.name);
        let position = position_of(&key, entry).ok_or_else(gone)?;
        let mut taken = self.requests.take_for(session, errand).await?;
        let changed = taken.tables.change(attempt.id, position, &change).await;
        if !taken.end(changed)? {
            return Err(gone());
        }
        self.watcher.nudge(&key);
        Ok(())
    }
}

impl<D: Database> fmt::Debug for Server<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// The row of an entry, if the entry can be one of this lock's.
pub(super) fn position_of(key: &str, entry: &EntryId) -> Option<u64> {
    rows::position_in(key, &entry.key).filter(|position| *position == entry.position)
}
