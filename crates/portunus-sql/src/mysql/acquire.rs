//! A lock that ends with the caller's own transaction.

use mysql_async::prelude::Queryable;
use mysql_async::{Row, Transaction};
use portunus_core::error::{ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::token::{FencingToken, Incarnation, Origin};

use super::backend::Mysql;
use super::connection::{Settings, writable};
use super::error::{STORE, Stage, failure, read_only, unsuited};
use super::rows::{literal, parsed};
use super::witness::Place;
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
    /// Make it the transaction's **first** statement. In REPEATABLE READ, the default, all plain reads are of
    /// one snapshot, which the first read takes, of whatever table, or `START TRANSACTION WITH CONSISTENT
    /// SNAPSHOT`. Is that older than the lock, **you read what earlier holders have overwritten since, and
    /// write over it: a lost update, while you hold the lock**. Nobody can tell that for you: MariaDB from
    /// 11.6 on fails this call if the name was used since, as `Unavailable` (`innodb_snapshot_isolation`;
    /// in SERIALIZABLE also the first statement, if it had to wait); MySQL and older ones say nothing. So
    /// one of these:
    ///
    /// - the first statement, after a plain `START TRANSACTION`;
    /// - READ COMMITTED, where each statement reads what is committed when it begins;
    /// - reads that lock (`SELECT … FOR UPDATE`), which are of now, of all that the lock protects.
    ///
    /// The lock itself holds in every isolation level: whether the queue is empty is read beside the
    /// transaction, by another connection of this store, once the name's row is had. So the transaction has
    /// to be on the server, and in the database, that this store is configured with.
    ///
    /// A `ROLLBACK TO SAVEPOINT` of your own, to one of before this call, takes the token back, and may
    /// free the lock: if the name had no row before, or the transaction had used no table before that
    /// savepoint. Otherwise the row, and with it the lock, is kept until the transaction ends. Count on
    /// neither, and do not use the token again.
    ///
    /// Waits for the row of the name while another transaction has it, as long as the caller's
    /// `innodb_lock_wait_timeout` says, which is 50 s unless set. Two names that two transactions take in
    /// turn should be taken in one order.
    ///
    /// End the transaction also after `None`: the server keeps the locks of rows that were taken after a
    /// savepoint when it rolls back to it. Until then nobody enters the queue; who holds the lock can renew
    /// and release it.
    ///
    /// # Errors
    ///
    /// Roll the transaction back; after a deadlock the server has done so.
    ///
    /// - [`ErrorKind::Unavailable`]: `innodb_lock_wait_timeout`, a deadlock, a snapshot that is too old, a lost
    ///   connection, a server that is read-only.
    /// - [`ErrorKind::Invalid`]: the transaction is on another server, or in another database, than this
    ///   store.
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
    /// The row of the name is locked by raising its counter, as entering a queue does; then another connection
    /// reads whether the queue is empty, which locks nothing. Whoever enters waits for the row.
    pub async fn acquire_in(
        &self,
        transaction: &mut Transaction<'_>,
        name: &LockName,
    ) -> Result<Option<FencingToken>> {
        let fail = |failure: Failure| failure.into_error(STORE, "acquire_in", Some(name.as_str()));
        // Before anything is locked, for this is by another connection: who is in the way may be dead.
        self.server.settle().await.ok();
        let key = self.keys.key(name);
        drive(transaction, "SAVEPOINT portunus_acquire").await.map_err(fail)?;
        let raised = raise(transaction, &literal(key.as_bytes())).await.map_err(fail)?;
        let is_free = self.witness.is_free(&raised.place, &key).await.map_err(fail)?;
        let end = match is_free {
            true => "RELEASE SAVEPOINT portunus_acquire",
            // With the number that it would have had.
            false => "ROLLBACK TO SAVEPOINT portunus_acquire",
        };
        drive(transaction, end).await.map_err(fail)?;
        let token =
            || FencingToken::new(raised.counter, Origin::new(raised.incarnation, name.clone()));
        Ok(is_free.then(token))
    }
}

/// What having the key's row brings.
struct Raised {
    counter: u64,
    incarnation: Incarnation,
    place: Place,
}

/// No statement here takes the transaction's snapshot: one that waits for the row would come too late for it.
async fn raise(transaction: &mut Transaction<'_>, key: &str) -> Fallible<Raised> {
    let settings = Settings::read(transaction).await?;
    let meta = rows(transaction, META).await?.into_iter().next();
    let meta =
        meta.ok_or_else(|| unsuited(ErrorKind::Unsupported, "`portunus_meta` has no row"))?;
    let (version, incarnation): (i64, Vec<u8>) = parsed(meta)?;
    check_version(STORE, version)?;
    let incarnation = settings.incarnation(incarnation)?;
    let place = Place::of(transaction, incarnation.clone()).await?;
    let raise = format!(
        "INSERT INTO portunus_key (lock_key, counter) \
         SELECT {key}, LAST_INSERT_ID(floor + 1) FROM portunus_meta WHERE {} LOCK IN SHARE MODE \
         ON DUPLICATE KEY UPDATE counter = LAST_INSERT_ID(counter + 1)",
        writable!()
    );
    drive(transaction, &raise).await?;
    if transaction.affected_rows() == 0 {
        return Err(read_only());
    }
    let counter = transaction.last_insert_id().unwrap_or(0);
    Ok(Raised { counter, incarnation, place })
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
