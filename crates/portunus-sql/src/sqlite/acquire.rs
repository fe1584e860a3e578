//! A lock that ends with the caller's own transaction.

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::token::{FencingToken, Incarnation, Origin};
use rusqlite::{Connection, Transaction, ffi};

use super::backend::Sqlite;
use super::enter;
use super::error::{Failure, Fallible, STORE};
use super::onward::{Back, check_onward};
use super::place::Place;
use super::{queue, schema, session};

impl Sqlite {
    /// Takes the lock until the end of a transaction of the caller's own, on a connection of the caller's
    /// own to the same file; `None` if somebody holds it, or waits for it, in any mode. Nothing was written
    /// then.
    ///
    /// For work that lies in one database: it respects the locks that managers hold, and its token is of
    /// one order with theirs, but it needs no session, no renewal and no release. A holder that is dead is
    /// found out as by a manager's acquire; one of another kernel only if this value asks again after its
    /// time to live.
    ///
    /// The lock ends with the transaction, however that ends: nothing is left of it, and nothing has to be
    /// released. A commit keeps the token, and who comes next gets a higher one. A rollback takes the token
    /// back, with all that was written by it: it must not have left the transaction before the commit.
    /// The same holds for a savepoint that it was taken in. A second call with the same name in the same
    /// transaction is not excluded, and returns a higher token.
    ///
    /// The transaction has to be one on the file of this value, in its `main` database, where the tables
    /// are: the file of locks is the application's own then. Opening a session makes them, as does
    /// [`schema_sql`](super::schema_sql). Nobody else writes to the file until the transaction ends, be it
    /// a renewal of a manager: one that lasts longer than a manager's time to live ends its session.
    ///
    /// [`Transaction`] is that of `rusqlite` 0.41, which is a part of this signature: a program with
    /// another version of it can't call this.
    ///
    /// # Errors
    ///
    /// The transaction goes on as if this had not been called, but may be a writer by then.
    ///
    /// - [`ErrorKind::Unavailable`]: the transaction can't become a writer. It read before, and another
    ///   wrote since: roll it back, and begin it with [`TransactionBehavior::Immediate`]. Or another has
    ///   been writing for as long as the connection's `busy_timeout`.
    /// - [`ErrorKind::Invalid`]: the transaction is on another file, or the file has no tables of ours, or
    ///   `PRAGMA synchronous` is below `FULL`, with which a loss of power would give a token twice.
    /// - [`ErrorKind::Regression`]: the file went back, since this value last saw it, to a copy.
    /// - [`ErrorKind::Denied`], [`ErrorKind::Unsupported`]: as when a session is opened.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let home = tempfile::tempdir()?;
    /// # let path = home.path().join("shop.db");
    /// use portunus_core::name::LockName;
    /// use portunus_sql::sqlite::{Sqlite, SqliteConfig, schema_sql};
    /// use rusqlite::{Connection, TransactionBehavior};
    ///
    /// let locks = Sqlite::new(SqliteConfig::new(&path)?);
    /// let mut shop = Connection::open(&path)?;
    /// shop.execute_batch(schema_sql())?;
    ///
    /// let transaction = shop.transaction_with_behavior(TransactionBehavior::Immediate)?;
    /// match locks.acquire_in(&transaction, &LockName::new("stock/42")?)? {
    ///     Some(_token) => {
    ///         // … write …
    ///         transaction.commit()?;
    ///     }
    ///     None => println!("somebody is at it"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Algorithm
    ///
    /// SQLite's write lock excludes all others until the transaction ends, so no entry of its own is needed:
    /// the queue is empty of those who live, and the counter is raised once, as by every grant.
    ///
    /// [`TransactionBehavior::Immediate`]: rusqlite::TransactionBehavior::Immediate
    pub fn acquire_in(
        &self,
        transaction: &Transaction<'_>,
        name: &LockName,
    ) -> Result<Option<FencingToken>> {
        let acquired = self.acquire_within(transaction, &self.keys.key(name));
        let acquired = acquired.map_err(|failure| explained(failure, name))?;
        Ok(acquired.map(|(incarnation, token)| {
            FencingToken::new(token, Origin::new(incarnation, name.clone()))
        }))
    }

    fn acquire_within(
        &self,
        transaction: &Transaction<'_>,
        key: &str,
    ) -> Fallible<Option<(Incarnation, u64)>> {
        is_of(self.place(), transaction)?;
        is_durable(transaction)?;
        become_writer(transaction)?;
        let incarnation = schema::read(transaction)?.ok_or_else(no_tables)?;
        let back = Back(ErrorKind::Regression, OPERATION);
        check_onward(transaction, &self.liveness, back)?;
        let standing = queue::sessions(transaction, key)?;
        if !standing.is_empty()
            && !session::end_if_all_dead(transaction, &self.liveness, &standing)?
        {
            return Ok(None);
        }
        Ok(Some((incarnation, enter::raise(transaction)?)))
    }
}

/// First of all, for a transaction that reads may be too late to write. Then nobody else writes, and what
/// is read is what was written last.
fn become_writer(transaction: &Transaction<'_>) -> Fallible<()> {
    let Err(cause) = transaction.execute(BECOME_WRITER, []) else { return Ok(()) };
    let failure = Failure::from(cause);
    // Not to be asked while others write: that would be reading.
    if failure.spoils_connection() && schema::read(transaction)?.is_none() {
        return Err(no_tables().into());
    }
    Err(failure)
}

/// Whether the transaction is on this file: in another one the lock would exclude nobody.
fn is_of(place: &Place, connection: &Connection) -> Fallible<()> {
    let real = place.check()?;
    let other = connection.path().filter(|path| !path.is_empty());
    match other {
        Some(path) if place.is_same(path) => Ok(()),
        other => {
            let detail = format!(
                "the transaction is on `{}`, and the locks are in `{}`",
                other.unwrap_or("no file"),
                real.display()
            );
            Err(invalid(detail).into())
        }
    }
}

fn is_durable(connection: &Connection) -> Fallible<()> {
    let level: i64 =
        connection.prepare_cached("PRAGMA main.synchronous")?.query_row([], |row| row.get(0))?;
    if level >= FULL {
        return Ok(());
    }
    let detail = "the connection has `PRAGMA synchronous` below `FULL`: a loss of power would take the \
         token back, and it would be given again";
    Err(invalid(detail).into())
}

/// SQLite's own word for a reader that is too late tells nobody what to do.
fn explained(failure: Failure, name: &LockName) -> Error {
    let is_late = matches!(
        &failure,
        Failure::Sql { cause: rusqlite::Error::SqliteFailure(code, _), .. }
            if code.extended_code == ffi::SQLITE_BUSY_SNAPSHOT
    );
    let error = failure.into_error(OPERATION, Some(name.as_str()));
    match is_late {
        true => error.with_detail(
            "the transaction has read, and another wrote since, so it can't write any more: begin it \
             with `TransactionBehavior::Immediate`",
        ),
        false => error,
    }
}

fn no_tables() -> Error {
    invalid("the file has no tables of locks: `sqlite::schema_sql` makes them")
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, STORE, OPERATION).with_detail(detail)
}

/// Changes no row.
const BECOME_WRITER: &str = "UPDATE main.portunus_meta SET position = position WHERE one <> 1";
const FULL: i64 = 2;
const OPERATION: &str = "acquire_in";
