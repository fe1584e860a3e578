//! A lock that ends with the caller's own transaction.

use futures_util::future::{join, join3};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::token::{FencingToken, Incarnation, Origin};
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};

use super::backend::Postgres;
use super::connect::incarnation;
use super::error::{STORE, harmless};
use super::rows::{get, natural};
use super::sql::{self, life};
use crate::schema::check_version;
use crate::server::failure::{Failure, Fallible};

impl Postgres {
    /// Takes the lock until the end of a transaction of the caller's own, on a connection of the
    /// caller's own to the same tables; `None` if somebody holds it, or waits for it.
    ///
    /// Nothing renews it and nothing releases it: it ends with the transaction, whichever way that ends,
    /// and also with its connection. It excludes exclusive, shared and permit holders of the same name
    /// alike, and other transactions. Those who want the lock meanwhile are answered as by one that is
    /// held ([`LockBackend::enter`](portunus_core::backend::LockBackend::enter) of one that may wait fails
    /// as `Unavailable`, and is repeated), but cost their managers up to 250 ms for each try: keep such
    /// transactions short. No session and no connection of this backend is needed, but to end the dead.
    ///
    /// The token is above those of all before it. It is for *this* transaction alone, as for
    /// `portunus_fence::postgres::open`: if it is rolled back, the next holder has the same one.
    ///
    /// Waits for the row of the name while another transaction has it, as long as the caller's
    /// `lock_timeout` says, which is for ever unless set. Two names that two transactions take in turn
    /// should be taken in one order.
    ///
    /// # Errors
    ///
    /// The transaction goes on as it was before the call, but for one whose connection has ended:
    ///
    /// - [`ErrorKind::Unsupported`]: the transaction is not READ COMMITTED: its snapshot may be older than
    ///   the lock. Or the tables are of another version.
    /// - [`ErrorKind::Unavailable`]: `lock_timeout`, a deadlock, a lost connection.
    /// - [`ErrorKind::Denied`]: the role lacks a privilege.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the lock is taken or not, and a savepoint may be left: roll the
    /// transaction back.
    ///
    /// # Algorithm
    ///
    /// The row of the name is locked by raising its counter, as entering a queue does; then a statement
    /// of its own reads whether the queue is empty. Whoever enters waits for the row.
    pub async fn acquire_in(
        &self,
        transaction: &Transaction<'_>,
        name: &LockName,
    ) -> Result<Option<FencingToken>> {
        let fail = |failure: Failure| failure.into_error(STORE, "acquire_in", Some(name.as_str()));
        let key = self.keys.key(name);
        let mut is_settled = false;
        loop {
            let taken = take(transaction, &key).await;
            let undoes = !matches!(taken, Ok(Some(_)));
            let end = if undoes { ROLL_BACK } else { "RELEASE SAVEPOINT portunus_acquire" };
            let ended = transaction.batch_execute(end).await.map_err(harmless);
            let taken = taken.map_err(fail)?;
            ended.map_err(fail)?;
            if let Some((incarnation, value)) = taken {
                let origin = Origin::new(incarnation, name.clone());
                return Ok(Some(FencingToken::new(value, origin)));
            }
            // Who is in the way may be dead.
            if is_settled || !self.server.settle().await.unwrap_or(false) {
                return Ok(None);
            }
            is_settled = true;
        }
    }
}

async fn take(transaction: &Transaction<'_>, key: &str) -> Fallible<Option<(Incarnation, u64)>> {
    let (saved, meta) =
        join(transaction.batch_execute("SAVEPOINT portunus_acquire"), ask(transaction, META)).await;
    saved.map_err(harmless)?;
    let meta = meta.map_err(harmless)?;
    let unsupported =
        |detail| Error::new(ErrorKind::Unsupported, STORE, "acquire_in").with_detail(detail);
    let meta = meta.first().ok_or_else(|| unsupported("`portunus_meta` has no row"))?;
    if get::<&str>(meta, 0)? != "read committed" {
        return Err(unsupported(
            "the transaction is not READ COMMITTED, so what it reads may be older than the lock",
        )
        .into());
    }
    check_version(STORE, get(meta, 1)?)?;
    let incarnation = incarnation(get(meta, 2)?, get(meta, 3)?)?;
    let (raised, first) = join(raise(transaction, key), queue(transaction, key)).await;
    let (raised, first) = match raised.map_err(harmless)? {
        Some(row) => (Some(row), first.map_err(harmless)?),
        None => {
            let (made, raised, first) =
                join3(make(transaction, key), raise(transaction, key), queue(transaction, key))
                    .await;
            made.map_err(harmless)?;
            (raised.map_err(harmless)?, first.map_err(harmless)?)
        }
    };
    let Some(raised) = raised else {
        return Err(Error::new(ErrorKind::Unavailable, STORE, "acquire_in").into());
    };
    let token = natural(get(&raised, 0)?);
    Ok(first.is_empty().then_some((incarnation, token)))
}

async fn ask(transaction: &Transaction<'_>, sql: &str) -> Result<Vec<Row>, tokio_postgres::Error> {
    transaction.query_typed(sql, &[]).await
}

async fn make(transaction: &Transaction<'_>, key: &str) -> Result<u64, tokio_postgres::Error> {
    transaction.execute_typed(sql::MAKE_KEY.text, &[(&key, Type::TEXT)]).await
}

async fn raise(
    transaction: &Transaction<'_>,
    key: &str,
) -> Result<Option<Row>, tokio_postgres::Error> {
    transaction.query_typed_opt(RAISE, &[(&key, Type::TEXT)]).await
}

/// The first of the queue, by a statement that begins when the row is locked.
async fn queue(
    transaction: &Transaction<'_>,
    key: &str,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    transaction.query_typed(FIRST, &[(&key, Type::TEXT)]).await
}

const META: &str = concat!(
    "SELECT current_setting('transaction_isolation'), version, incarnation, ",
    life!(),
    " FROM portunus_meta"
);
const RAISE: &str =
    "UPDATE portunus_key SET counter = counter + 1 WHERE key = $1 RETURNING counter";
const FIRST: &str = "SELECT 1 FROM portunus_entry WHERE key = $1 LIMIT 1";
const ROLL_BACK: &str =
    "ROLLBACK TO SAVEPOINT portunus_acquire; RELEASE SAVEPOINT portunus_acquire";
