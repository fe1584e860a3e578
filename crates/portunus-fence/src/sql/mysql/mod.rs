//! Marks in a table of a MySQL or MariaDB database, compared inside the caller's transaction.
//!
//! ```
//! # use mysql_async::prelude::Queryable;
//! # use portunus_fence::{FencingToken, mysql};
//! # async fn deposit(pool: &mysql_async::Pool, token: &FencingToken) -> Result<(), Box<dyn std::error::Error>> {
//! mysql::create_table(pool).await?;
//!
//! let mut transaction = pool.start_transaction(Default::default()).await?;
//! mysql::open(&mut transaction, "account/7", token).await?;
//! transaction.query_drop("UPDATE account SET balance = balance + 10 WHERE id = 7").await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`open`] is the transaction's **first** statement. In `REPEATABLE READ`, the default, the first
//!   read takes the snapshot of which all later ones are: if it comes before the mark, **MySQL silently
//!   reads what an earlier holder has overwritten since**. MariaDB from 11.6 on fails `open` instead,
//!   as `Unavailable`. For the same reason never begin it `WITH CONSISTENT SNAPSHOT`.
//! - After an error roll the transaction back: drop it, whatever it was; a deadlock has ended it. A statement
//!   that commits by itself, such as DDL, ends it, too: what follows is not fenced. A savepoint that is
//!   rolled back alone takes the mark with it.
//! - A holder that is stopped *inside* its transaction keeps the mark's row locked; the next one waits in
//!   `open` for `innodb_lock_wait_timeout`, until `wait_timeout` ends the other. Do no slow work in there.
//! - The mark's row is locked until the transaction ends, so writers of one resource take turns. Who
//!   opens several resources in one transaction opens them in one order, by name: else two such
//!   transactions may wait for each other, until the server ends one as `Unavailable`.
//! - The user needs `SELECT`, `INSERT` and `UPDATE` on the table, and the tables that are written have
//!   to be of an engine with transactions, as InnoDB is.
//! - `LAST_INSERT_ID()` is the token after it, until the next insert.
//! - A mark is as durable as the rows that are written with it: set
//!   `innodb_flush_log_at_trx_commit = 1`. A fail-over to a replica that lags takes both
//!   back; then an old token may pass until the next holder opens: have all holders acquire again.
//!
//! # Without this table
//!
//! A table of yours can keep marks itself, beside the data. Ask the token whether it
//! [`may_fence`](FencingToken::may_fence) first, as the functions here do. It takes two more columns, and connections
//! with `client_found_rows=true`: without it a row that was as it is to be counts as not affected.
//!
//! ```sql
//! ALTER TABLE account ADD COLUMN fence BIGINT,
//!     ADD COLUMN fence_origin VARCHAR(1154) CHARACTER SET ascii COLLATE ascii_bin;
//! -- Opens the account: before anything of it is read. :token is the token's `value()`, :origin its
//! -- `origin()` as a string. Refused, if no row is affected; else read it.
//! UPDATE account SET fence = :token, fence_origin = :origin
//!  WHERE id = :id AND (fence_origin IS NULL OR fence_origin = :origin AND fence <= :token);
//! SELECT balance FROM account WHERE id = :id;
//! -- Writes it: refused, if no row is affected.
//! UPDATE account SET balance = :balance, fence = :token
//!  WHERE id = :id AND fence_origin = :origin AND fence <= :token;
//! ```

mod error;

use async_trait::async_trait;
use mysql_async::prelude::Queryable;
use mysql_async::{Pool, Transaction, TxOpts};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::{FencingToken, SharedToken};

use self::error::classify;
use super::{Entry, Failure, mark, shared};
use crate::call::Call;
use crate::fence::Fence;

/// The table of marks, as [`create_table`](create_table()) makes it.
pub const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS portunus_fence (\
    resource VARBINARY(512) NOT NULL PRIMARY KEY, \
    origin VARCHAR(1154) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, \
    token BIGINT NOT NULL CHECK (token > 0), \
    value MEDIUMBLOB NULL) ENGINE = InnoDB";

/// Makes the table of marks, unless it is there. Two processes may do so at once.
///
/// # Errors
///
/// There is the table or not, as it was before, but for `Unconfirmed`:
///
/// - [`ErrorKind::Denied`]: wrong credentials, or the user may not create tables.
/// - [`ErrorKind::Unsupported`]: there is no such database, or none was named.
/// - [`ErrorKind::Unavailable`]: no connection to the server, or the server is read-only.
/// - [`ErrorKind::Unconfirmed`]: the connection ended under it.
///
/// # Cancel safety
///
/// When the future is dropped the table is made or not; to call it again is safe.
pub async fn create_table(pool: &Pool) -> Result<()> {
    let failed = |failure: Failure, cause| {
        let error = Error::new(failure.kind(), FENCE, "create the table");
        failure.word(error, SCHEMA, MODULE, cause)
    };
    let connected = pool.get_conn().await;
    let mut connection =
        connected.map_err(|cause| failed(classify(&cause).uncommitted(), cause))?;
    // `IF NOT EXISTS` asks for the right to create even if it exists.
    if connection.query_drop(FIND).await.is_ok() {
        return Ok(());
    }
    connection.query_drop(SCHEMA).await.map_err(|cause| failed(classify(&cause), cause))
}

/// Raises the mark to `token` in this transaction: its first statement, in one round trip once it is
/// prepared on the connection.
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
    transaction: &mut Transaction<'_>,
    resource: &str,
    token: &FencingToken,
) -> Result<()> {
    let entry = Entry::new(Call::new(FENCE, "open", resource)?, token)?;
    raise(transaction, &entry, None).await
}

/// Raises the mark to `token` in this transaction, and writes the value that [`MysqlFence`] reads.
///
/// # Errors
///
/// As [`open`].
///
/// # Cancel safety
///
/// As [`open`].
pub async fn admit(
    transaction: &mut Transaction<'_>,
    resource: &str,
    token: &FencingToken,
    value: &[u8],
) -> Result<()> {
    let entry = Entry::new(Call::new(FENCE, "admit", resource)?, token)?;
    entry.call.value(value)?;
    raise(transaction, &entry, Some(value)).await
}

/// Compares the `token` of a shared grant with the mark, and raises nothing.
///
/// Until the transaction ends nothing raises the mark, so that what it reads after this is not of a
/// later holder. Where there is no mark yet each token passes, and outside of `REPEATABLE READ` and
/// `SERIALIZABLE` nothing is held then.
///
/// # Errors
///
/// As [`open`].
///
/// # Cancel safety
///
/// As [`open`]; the mark is as it was.
pub async fn check(
    transaction: &mut Transaction<'_>,
    resource: &str,
    token: &SharedToken,
) -> Result<()> {
    let call = shared(Call::new(FENCE, "check", resource)?, token)?;
    let row = read(transaction, &call, HOLD).await?;
    call.pass_shared(row.as_ref().map(|row| &row.mark), token)
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

/// A fence in a MySQL or MariaDB database: the mark and the value in one row of the [table](SCHEMA).
///
/// Clones share the pool. A write is a transaction of its own, so that it is committed whatever
/// `autocommit` is by default.
#[derive(Clone)]
pub struct MysqlFence(Pool);

impl MysqlFence {
    /// Makes a fence; the table is made by [`create_table`](create_table()).
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self(pool)
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

    async fn begin(&self, call: &Call) -> Result<Transaction<'static>> {
        let begun = self.0.start_transaction(TxOpts::default()).await;
        begun.map_err(|cause| uncommitted(call, cause))
    }

    async fn look(&self, call: &Call) -> Result<Option<Row>> {
        let connected = self.0.get_conn().await;
        let mut connection = connected.map_err(|cause| uncommitted(call, cause))?;
        read(&mut connection, call, READ).await
    }
}

#[async_trait]
impl Fence for MysqlFence {
    async fn open(&self, resource: &str, token: &FencingToken) -> Result<Option<Vec<u8>>> {
        let entry = Entry::new(Call::new(FENCE, "open", resource)?, token)?;
        let mut transaction = self.begin(&entry.call).await?;
        let opened = async {
            raise(&mut transaction, &entry, None).await?;
            read(&mut transaction, &entry.call, READ).await
        };
        let opened = opened.await;
        let row = end(transaction, &entry, opened).await?;
        Ok(row.and_then(|row| row.value))
    }

    async fn admit(&self, resource: &str, token: &FencingToken, value: &[u8]) -> Result<()> {
        let entry = Entry::new(Call::new(FENCE, "admit", resource)?, token)?;
        entry.call.value(value)?;
        let mut transaction = self.begin(&entry.call).await?;
        let written = raise(&mut transaction, &entry, Some(value)).await;
        end(transaction, &entry, written).await
    }

    async fn check(&self, resource: &str, token: &SharedToken) -> Result<Option<Vec<u8>>> {
        let call = shared(Call::new(FENCE, "check", resource)?, token)?;
        let row = self.look(&call).await?;
        call.pass_shared(row.as_ref().map(|row| &row.mark), token)?;
        Ok(row.and_then(|row| row.value))
    }

    async fn mark(&self, resource: &str) -> Result<Option<FencingToken>> {
        let row = self.look(&Call::new(FENCE, "mark", resource)?).await?;
        Ok(row.map(|row| row.mark))
    }
}

impl std::fmt::Debug for MysqlFence {
    // Not the pool, which would show the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MysqlFence").finish_non_exhaustive()
    }
}

struct Row {
    mark: FencingToken,
    value: Option<Vec<u8>>,
}

/// Raises the mark, and writes a value beside it if there is one.
async fn raise(
    transaction: &mut Transaction<'_>,
    entry: &Entry,
    value: Option<&[u8]>,
) -> Result<()> {
    let (name, origin, token) = (entry.call.resource().as_str(), &entry.origin, entry.number);
    let written = match value {
        None => transaction.exec_drop(OPEN, (name, origin, token)).await,
        Some(value) => transaction.exec_drop(ADMIT, (name, origin, token, value)).await,
    };
    written.map_err(|cause| uncommitted(&entry.call, cause))?;
    if transaction.last_insert_id() == Some(entry.token.value()) {
        return Ok(());
    }
    // The refusal has locked the row, so this is the mark that refused. What does not lock would read
    // the transaction's snapshot, which may be older.
    let row = read(transaction, &entry.call, HOLD).await?;
    Err(entry.refused(row.as_ref().map(|row| &row.mark)))
}

async fn read(
    connection: &mut impl Queryable,
    call: &Call,
    statement: &str,
) -> Result<Option<Row>> {
    let row = connection.exec_first(statement, (call.resource().as_str(),)).await;
    let row: Option<mysql_async::Row> = row.map_err(|cause| uncommitted(call, cause))?;
    let Some(row) = row else { return Ok(None) };
    let (origin, number, value): (String, i64, Option<Vec<u8>>) =
        mysql_async::from_row_opt(row).map_err(|cause| failed(call, Failure::Shape, cause))?;
    Ok(Some(Row { mark: mark(call, &origin, number)?, value }))
}

async fn end<T>(transaction: Transaction<'_>, entry: &Entry, done: Result<T>) -> Result<T> {
    let Ok(done) = done else {
        // Now, not when the pool finds the time: others wait for the row. Without it nothing is left,
        // either, as the connection has ended then.
        transaction.rollback().await.ok();
        return done;
    };
    match transaction.commit().await {
        Ok(()) => Ok(done),
        Err(cause) => {
            // What is refused here is rolled back for a deadlock between nodes; of all else the server
            // does not say how far it came.
            let failure = match classify(&cause) {
                failure @ Failure::Kind(ErrorKind::Unavailable) => failure,
                _ => Failure::Kind(ErrorKind::Unconfirmed),
            };
            Err(failed(&entry.call, failure, cause))
        }
    }
}

fn uncommitted(call: &Call, cause: mysql_async::Error) -> Error {
    failed(call, classify(&cause).uncommitted(), cause)
}

fn failed(
    call: &Call,
    failure: Failure,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    failure.word(call.error(failure.kind()), SCHEMA, MODULE, cause)
}

const FENCE: &str = "mysql fence";
const MODULE: &str = "mysql";

const FIND: &str = "SELECT 1 FROM portunus_fence LIMIT 0";

// The count of affected rows can't tell a token that is refused from one that is the mark: both leave
// the row as it is, which counts as 0 rows, or with CLIENT_FOUND_ROWS as 1, as an inserted row does.
// `LAST_INSERT_ID(x)` answers x and has the server report it with its reply. The row to insert sets it
// to the token; refusing sets it to 0, which adds nothing. `IF` does only the branch it takes.
// `VALUES(x)` is what was to be inserted: MariaDB does not know MySQL's newer word for it.
const OPEN: &str = "INSERT INTO portunus_fence (resource, origin, token) \
    VALUES (?, ?, LAST_INSERT_ID(?)) ON DUPLICATE KEY UPDATE \
    token = IF(origin = VALUES(origin) AND token <= VALUES(token), \
        VALUES(token), token + LAST_INSERT_ID(0))";
// From left to right each assignment sees those before it, so `token` comes last.
const ADMIT: &str = "INSERT INTO portunus_fence (resource, origin, token, value) \
    VALUES (?, ?, LAST_INSERT_ID(?), ?) ON DUPLICATE KEY UPDATE \
    value = IF(origin = VALUES(origin) AND token <= VALUES(token), VALUES(value), value), \
    token = IF(origin = VALUES(origin) AND token <= VALUES(token), \
        VALUES(token), token + LAST_INSERT_ID(0))";
const READ: &str = "SELECT origin, token, value FROM portunus_fence WHERE resource = ?";
const HOLD: &str =
    "SELECT origin, token, value FROM portunus_fence WHERE resource = ? LOCK IN SHARE MODE";
