//! Marks in a table of a PostgreSQL database, compared inside the caller's transaction.
//!
//! ```
//! # use portunus_fence::{FencingToken, postgres};
//! # async fn deposit(client: &mut tokio_postgres::Client, token: &FencingToken) -> Result<(), Box<dyn std::error::Error>> {
//! postgres::create_table(client).await?;
//!
//! let transaction = client.transaction().await?;
//! postgres::open(&transaction, "account/7", token).await?;
//! transaction.execute("UPDATE account SET balance = balance + 10 WHERE id = 7", &[]).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`open`] is the transaction's **first** statement. In `READ COMMITTED` what was read before it may
//!   be of an earlier holder. In `REPEATABLE READ` and `SERIALIZABLE` the snapshot is taken by the
//!   first statement: if it is older than the mark, `open` fails with SQLSTATE 40001, as `Unavailable`.
//! - After an error roll the transaction back: drop it. A savepoint is no transaction: rolled back alone it
//!   takes the mark with it.
//! - A holder that is stopped *inside* its transaction keeps the mark's row locked, and the next one waits in
//!   `open`: set `idle_in_transaction_session_timeout`, or `lock_timeout`, and do no slow work in there.
//! - `open` costs one round trip. A write that follows it without a read can share that: the client
//!   sends the statements of futures that are polled together, as by `tokio::try_join!`, in their order.
//!   If `open` is refused, the write is rolled back like any other.
//! - The mark's row is locked until the transaction ends, so writers of one resource take turns. Who
//!   opens several resources in one transaction opens them in one order, by name: else two such
//!   transactions may wait for each other, until the server ends one as `Unavailable`.
//! - The role needs `SELECT`, `INSERT` and `UPDATE` on the table. It is looked for in the
//!   `search_path`; all writers must find the same one.
//! - A mark is as durable as the rows that are written with it: `synchronous_commit` has to be `on` or
//!   higher. A fail-over to a replica that lags takes both back; then an old token may pass until the next
//!   holder opens, and what a present holder has read is of another time: have all holders acquire again.
//!
//! # Without this table
//!
//! A table of yours can keep marks itself, beside the data. Ask the token whether it
//! [`may_fence`](FencingToken::may_fence) first, as the functions here do. It takes two more columns:
//!
//! ```sql
//! ALTER TABLE account ADD COLUMN fence BIGINT, ADD COLUMN fence_origin TEXT;
//! -- Opens the account: before anything of it is read. $1 is the token's `value()` as an `i64`, $2 its
//! -- `origin()` as a string.
//! UPDATE account SET fence = $1, fence_origin = $2
//!  WHERE id = $3 AND (fence_origin IS NULL OR fence_origin = $2 AND fence <= $1) RETURNING balance;
//! -- Writes it: refused, if no row is affected.
//! UPDATE account SET balance = $4, fence = $1
//!  WHERE id = $3 AND fence_origin = $2 AND fence <= $1;
//! ```

mod error;
mod prepared;

use async_trait::async_trait;
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::{FencingToken, SharedToken};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Row, Transaction};

use self::error::classify;
pub use self::prepared::PreparedFence;
use super::{Entry, Failure, mark, shared};
use crate::call::Call;
use crate::fence::Fence;

/// The table of marks, as [`create_table`](create_table()) makes it.
pub const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS portunus_fence (\
    resource TEXT COLLATE \"C\" NOT NULL PRIMARY KEY, \
    origin TEXT COLLATE \"C\" NOT NULL, \
    token BIGINT NOT NULL CHECK (token > 0), \
    value BYTEA)";

/// Makes the table of marks, unless there is one in the `search_path`. Two processes may do so at once.
///
/// # Errors
///
/// There is the table or not, as it was before, but for `Unconfirmed`:
///
/// - [`ErrorKind::Denied`]: the role may not create tables.
/// - [`ErrorKind::Unsupported`]: there is no schema to create it in.
/// - [`ErrorKind::Unavailable`]: the connection had ended, or the server is read-only.
/// - [`ErrorKind::Unconfirmed`]: the connection ended under it.
///
/// # Cancel safety
///
/// When the future is dropped the table is made or not; to call it again is safe.
pub async fn create_table(client: &Client) -> Result<()> {
    let error = |kind| Error::new(kind, FENCE, "create the table");
    let failed = |cause| {
        let failure = classify(&cause);
        failure.word(error(failure.kind()), SCHEMA, MODULE, cause)
    };
    if client.is_closed() {
        return Err(error(ErrorKind::Unavailable).with_detail(ENDED));
    }
    // `IF NOT EXISTS` asks for the right to create even if it exists, and looks in one schema only.
    let found = client.query_typed_one(FIND, &[]).await.map_err(failed)?;
    if found.try_get(0).map_err(failed)? {
        return Ok(());
    }
    client.batch_execute(SCHEMA).await.or_else(|cause| match cause.code() {
        // The server lets two do it at once, and then fails one at an index of its catalogue.
        Some(&SqlState::UNIQUE_VIOLATION | &SqlState::DUPLICATE_TABLE) => Ok(()),
        _ => Err(failed(cause)),
    })
}

/// Raises the mark to `token` in this transaction: its first statement, in one round trip.
///
/// # Errors
///
/// As [`Fence`](trait@crate::Fence#errors), but nothing is in doubt before the commit: none is
/// `Unconfirmed`. Roll the transaction back.
///
/// # Cancel safety
///
/// When the future is dropped the mark is raised in this transaction or not: roll it back.
pub async fn open(
    transaction: &Transaction<'_>,
    resource: &str,
    token: &FencingToken,
) -> Result<()> {
    let entry = Entry::new(Call::new(FENCE, "open", resource)?, token)?;
    let written = transaction.execute_typed(OPEN, &columns(&resource, &entry)).await;
    step(transaction, &resource, &entry, written).await
}

/// Raises the mark to `token` in this transaction, and writes the value that [`PostgresFence`] reads.
///
/// # Errors
///
/// As [`open`].
///
/// # Cancel safety
///
/// As [`open`].
pub async fn admit(
    transaction: &Transaction<'_>,
    resource: &str,
    token: &FencingToken,
    value: &[u8],
) -> Result<()> {
    let entry = Entry::new(Call::new(FENCE, "admit", resource)?, token)?;
    entry.call.value(value)?;
    let [name, origin, number] = columns(&resource, &entry);
    let written =
        transaction.execute_typed(ADMIT, &[name, origin, number, (&value, Type::BYTEA)]).await;
    step(transaction, &resource, &entry, written).await
}

/// Compares the `token` of a shared grant with the mark, and raises nothing.
///
/// Until the transaction ends nothing raises the mark, so that what it reads after this is not of a
/// later holder. Where there is no mark yet each token passes, and nothing is held.
///
/// # Errors
///
/// As [`open`].
///
/// # Cancel safety
///
/// As [`open`]; the mark is as it was.
pub async fn check(
    transaction: &Transaction<'_>,
    resource: &str,
    token: &SharedToken,
) -> Result<()> {
    let call = shared(Call::new(FENCE, "check", resource)?, token)?;
    let row = transaction.query_typed_opt(HOLD, &[(&resource, Type::TEXT)]).await;
    let row = row.map_err(|cause| uncommitted(&call, cause))?;
    let mark = row.map(|row| read(&call, &row)).transpose()?;
    call.pass_shared(mark.as_ref(), token)
}

/// Does `work` in this transaction after [`open`]: what it reads and writes comes after the mark.
///
/// Nothing is committed; that is left to the caller.
///
/// # Errors
///
/// As [`open`], and those of `work`. Roll the transaction back.
///
/// # Cancel safety
///
/// When the future is dropped `work` was begun or not: roll the transaction back.
pub async fn update<T, E: From<Error>>(
    transaction: &mut Transaction<'_>,
    resource: &str,
    token: &FencingToken,
    work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    open(transaction, resource, token).await?;
    work(transaction).await
}

/// A fence in a PostgreSQL database: the mark and the value in one row of the [table](SCHEMA).
///
/// Each call is one statement on the one connection; calls at the same time are pipelined. The
/// connection's own task has to run, see [`tokio_postgres::connect`]. A fence whose connection has ended
/// answers `Unavailable` from then on: make another.
#[derive(Debug)]
pub struct PostgresFence(Client);

impl PostgresFence {
    /// Makes a fence on a connection of its own; the table is made by [`create_table`](create_table()).
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// Makes the table of marks, unless it is there.
    ///
    /// # Errors
    ///
    /// As [`create_table`](create_table()).
    ///
    /// # Cancel safety
    ///
    /// As [`create_table`](create_table()).
    pub async fn create_table(&self) -> Result<()> {
        create_table(&self.0).await
    }

    async fn query(
        &self,
        call: &Call,
        statement: &str,
        columns: &[Column<'_>],
    ) -> Result<Option<Row>> {
        if self.0.is_closed() {
            return Err(call.error(ErrorKind::Unavailable).with_detail(ENDED));
        }
        let row = self.0.query_typed_opt(statement, columns).await;
        row.map_err(|cause| failed(call, classify(&cause), cause))
    }

    async fn look(&self, call: &Call, resource: &&str) -> Result<Option<Row>> {
        let row = self.query(call, READ, &[(resource, Type::TEXT)]).await;
        row.map_err(|error| match error.kind() {
            // A read leaves no doubt behind.
            ErrorKind::Unconfirmed => call.error(ErrorKind::Unavailable).with_source(error),
            _ => error,
        })
    }

    async fn refused(&self, resource: &&str, entry: &Entry) -> Error {
        match self.look(&entry.call, resource).await {
            Ok(row) => refused(entry, row.as_ref()),
            Err(error) => error,
        }
    }
}

#[async_trait]
impl Fence for PostgresFence {
    async fn open(&self, resource: &str, token: &FencingToken) -> Result<Option<Vec<u8>>> {
        let entry = Entry::new(Call::new(FENCE, "open", resource)?, token)?;
        match self.query(&entry.call, OPEN_AND_READ, &columns(&resource, &entry)).await? {
            Some(row) => get(&entry.call, &row, 0),
            None => Err(self.refused(&resource, &entry).await),
        }
    }

    async fn admit(&self, resource: &str, token: &FencingToken, value: &[u8]) -> Result<()> {
        let entry = Entry::new(Call::new(FENCE, "admit", resource)?, token)?;
        entry.call.value(value)?;
        let [name, origin, number] = columns(&resource, &entry);
        let columns = [name, origin, number, (&value as _, Type::BYTEA)];
        match self.query(&entry.call, ADMIT, &columns).await? {
            Some(_) => Ok(()),
            None => Err(self.refused(&resource, &entry).await),
        }
    }

    async fn check(&self, resource: &str, token: &SharedToken) -> Result<Option<Vec<u8>>> {
        let call = shared(Call::new(FENCE, "check", resource)?, token)?;
        let Some(row) = self.look(&call, &resource).await? else { return Ok(None) };
        call.pass_shared(Some(&read(&call, &row)?), token)?;
        get(&call, &row, 2)
    }

    async fn mark(&self, resource: &str) -> Result<Option<FencingToken>> {
        let call = Call::new(FENCE, "mark", resource)?;
        self.look(&call, &resource).await?.map(|row| read(&call, &row)).transpose()
    }
}

/// Ends a step of the caller's transaction in which a row was written, or refused.
async fn step(
    transaction: &Transaction<'_>,
    resource: &&str,
    entry: &Entry,
    written: Result<u64, tokio_postgres::Error>,
) -> Result<()> {
    if written.map_err(|cause| uncommitted(&entry.call, cause))? > 0 {
        return Ok(());
    }
    // The refusal has locked the row, so this is the mark that refused.
    let row = transaction.query_typed_opt(READ, &[(resource, Type::TEXT)]).await;
    let row = row.map_err(|cause| uncommitted(&entry.call, cause))?;
    Err(refused(entry, row.as_ref()))
}

fn refused(entry: &Entry, row: Option<&Row>) -> Error {
    match row.map(|row| read(&entry.call, row)).transpose() {
        Ok(mark) => entry.refused(mark.as_ref()),
        Err(error) => error,
    }
}

fn read(call: &Call, row: &Row) -> Result<FencingToken> {
    mark(call, get(call, row, 0)?, get(call, row, 1)?)
}

fn get<'r, T: FromSql<'r>>(call: &Call, row: &'r Row, column: usize) -> Result<T> {
    row.try_get(column).map_err(|cause| failed(call, Failure::Shape, cause))
}

/// The types are given, so that a statement is one round trip and none stays prepared in a session that
/// a pooler may hand to others.
fn columns<'a>(resource: &'a &'a str, entry: &'a Entry) -> [Column<'a>; 3] {
    [(resource, Type::TEXT), (&entry.origin, Type::TEXT), (&entry.number, Type::INT8)]
}

type Column<'a> = (&'a (dyn ToSql + Sync), Type);

fn uncommitted(call: &Call, cause: tokio_postgres::Error) -> Error {
    failed(call, classify(&cause).uncommitted(), cause)
}

fn failed(call: &Call, failure: Failure, cause: tokio_postgres::Error) -> Error {
    failure.word(call.error(failure.kind()), SCHEMA, MODULE, cause)
}

const FENCE: &str = "postgres fence";
const MODULE: &str = "postgres";
const ENDED: &str = "the connection has ended; nothing was sent";

const FIND: &str = "SELECT to_regclass('portunus_fence') IS NOT NULL";

macro_rules! raise {
    ($column:literal, $parameter:literal, $set:literal, $returning:literal) => {
        concat!(
            "INSERT INTO portunus_fence AS f (resource, origin, token",
            $column,
            ") VALUES ($1, $2, $3",
            $parameter,
            ") ON CONFLICT (resource) DO UPDATE SET token = EXCLUDED.token",
            $set,
            // Compared with the parameter, which is a number whatever the column is.
            " WHERE f.origin = EXCLUDED.origin AND f.token <= $3",
            $returning
        )
    };
}

const OPEN: &str = raise!("", "", "", "");
const OPEN_AND_READ: &str = raise!("", "", "", " RETURNING f.value");
const ADMIT: &str = raise!(", value", ", $4", ", value = EXCLUDED.value", " RETURNING f.token");
const READ: &str = "SELECT origin, token, value FROM portunus_fence WHERE resource = $1";
const HOLD: &str = "SELECT origin, token FROM portunus_fence WHERE resource = $1 FOR SHARE";
