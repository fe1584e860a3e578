//! A connection, and the line of those who want it.
//!
//! A call takes the connection out, and puts it back when it has ended and did not spoil it. One that
//! is dropped midway never does: nobody knows what the server has still to answer there, so the
//! connection goes with it, and the next call makes another.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::Session;
use portunus_core::clock::Clock;
use portunus_core::error::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;

use super::failure::{Failure, Fallible};
use super::tables::{Database, Tables};
use crate::sessions::Liveness;

/// At most one connection, made when it is needed, on the runtime of who needs it. Those who wait for it
/// are served in the order of their calls.
pub(super) struct Line<D: Database> {
    dialer: Dialer<D>,
    slot: Mutex<Slot<D::Tables>>,
}

enum Slot<T> {
    Empty,
    /// Goes on when the call that needed it is dropped: the next one needs it, too. Thousands of calls
    /// whose time is over together would knock as often at the server.
    Connecting(JoinHandle<Fallible<T>>),
    Ready(T),
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
    slot: MutexGuard<'a, Slot<D::Tables>>,
    errand: Errand<'a>,
    pub(super) tables: D::Tables,
}

impl<D: Database> Line<D> {
    pub(super) fn new(dialer: Dialer<D>) -> Self {
        Self { dialer, slot: Mutex::new(Slot::Empty) }
    }

    /// Waits for the connection, and makes one if there is none.
    pub(super) async fn take<'a>(&'a self, errand: Errand<'a>) -> Result<Taken<'a, D>> {
        let mut slot = self.slot.lock().await;
        // One that another call began may be at a server that does not answer.
        let mut is_anothers = true;
        loop {
            match std::mem::replace(&mut *slot, Slot::Empty) {
                Slot::Ready(tables) if !tables.is_over() => {
                    return Ok(Taken { slot, errand, tables });
                }
                Slot::Connecting(connecting) => *slot = Slot::Connecting(connecting),
                Slot::Ready(_) | Slot::Empty => {
                    let dialer = self.dialer.clone();
                    *slot = Slot::Connecting(tokio::spawn(async move { dialer.connect().await }));
                    is_anothers = false;
                }
            }
            let Slot::Connecting(connecting) = &mut *slot else { continue };
            let connected = connecting.await;
            *slot = Slot::Empty;
            let unavailable = || Error::new(ErrorKind::Unavailable, D::STORE, "connect").into();
            match connected.unwrap_or_else(|_| Err(unavailable())) {
                Ok(tables) => return Ok(Taken { slot, errand, tables }),
                Err(_) if is_anothers => {}
                Err(failure) => return Err(errand.fail::<D>(failure)),
            }
        }
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
            *self.slot = Slot::Ready(self.tables);
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

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Dialer<D> {
    pub(super) database: Arc<D>,
    pub(super) liveness: Arc<Liveness>,
    pub(super) clock: Arc<dyn Clock>,
}

impl<D: Database> Dialer<D> {
    /// Makes one. Whatever fails in that, nothing was applied that was asked for.
    pub(crate) async fn connect(&self) -> Fallible<D::Tables> {
        let connecting = self.database.connect(PATIENCE);
        self.limited(LONGEST, connecting).await.map_err(|failure| match failure {
            Failure::Sql { kind: ErrorKind::Unconfirmed, detail, cause, .. } => Failure::Sql {
                kind: ErrorKind::Unavailable,
                detail,
                cause,
                spares_connection: false,
            },
            other => other,
        })
    }

    /// Awaits what the server does, for at most `span`: a connection may fall silent without a word. Then
    /// it is not to be used on.
    pub(crate) async fn limited<T>(
        &self,
        span: Duration,
        done: impl Future<Output = Fallible<T>>,
    ) -> Fallible<T> {
        let until = self.liveness.beats.stamp().after(span);
        tokio::select! {
            biased;
            done = done => done,
            () = self.clock.sleep_until(until) => Err(Failure::Sql {
                kind: ErrorKind::Unavailable,
                detail: "".into(),
                cause: "the server does not answer".into(),
                spares_connection: false,
            }),
        }
    }
}

impl<D> Clone for Dialer<D> {
    fn clone(&self) -> Self {
        Self {
            database: Arc::clone(&self.database),
            liveness: Arc::clone(&self.liveness),
            clock: Arc::clone(&self.clock),
        }
    }
}

pub(super) fn lost<D: Database>(operation: &'static str) -> Error {
    Error::new(ErrorKind::Lost, D::STORE, operation)
}

/// How long a statement may wait for a row that somebody else's transaction holds. Short, because all
/// requests of a manager share one connection.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long making a connection may take; then the next one begins with the next server. As long as that
/// is waited for an answer where the engine bounds nothing.
pub(crate) const LONGEST: Duration = Duration::from_secs(3);
