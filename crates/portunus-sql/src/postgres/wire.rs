//! One connection: statements that are prepared once, transactions that are one round trip, and what the
//! server says unasked.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join, join3};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, Row, Statement};

use super::error::{doubtful, half_confirmed, harmless, is};
use crate::server::failure::{Failure, Fallible};

/// A statement with the types of its parameters: so that to prepare it asks for nothing else.
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
    told: UnboundedReceiver<String>,
    prepared: HashMap<&'static str, Statement>,
    /// The server forgets prepared statements, as one does behind a pooler that does not know of them.
    forgets: bool,
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
        let is_warned = Arc::new(AtomicBool::new(false));
        let (tell, told) = unbounded_channel();
        let driver = tokio::spawn(serve(connection, Arc::clone(&is_warned), tell)).abort_handle();
        let lock_timeout = patience.as_millis();
        // A statement that is cancelled while its commit waits for a standby is committed all the same,
        // with a warning: so none is, and a client waits no longer than it likes. One that is stopped in
        // a transaction must not keep the lock of a key.
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
             SET LOCAL synchronous_commit = on; \
             SET LOCAL lock_timeout = {lock_timeout}; \
             SET LOCAL statement_timeout = 0; \
             SET LOCAL idle_in_transaction_session_timeout = {}",
            IDLE * lock_timeout
        );
        Self { client, driver, is_warned, told, prepared: HashMap::new(), forgets: false, begin }
    }

    pub(super) fn is_over(&self) -> bool {
        self.client.is_closed()
    }

    /// What the server was asked to tell, of which there is at least one.
    pub(super) async fn told(&mut self) -> Option<Vec<String>> {
        let mut told = vec![self.told.recv().await?];
        while let Ok(next) = self.told.try_recv() {
            told.push(next);
        }
        Some(told)
    }

    /// Has the server parse these, unless it did, or forgets it again.
    pub(super) async fn prepare(&mut self, statements: &[&'static Sql]) -> Fallible<()> {
        for sql in statements {
            if self.forgets || self.prepared.contains_key(sql.text) {
                continue;
            }
            match self.client.prepare_typed(sql.text, sql.types).await {
                Ok(statement) => drop(self.prepared.insert(sql.text, statement)),
                Err(cause) => return Err(self.note(harmless(cause))),
            }
        }
        Ok(())
    }

    /// Runs a statement that was [prepared](Self::prepare). What is polled together is sent in that
    /// order, in one flight.
    pub(super) async fn run(
        &self,
        sql: &'static Sql,
        params: Params<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        match self.prepared.get(sql.text) {
            Some(statement) if !self.forgets => self.client.query(statement, params).await,
            _ => {
                let params = params.iter().copied().zip(sql.types.iter().cloned());
                self.client.query_typed(sql.text, &params.collect::<Vec<_>>()).await
            }
        }
    }

    /// One reading, outside of any transaction.
    pub(super) async fn read(
        &mut self,
        sql: &'static Sql,
        params: Params<'_>,
    ) -> Fallible<Vec<Row>> {
        self.prepare(&[sql]).await?;
        let read = self.run(sql, params).await;
        read.map_err(|cause| self.note(harmless(cause)))
    }

    /// One statement in a transaction of its own, in one round trip.
    pub(super) async fn write(
        &mut self,
        sql: &'static Sql,
        params: Params<'_>,
    ) -> Fallible<Vec<Row>> {
        self.prepare(&[sql]).await?;
        self.is_warned.store(false, Ordering::Release);
        let (begun, done, committed) = join3(
            self.client.batch_execute(&self.begin),
            self.run(sql, params),
            self.client.batch_execute("COMMIT"),
        )
        .await;
        // What failed first says why.
        begun.map_err(doubtful)?;
        let rows = done.map_err(|cause| self.note(doubtful(cause)))?;
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
        let rows = done.map_err(|cause| self.note(doubtful(cause)))?;
        committed.map_err(doubtful)?;
        self.confirm(rows)
    }

    pub(super) async fn roll_back(&self) -> Fallible<()> {
        self.client.batch_execute("ROLLBACK").await.map_err(harmless)
    }

    /// Rolls back after a failure, if there is anything left to roll back.
    pub(super) async fn abandon(&mut self, failure: Failure) -> Failure {
        let failure = self.note(failure);
        match failure.spares_connection() {
            true => self.roll_back().await.err().unwrap_or(failure),
            false => failure,
        }
    }

    /// Several statements of ours, without parameters.
    pub(super) async fn batch(&self, text: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(text).await
    }

    /// A statement that is not worth preparing.
    pub(super) async fn ask(&self, sql: &'static str) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.client.query_typed(sql, &[]).await
    }

    fn confirm<T>(&self, done: T) -> Fallible<T> {
        // The task heard the warning before it passed the answer on.
        if self.is_warned.load(Ordering::Acquire) { Err(half_confirmed()) } else { Ok(done) }
    }

    fn note(&mut self, failure: Failure) -> Failure {
        let forgot = [&SqlState::INVALID_SQL_STATEMENT_NAME, &SqlState::DUPLICATE_PSTATEMENT];
        if forgot.into_iter().any(|state| is(&failure, state)) {
            self.forgets = true;
        }
        failure
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn serve<S, T>(
    mut connection: Connection<S, T>,
    is_warned: Arc<AtomicBool>,
    tell: UnboundedSender<String>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            AsyncMessage::Notification(told) => drop(tell.send(told.payload().to_owned())),
            AsyncMessage::Notice(notice) => {
                // By far the most are of the class of warnings; who ends a server under a commit says so
                // with another state.
                if notice.parsed_severity() == Some(Severity::Warning) {
                    is_warned.store(true, Ordering::Release);
                }
            }
            _ => {}
        }
    }
}

/// How many times the patience a transaction may stand idle: between two statements of one the client
/// may be late.
const IDLE: u128 = 4;
