//! A lock that ends with the caller's own transaction.

use mysql_async::prelude::Queryable;
use mysql_async::{Row, Transaction};
use portunus_core::error::{ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::token::{FencingToken, Incarnation, Origin};

use super::backend::Mysql;
use super::connection::Settings;
use super::error::{STORE, Stage, failure, read_only, unsuited};
use super::rows::{literal, parsed};
use crate::schema::check_version;
use crate::server::failure::{Failure, Fallible};

impl Mysql {
    /// Takes the lock until the end of a transaction of the caller's own, on a connection of the caller's
    /// own to the same database; `None` if somebody holds it, or waits for it.
    ///
    /// Nothing renews it and nothing releases it: it ends with the transaction, whichever way that ends, and
    /// also with its connection. It excludes exclusive, shared and permit holders of the same name alike,
    /// and other transactions. Those who want the lock meanwhile are answered as by one that is held
    /// ([`LockBackend::enter`](portunus_core::backend::LockBackend::enter) of one that may wait fails as
    /// `Unavailable`, and is repeated), but cost their managers up to a second for each try: keep such
    /// transactions short.
    ///
    /// The token is above those of all before it. It is for *this* transaction alone, as for
    /// `portunus_fence::mysql::open`: if it is rolled back, the next holder has the same one.
    ///
    /// Make it the transaction's **first** statement. In REPEATABLE READ, the default, an earlier read has
    /// taken the snapshot of which all later ones are: **they read what an earlier holder has overwritten
    /// since**. MariaDB from 11.6 on fails this call instead, as `Unavailable`. The lock itself holds
    /// in every isolation level, for what is read of the queue is locked.
    ///
    /// Waits for the row of the name while another transaction has it, as long as the caller's
    /// `innodb_lock_wait_timeout` says, which is 50 s unless set. Two names that two transactions take in
    /// turn should be taken in one order.
    ///
    /// End the transaction also after `None`: the server keeps the locks of rows that were taken after a
    /// savepoint when it rolls back to it. Until then nobody enters the queue, and who holds the lock can't
    /// release it; it is renewed, though.
    ///
    /// # Errors
    ///
    /// Roll the transaction back; after a deadlock the server has done so.
    ///
    /// - [`ErrorKind::Unavailable`]: `innodb_lock_wait_timeout`, a deadlock, a snapshot that is too old, a lost
    ///   connection, a server that is read-only.
    /// - [`ErrorKind::Denied`]: the user lacks a privilege.
    /// - [`ErrorKind::Unsupported`]: the tables are of another version.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the lock is taken or not, and a savepoint may be left: roll the
    /// transaction back.
    ///
    /// # Algorithm
    ///
    /// The row of the name is locked by raising its counter, as entering a queue does; then a statement of its
    /// own reads whether the queue is empty. Whoever enters waits for the row.
    pub async fn acquire_in(
        &self,
        transaction: &mut Transaction<'_>,
        name: &LockName,
    ) -> Result<Option<FencingToken>> {
        let fail = |failure: Failure| failure.into_error(STORE, "acquire_in", Some(name.as_str()));
        // Before anything is locked, for this is by another connection: who is in the way may be dead.
        self.server.settle().await.ok();
        let key = literal(self.keys.key(name).as_bytes());
        drive(transaction, "SAVEPOINT portunus_acquire").await.map_err(fail)?;
        let taken = take(transaction, &key).await.map_err(fail)?;
        let end = match taken {
            Some(_) => "RELEASE SAVEPOINT portunus_acquire",
            // With the number that it would have had.
            None => "ROLLBACK TO SAVEPOINT portunus_acquire",
        };
        drive(transaction, end).await.map_err(fail)?;
        Ok(taken.map(|(incarnation, value)| {
            FencingToken::new(value, Origin::new(incarnation, name.clone()))
        }))
    }
}

/// No statement here takes the transaction's snapshot: one that waits for the row would come too late for it.
async fn take(
    transaction: &mut Transaction<'_>,
    key: &str,
) -> Fallible<Option<(Incarnation, u64)>> {
    let settings = Settings::read(transaction).await?;
    let meta = rows(transaction, META).await?.into_iter().next();
    let meta =
        meta.ok_or_else(|| unsuited(ErrorKind::Unsupported, "`portunus_meta` has no row"))?;
    let (version, incarnation): (i64, Vec<u8>) = parsed(meta)?;
    check_version(STORE, version)?;
    let raise = format!(
        "INSERT INTO portunus_key (lock_key, counter) \
         SELECT {key}, LAST_INSERT_ID(floor + 1) FROM portunus_meta \
         WHERE CONCAT(@@GLOBAL.read_only) IN ('0', 'OFF') LOCK IN SHARE MODE \
         ON DUPLICATE KEY UPDATE counter = LAST_INSERT_ID(counter + 1)"
    );
    drive(transaction, &raise).await?;
    if transaction.affected_rows() == 0 {
        return Err(read_only());
    }
    let token = transaction.last_insert_id().unwrap_or(0);
    let first = format!(
        "SELECT position FROM portunus_entry WHERE lock_key = {key} LIMIT 1 LOCK IN SHARE MODE"
    );
    let is_free = rows(transaction, &first).await?.is_empty();
    let incarnation = settings.incarnation(incarnation)?;
    Ok(is_free.then_some((incarnation, token)))
}

async fn drive(transaction: &mut Transaction<'_>, statement: &str) -> Fallible<()> {
    let done = transaction.query_drop(statement).await;
    done.map_err(|cause| failure(cause, Stage::Uncommitted))
}

async fn rows(transaction: &mut Transaction<'_>, statement: &str) -> Fallible<Vec<Row>> {
    let rows = transaction.query(statement).await;
    rows.map_err(|cause| failure(cause, Stage::Uncommitted))
}

const META: &str = "SELECT version, incarnation FROM portunus_meta LOCK IN SHARE MODE";
