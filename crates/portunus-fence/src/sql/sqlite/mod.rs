//! Marks in a table of an SQLite database, compared inside the caller's transaction.
//!
//! ```
//! # use portunus_fence::{FencingToken, Result, sqlite};
//! # fn deposit(connection: &mut rusqlite::Connection, token: &FencingToken) -> Result<(), Box<dyn std::error::Error>> {
//! sqlite::create_table(connection)?;
//!
//! let transaction = connection.transaction()?;
//! sqlite::open(&transaction, "account/7", token)?;
//! transaction.execute("UPDATE account SET balance = balance + 10 WHERE id = 7", [])?;
//! transaction.commit()?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`open`] is the transaction's **first** statement: it begins the writing. A transaction that reads
//!   before it may read what is old by then; SQLite notices, and `open` fails as `Unavailable`.
//! - After an error roll the transaction back: drop it. A savepoint that is rolled back alone takes the mark
//!   with it.
//! - A holder that is stopped *inside* its transaction keeps the file locked, and nobody else writes. Do no
//!   slow work in there.
//! - The write lock of SQLite is one for the whole file, so resources can be opened in any order.
//!   Whoever waits for it waits for the connection's `busy_timeout` (5 s, unless you set another).
//! - A mark is as durable as the rows that are written with it. `PRAGMA synchronous = FULL`, SQLite's
//!   default, keeps both over a loss of power. With `NORMAL` and a write-ahead log both may go back; then
//!   an old token of another machine's holder may pass until the next one opens.
//! - The file has to be on a disk of this machine: SQLite's locks don't hold on many network file
//!   systems.
//!
//! # Without this table
//!
//! A table of yours can keep marks itself, beside the data. Ask the token whether it
//! [`may_fence`](FencingToken::may_fence) first, as the functions here do. It takes two more columns:
//!
//! ```sql
//! ALTER TABLE account ADD COLUMN fence INTEGER;
//! ALTER TABLE account ADD COLUMN fence_origin TEXT;
//! -- Opens the account: before anything of it is read. ?1 is the token's `value()` as an `i64`, ?2 its
//! -- `origin()` as a string.
//! UPDATE account SET fence = ?1, fence_origin = ?2
//!  WHERE id = ?3 AND (fence_origin IS NULL OR fence_origin = ?2 AND fence <= ?1) RETURNING balance;
//! -- Writes it: refused, if no row is affected.
//! UPDATE account SET balance = ?4, fence = ?1, fence_origin = ?2
//!  WHERE id = ?3 AND fence_origin = ?2 AND fence <= ?1;
//! ```

mod error;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use portunus_core::error::{Error, Result};
use portunus_core::token::{FencingToken, SharedToken};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use self::error::classify;
use super::{Entry, Failure, mark, shared};
use crate::call::Call;
use crate::fence::Fence;

/// The table of marks, as [`create_table`] makes it.
pub const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS portunus_fence (\
resource TEXT NOT NULL PRIMARY KEY, \
origin TEXT NOT NULL, \
token INTEGER NOT NULL CHECK (token > 0), \
value BLOB) STRICT";

/// Makes the table of marks, unless it is there. Two processes may do so at once.
///
/// # Errors
///
/// There is the table or not, as it was before:
///
/// - [`ErrorKind::Denied`](crate::ErrorKind::Denied): the file, or this connection, is read-only.
/// - [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): the file is locked for longer than `busy_timeout`, or the disk is full.
/// - [`ErrorKind::Unconfirmed`](crate::ErrorKind::Unconfirmed): the disk failed while it was written.
/// - [`ErrorKind::Protocol`](crate::ErrorKind::Protocol): the file is no database.
pub fn create_table(connection: &mut Connection) -> Result<()> {
    let failed = |cause| {
        let failure = classify(&cause);
        let error = Error::new(failure.kind(), FENCE, "create the table");
        failure.word(error, SCHEMA, MODULE, cause)
    };
    // Whoever may only read needs no table made.
    let find = "SELECT 1 FROM sqlite_schema WHERE name = 'portunus_fence'";
    if connection.query_row(find, [], |_| Ok(())).optional().map_err(failed)?.is_some() {
        return Ok(());
    }
    // Two that read first and then want to write would make each other fail.
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    transaction.execute_batch(SCHEMA).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// Raises the mark to `token` in this transaction: its first statement.
///
/// # Errors
///
/// As [`Fence`](trait@crate::Fence#errors), but nothing is in doubt before the commit: none is
/// `Unconfirmed`. Roll the transaction back.
pub fn open(transaction: &Transaction<'_>, resource: &str, token: &FencingToken) -> Result<()> {
    let entry = Entry::new(Call::new(FENCE, "open", resource)?, token)?;
    raise(transaction, &entry).map(|_value| ())
}

/// Raises the mark to `token` in this transaction, and writes the value that [`SqliteFence`] reads.
///
/// # Errors
///
/// As [`open`].
pub fn admit(
    transaction: &Transaction<'_>,
    resource: &str,
    token: &FencingToken,
    value: &[u8],
) -> Result<()> {
    let entry = Entry::new(Call::new(FENCE, "admit", resource)?, token)?;
    entry.call.value(value)?;
    write(transaction, &entry, value)
}

/// Compares the `token` of a shared grant with the mark, and raises nothing.
///
/// What this transaction reads after it is of the same moment as the mark: nothing of a later holder is
/// among it.
///
/// # Errors
///
/// As [`open`].
pub fn check(transaction: &Transaction<'_>, resource: &str, token: &SharedToken) -> Result<()> {
    let call = shared(Call::new(FENCE, "check", resource)?, token)?;
    let row = read(transaction, &call)?;
    call.pass_shared(row.as_ref().map(|row| &row.mark), token)
}

/// Does `work` in this transaction after [`open`]: what it reads and writes comes after the mark.
///
/// Nothing is committed; that is left to the caller.
///
/// # Errors
///
/// As [`open`], and those of `work`. Roll the transaction back.
pub fn update<T, E: From<Error>>(
    transaction: &mut Transaction<'_>,
    resource: &str,
    token: &FencingToken,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    open(transaction, resource, token)?;
    work(transaction)
}

/// A fence in an SQLite database: the mark and the value in one row of the [table](SCHEMA).
///
/// Clones share the connection. Each call takes its turn on it, on a thread for what blocks; no runtime
/// is needed. The [module](self) says how durable a mark is.
#[derive(Clone, Debug)]
pub struct SqliteFence(Arc<Mutex<Connection>>);

impl SqliteFence {
    /// Makes a fence on a connection of its own; the table is made by [`create_table`].
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self(Arc::new(Mutex::new(connection)))
    }

    /// Makes the table of marks, unless it is there.
    ///
    /// # Errors
    ///
    /// As [`create_table`](create_table()).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the table is made or not; to call it again is safe.
    pub async fn create_table(&self) -> Result<()> {
        self.run(create_table).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = Arc::clone(&self.0);
        blocking::unblock(move || {
            // A panic has rolled its transaction back: there is nothing half done.
            work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
    }

    async fn look(&self, call: Call) -> Result<Option<Row>> {
        self.run(move |connection| read(connection, &call)).await
    }
}

#[async_trait]
impl Fence for SqliteFence {
    async fn open(&self, resource: &str, token: &FencingToken) -> Result<Option<Vec<u8>>> {
        let entry = Entry::new(Call::new(FENCE, "open", resource)?, token)?;
        self.run(move |connection| {
            let transaction = begin(connection, &entry)?;
            let value = raise(&transaction, &entry)?;
            commit(transaction, &entry)?;
            Ok(value)
        })
        .await
    }

    async fn admit(&self, resource: &str, token: &FencingToken, value: &[u8]) -> Result<()> {
        let entry = Entry::new(Call::new(FENCE, "admit", resource)?, token)?;
        entry.call.value(value)?;
        let value = value.to_vec();
        self.run(move |connection| {
            let transaction = begin(connection, &entry)?;
            write(&transaction, &entry, &value)?;
            commit(transaction, &entry)
        })
        .await
    }

    async fn check(&self, resource: &str, token: &SharedToken) -> Result<Option<Vec<u8>>> {
        let call = shared(Call::new(FENCE, "check", resource)?, token)?;
        let row = self.look(call.clone()).await?;
        call.pass_shared(row.as_ref().map(|row| &row.mark), token)?;
        Ok(row.and_then(|row| row.value))
    }

    async fn mark(&self, resource: &str) -> Result<Option<FencingToken>> {
        let row = self.look(Call::new(FENCE, "mark", resource)?).await?;
        Ok(row.map(|row| row.mark))
    }
}

struct Row {
    mark: FencingToken,
    value: Option<Vec<u8>>,
}

fn begin<'c>(connection: &'c mut Connection, entry: &Entry) -> Result<Transaction<'c>> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|cause| failed(&entry.call, cause))
}

fn commit(transaction: Transaction<'_>, entry: &Entry) -> Result<()> {
    transaction.commit().map_err(|cause| word(&entry.call, classify(&cause), cause))
}

/// Raises the mark, and returns the value beside it.
fn raise(connection: &Connection, entry: &Entry) -> Result<Option<Vec<u8>>> {
    let raised = connection
        .prepare_cached(OPEN)
        .and_then(|mut statement| {
            statement
                .query_row(
                    params![entry.call.resource().as_str(), entry.origin, entry.number],
                    |row| row.get(0),
                )
                .optional()
        })
        .map_err(|cause| failed(&entry.call, cause))?;
    match raised {
        Some(value) => Ok(value),
        None => Err(refused(connection, entry)),
    }
}

fn write(connection: &Connection, entry: &Entry, value: &[u8]) -> Result<()> {
    let columns = params![entry.call.resource().as_str(), entry.origin, entry.number, value];
    let rows = connection
        .prepare_cached(ADMIT)
        .and_then(|mut statement| statement.execute(columns))
        .map_err(|cause| failed(&entry.call, cause))?;
    if rows == 0 { Err(refused(connection, entry)) } else { Ok(()) }
}

fn refused(connection: &Connection, entry: &Entry) -> Error {
    match read(connection, &entry.call) {
        Ok(row) => entry.refused(row.as_ref().map(|row| &row.mark)),
        Err(error) => error,
    }
}

fn read(connection: &Connection, call: &Call) -> Result<Option<Row>> {
    let row = connection
        .prepare_cached(READ)
        .and_then(|mut statement| {
            let columns = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            statement.query_row([call.resource().as_str()], columns).optional()
        })
        .map_err(|cause| failed(call, cause))?;
    row.map(|(origin, number, value): (String, _, _)| {
        Ok(Row { mark: mark(call, &origin, number)?, value })
    })
    .transpose()
}

/// The error of a statement before the commit.
fn failed(call: &Call, cause: rusqlite::Error) -> Error {
    word(call, classify(&cause).uncommitted(), cause)
}

fn word(call: &Call, failure: Failure, cause: rusqlite::Error) -> Error {
    failure.word(call.error(failure.kind()), SCHEMA, MODULE, cause)
}

const FENCE: &str = "sqlite fence";
const MODULE: &str = "sqlite";

const OPEN: &str = "INSERT INTO portunus_fence AS f (resource, origin, token) VALUES (?1, ?2, ?3) \
    ON CONFLICT (resource) DO UPDATE SET token = excluded.token \
    WHERE f.origin = excluded.origin AND f.token <= excluded.token RETURNING value";
const ADMIT: &str = "INSERT INTO portunus_fence AS f (resource, origin, token, value) \
    VALUES (?1, ?2, ?3, ?4) \
    ON CONFLICT (resource) DO UPDATE SET token = excluded.token, value = excluded.value \
    WHERE f.origin = excluded.origin AND f.token <= excluded.token";
const READ: &str = "SELECT origin, token, value FROM portunus_fence WHERE resource = ?1";
