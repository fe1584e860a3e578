//! One connection: transactions that are one round trip, and what the server says unasked.
//!
//! No statement is prepared under a name. Clients number theirs from one, each process for itself; where a
//! pooler puts two of them on one connection of the server's, a name may be the other's statement, with
//! the same parameters and another meaning, and nobody is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join, join3};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, Row};

use super::error::{doubtful, half_confirmed, harmless};
use crate::server::failure::{Failure, Fallible};

/// A statement with the types of its parameters, so that the server is asked for nothing before.
pub(super) struct Sql {
    pub(super) text: &'static str,
    pub(super) types: &'static [Type],
}

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection and the task that serves it, which ends with this value: a statement whose answer nobody
/// waits for must not keep the connection.
pub(super) struct Wire {
    client: Client,
    driver: AbortHandle,
    /// A commit drew a warning.
    is_warned: Arc<AtomicBool>,
    /// Behind a pooler a connection is told what another asked for.
    is_listening: Arc<AtomicBool>,
    told: UnboundedReceiver<String>,
    begin: String,
}

impl Wire {
    /// Serves the connection by a task of the present runtime.
    pub(super) fn new<S, T>(
        client: Client,
        connection: Connection<S, T>,
        patience: Duration,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (is_warned, is_listening) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (tell, told) = unbounded_channel();
        let heard = (Arc::clone(&is_warned), Arc::clone(&is_listening));
        let driver = tokio::spawn(serve(connection, heard, tell)).abort_handle();
        let lock_timeout = patience.as_millis();
        // A statement that is cancelled while its commit waits for a standby is committed all the same,
        // with a warning: so none is, and the warning is not kept from us, and a client waits no longer than
        // it likes. One that is stopped in a transaction must not keep the lock of a key.
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
             SET LOCAL client_min_messages = warning; \
             SET LOCAL synchronous_commit = on; \
             SET LOCAL lock_timeout = {lock_timeout}; \
             SET LOCAL statement_timeout = 0; \
             SET LOCAL idle_in_transaction_session_timeout = {}",
            IDLE * lock_timeout
        );
        Self { client, driver, is_warned, is_listening, told, begin }
    }

    pub(super) fn is_over(&self) -> bool {
        self.client.is_closed()
    }

    /// Asks the server to tell of changes.
    pub(super) async fn listen(&self) -> Fallible<()> {
        self.is_listening.store(true, Ordering::Release);
        self.client.batch_execute("LISTEN portunus").await.map_err(harmless)
    }

    /// What the server was asked to tell, of which there is at least one.
    pub(super) async fn told(&mut self) -> Option<Vec<String>> {
        let mut told = vec![self.told.recv().await?];
        while let Ok(next) = self.told.try_recv() {
            told.push(next);
        }
        Some(told)
    }

    /// Runs a statement. What is polled together is sent in that order, in one flight.
    pub(super) async fn run(
        &self,
        sql: &'static Sql,
        params: Params<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let params = params.iter().copied().zip(sql.types.iter().cloned());
        self.client.query_typed(sql.text, &params.collect::<Vec<_>>()).await
    }

    /// One reading, outside of any transaction.
    pub(super) async fn read(
        &mut self,
        sql: &'static Sql,
        params: Params<'_>,
    ) -> Fallible<Vec<Row>> {
        self.run(sql, params).await.map_err(harmless)
    }

    /// One statement in a transaction of its own, in one round trip.
    pub(super) async fn write(
        &mut self,
        sql: &'static Sql,
        params: Params<'_>,
    ) -> Fallible<Vec<Row>> {
        self.is_warned.store(false, Ordering::Release);
        let (begun, done, committed) = join3(
            self.client.batch_execute(&self.begin),
            self.run(sql, params),
            self.client.batch_execute("COMMIT"),
        )
        .await;
        // What failed first says why. Without a transaction around it the statement was one by itself.
        if let Err(cause) = begun {
            return Err(if done.is_ok() { half_confirmed(cause) } else { doubtful(cause) });
        }
        let rows = done.map_err(doubtful)?;
        committed.map_err(doubtful)?;
        self.confirm(rows)
    }

    /// Begins a transaction with one statement, or goes on with another.
    pub(super) async fn begin(&self) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(&self.begin).await
    }

    /// Ends the transaction with this statement, in one round trip. If it fails nothing stays open.
    pub(super) async fn finish(
        &mut self,
        sql: &'static Sql,
        params: Params<'_>,
    ) -> Fallible<Vec<Row>> {
        self.is_warned.store(false, Ordering::Release);
        let (done, committed) =
            join(self.run(sql, params), self.client.batch_execute("COMMIT")).await;
        let rows = done.map_err(doubtful)?;
        committed.map_err(doubtful)?;
        self.confirm(rows)
    }

    pub(super) async fn roll_back(&self) -> Fallible<()> {
        self.client.batch_execute("ROLLBACK").await.map_err(harmless)
    }

    /// Rolls back after a failure, if there is anything left to roll back.
    pub(super) async fn abandon(&mut self, failure: Failure) -> Failure {
        match failure.spares_connection() {
            true => self.roll_back().await.err().unwrap_or(failure),
            false => failure,
        }
    }

    /// Several statements of ours, without parameters.
    pub(super) async fn batch(&self, text: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(text).await
    }

    /// A statement without parameters.
    pub(super) async fn ask(&self, sql: &'static str) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.client.query_typed(sql, &[]).await
    }

    fn confirm<T>(&self, done: T) -> Fallible<T> {
        // The task heard the warning before it passed the answer on.
        if self.is_warned.load(Ordering::Acquire) { Err(half_confirmed(STANDBY)) } else { Ok(done) }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn serve<S, T>(
    mut connection: Connection<S, T>,
    (is_warned, is_listening): (Arc<AtomicBool>, Arc<AtomicBool>),
    tell: UnboundedSender<String>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            AsyncMessage::Notification(told) if is_listening.load(Ordering::Acquire) => {
                drop(tell.send(told.payload().to_owned()));
            }
            // Whatever its state: it is not the same for each way in which a wait for a standby ends.
            AsyncMessage::Notice(notice) if notice.parsed_severity() == Some(Severity::Warning) => {
                is_warned.store(true, Ordering::Release);
            }
            _ => {}
        }
    }
}

/// How many times the patience a transaction may stand idle: between two statements of one the client
/// may be late.
const IDLE: u128 = 4;
const STANDBY: &str = "the commit drew a warning";
