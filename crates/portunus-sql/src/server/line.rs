//! A connection, and the line of those who want it.
//!
//! A call takes the connection out, and puts it back when it has ended and did not spoil it. One that
//! is dropped midway never does: nobody knows what the server has still to answer there, so the
//! connection goes with it, and the next call makes another.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::Session;
use portunus_core::error::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, MutexGuard};

use super::failure::{Failure, Fallible};
use super::tables::{Database, Tables};

/// At most one connection, made when it is needed, on the runtime of who needs it. Those who wait for it
/// are served in the order of their calls.
#[derive(Debug)]
pub(super) struct Line<D: Database> {
    database: Arc<D>,
    slot: Mutex<Option<D::Tables>>,
}

/// What a call is for, as its errors say it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Errand<'a> {
    pub(super) operation: &'static str,
    /// The lock.
    pub(super) name: Option<&'a str>,
}

/// The connection, while a call has it.
pub(super) struct Taken<'a, D: Database> {
    slot: MutexGuard<'a, Option<D::Tables>>,
    errand: Errand<'a>,
    pub(super) tables: D::Tables,
}

impl<D: Database> Line<D> {
    pub(super) fn new(database: Arc<D>) -> Self {
        Self { database, slot: Mutex::default() }
    }

    /// Waits for the connection, and makes one if there is none.
    pub(super) async fn take<'a>(&'a self, errand: Errand<'a>) -> Result<Taken<'a, D>> {
        let mut slot = self.slot.lock().await;
        let tables = match slot.take().filter(|tables| !tables.is_over()) {
            Some(tables) => tables,
            None => connect(&*self.database).await.map_err(|failure| errand.fail::<D>(failure))?,
        };
        Ok(Taken { slot, errand, tables })
    }

    /// The same for a session, which is lost if the database has another life than it was opened in.
    pub(super) async fn take_for<'a>(
        &'a self,
        session: &Session,
        errand: Errand<'a>,
    ) -> Result<Taken<'a, D>> {
        let taken = self.take(errand).await?;
        if *taken.tables.incarnation() == session.incarnation {
            return Ok(taken);
        }
        let detail = "another server took over, or the database was restored; its tokens are of \
                      another life";
        taken.end(Err(lost::<D>(errand.operation).with_detail(detail).into()))
    }
}

impl<D: Database> Taken<'_, D> {
    /// Ends the call, and puts the connection back if it can be used on.
    pub(super) fn end<T>(mut self, done: Fallible<T>) -> Result<T> {
        if done.as_ref().err().is_none_or(Failure::spares_connection) {
            *self.slot = Some(self.tables);
        }
        done.map_err(|failure| self.errand.fail::<D>(failure))
    }
}

impl<'a> Errand<'a> {
    pub(super) fn new(operation: &'static str, name: &'a str) -> Self {
        Self { operation, name: Some(name) }
    }

    pub(super) fn of_all(operation: &'static str) -> Self {
        Self { operation, name: None }
    }

    pub(super) fn fail<D: Database>(self, failure: Failure) -> Error {
        failure.into_error(D::STORE, self.operation, self.name)
    }
}

/// Makes a connection. Whatever fails in that, nothing was applied that was asked for.
pub(super) async fn connect<D: Database>(database: &D) -> Fallible<D::Tables> {
    database.connect(PATIENCE).await.map_err(|failure| match failure {
        Failure::Sql { kind: ErrorKind::Unconfirmed, detail, cause, .. } => {
            Failure::Sql { kind: ErrorKind::Unavailable, detail, cause, spares_connection: false }
        }
        other => other,
    })
}

pub(super) fn lost<D: Database>(operation: &'static str) -> Error {
    Error::new(ErrorKind::Lost, D::STORE, operation)
}

/// How long a statement may wait for a row that somebody else's transaction holds. Short, because all
/// requests of a manager share one connection.
const PATIENCE: Duration = Duration::from_millis(250);
