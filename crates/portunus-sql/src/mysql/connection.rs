//! One connection to the server: settings that nobody else may choose, and the ends of transactions.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Params, Row};
use portunus_core::error::ErrorKind;
use portunus_core::token::Incarnation;

use super::config::MysqlConfig;
use super::error::{Stage, failure, is_mismatch, unsuited};
use super::rows::all;
use super::schema;
use crate::server::failure::{Failure, Fallible};

/// A connection whose settings are ours.
#[derive(Debug)]
pub(super) struct Connection {
    /// `None` only while it is dropped.
    conn: Option<Conn>,
    incarnation: Incarnation,
    begin: String,
}

/// What a statement did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    /// How many rows it found to write; one that was replaced counts twice.
    pub(super) rows: u64,
    /// The number that it handed to `LAST_INSERT_ID`.
    pub(super) number: u64,
}

impl Connection {
    /// Connects to one server; refuses it if it takes no writes.
    pub(super) async fn open(
        config: &MysqlConfig,
        options: OptsBuilder,
        patience: Duration,
    ) -> Fallible<Self> {
        let opened = Conn::new(options).await;
        let mut conn = opened.map_err(|cause| refused(config, cause))?;
        let settings = Settings::read(&mut conn).await?;
        settings.check_writable()?;
        let seconds = whole_seconds(patience);
        let set = conn.query_drop(settings.of_ours(seconds)).await;
        set.map_err(|cause| failure(cause, Stage::Uncommitted))?;
        let incarnation = settings.incarnation(schema::prepare(&mut conn).await?)?;
        let begin = format!(
            "SET SESSION wait_timeout = {}; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; \
             START TRANSACTION READ WRITE",
            seconds * IDLE
        );
        Ok(Self { conn: Some(conn), incarnation, begin })
    }

    pub(super) fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    pub(super) async fn settings(&mut self) -> Fallible<Settings> {
        Settings::read(self.conn()?).await
    }

    /// A statement that reads, or is part of a transaction.
    pub(super) async fn rows(
        &mut self,
        statement: &str,
        params: impl Into<Params> + Send,
    ) -> Fallible<Vec<Row>> {
        let rows = self.conn()?.exec(statement, params.into()).await;
        rows.map_err(|cause| failure(cause, Stage::Uncommitted))
    }

    /// A statement that reads and is no other time the same: its values are in its text.
    pub(super) async fn rows_of(&mut self, statement: String) -> Fallible<Vec<Row>> {
        let rows = self.conn()?.query(statement).await;
        rows.map_err(|cause| failure(cause, Stage::Uncommitted))
    }

    /// A statement that writes, by itself.
    pub(super) async fn write(
        &mut self,
        statement: &str,
        params: impl Into<Params> + Send,
    ) -> Fallible<Done> {
        let done = self.try_write(statement, params.into()).await?;
        done.map_err(|cause| failure(cause, Stage::Alone))
    }

    /// The same for who knows what to make of some errors.
    pub(super) async fn try_write(
        &mut self,
        statement: &str,
        params: impl Into<Params> + Send,
    ) -> Fallible<mysql_async::Result<Done>> {
        let conn = self.conn()?;
        let done = conn.exec_drop(statement, params.into()).await;
        Ok(done.map(|()| Done {
            rows: conn.affected_rows(),
            number: conn.last_insert_id().unwrap_or(0),
        }))
    }

    /// Begins a transaction. A client that stops in the middle of it must not keep others out: unlike
    /// MariaDB, MySQL has no other limit for that than the one of idle connections, which holds as long as
    /// the transaction.
    pub(super) async fn begin(&mut self) -> Fallible<()> {
        let begin = self.begin.clone();
        let begun = self.conn()?.query_drop(begin).await;
        begun.map_err(|cause| failure(cause, Stage::Uncommitted))
    }

    pub(super) async fn commit(&mut self) -> Fallible<()> {
        let committed = self.conn()?.query_drop(COMMIT).await;
        committed.map_err(|cause| failure(cause, Stage::Committing))
    }

    pub(super) async fn roll_back(&mut self) -> Fallible<()> {
        let undone = self.conn()?.query_drop(ROLL_BACK).await;
        undone.map_err(|cause| failure(cause, Stage::Uncommitted))
    }

    /// Ends a transaction that failed. If that fails, too, the connection is of no more use, and the server
    /// rolls back when it ends.
    pub(super) async fn give_up(&mut self, mut failed: Failure) -> Failure {
        let is_over = !failed.spares_connection() || self.roll_back().await.is_err();
        if let Failure::Sql { spares_connection, .. } = &mut failed {
            *spares_connection = !is_over;
        }
        failed
    }

    fn conn(&mut self) -> Fallible<&mut Conn> {
        self.conn.as_mut().ok_or_else(|| unsuited(ErrorKind::Unavailable, "the connection ended"))
    }
}

/// Takes leave as far as that goes at once: the driver would start a task for it, which a server that
/// does not answer keeps for ever.
impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            drop(conn.disconnect().now_or_never());
        }
    }
}

/// What the server says about itself.
#[derive(Debug)]
pub(super) struct Settings(HashMap<String, String>);

impl Settings {
    pub(super) async fn read(conn: &mut impl Queryable) -> Fallible<Self> {
        let rows = conn.query(SETTINGS).await;
        let rows = rows.map_err(|cause| failure(cause, Stage::Uncommitted))?;
        let pairs: Vec<(String, String)> = all(rows)?;
        Ok(Self(pairs.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect()))
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Those who may write regardless are refused, too: what a replica is told it does not tell others.
    fn check_writable(&self) -> Fallible<()> {
        for name in ["read_only", "super_read_only", "innodb_read_only"] {
            if !matches!(self.get(name), "" | "0" | "OFF") {
                return Err(unsuited(
                    ErrorKind::Unavailable,
                    format!("the server is read-only, as a replica is (`{name}`)"),
                ));
            }
        }
        Ok(())
    }

    /// The life of tables with this random row.
    pub(super) fn incarnation(&self, mut row: Vec<u8>) -> Fallible<Incarnation> {
        row.extend(self.identity());
        Ok(Incarnation::new(row)?)
    }

    /// What changes when another server takes over. MariaDB has no number of its own for a server but the
    /// one that replication needs to be another on each.
    fn identity(&self) -> Vec<u8> {
        let uuid = self.get("server_uuid");
        match uuid.is_empty() {
            true => format!("/{}", self.get("server_id")).into_bytes(),
            false => format!("/{uuid}").into_bytes(),
        }
    }

    /// The settings of our sessions, whatever the server's are.
    fn of_ours(&self, seconds: u64) -> String {
        let wsrep = match self.get("wsrep_on") {
            // On a node of Galera nothing is read that is older than what was committed elsewhere.
            "ON" => ", wsrep_sync_wait = 7",
            _ => "",
        };
        format!(
            "SET NAMES utf8mb4 COLLATE utf8mb4_bin; \
             SET SESSION autocommit = 1, completion_type = 0, foreign_key_checks = 1, \
             unique_checks = 1, sql_auto_is_null = 0, sql_safe_updates = 0, \
             sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
             innodb_lock_wait_timeout = {seconds}{wsrep}; \
             SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"
        )
    }
}

fn refused(config: &MysqlConfig, cause: mysql_async::Error) -> Failure {
    match config.tls_config() {
        Ok(Some(tls)) if is_mismatch(&cause) => tls.mismatch("mysql", cause).into(),
        _ => failure(cause, Stage::Uncommitted),
    }
}

/// The server knows no parts of seconds here.
fn whole_seconds(patience: Duration) -> u64 {
    patience.as_secs() + u64::from(patience.subsec_nanos() > 0 || patience.is_zero())
}

/// How many times the patience a transaction may stand idle.
const IDLE: u64 = 3;
const COMMIT: &str = "COMMIT; SET SESSION wait_timeout = DEFAULT";
const ROLL_BACK: &str = "ROLLBACK; SET SESSION wait_timeout = DEFAULT";
// Those that a server does not know are left out.
const SETTINGS: &str = "SHOW VARIABLES WHERE Variable_name IN ('version', 'server_uuid', 'server_id', \
    'read_only', 'super_read_only', 'innodb_read_only', 'innodb_flush_log_at_trx_commit', \
    'sync_binlog', 'log_bin', 'wsrep_on')";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_rounded_up_to_seconds() {
        let rounded = |millis| whole_seconds(Duration::from_millis(millis));
        assert_eq!([0, 1, 999, 1000, 1001, 2500].map(rounded), [1, 1, 1, 1, 2, 3]);
    }

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Settings(pairs.iter().map(owned).collect())
    }

    #[test]
    fn a_server_that_takes_no_writes_is_refused() {
        settings(&[("read_only", "OFF"), ("innodb_read_only", "OFF")]).check_writable().unwrap();
        for name in ["read_only", "super_read_only", "innodb_read_only"] {
            for value in ["ON", "1", "NO_LOCK_NO_ADMIN"] {
                let refused = settings(&[(name, value)]).check_writable().unwrap_err();
                let error = refused.into_error("mysql", "connect", None);
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    }

    #[test]
    fn another_server_is_another_life() {
        let maria = settings(&[("server_id", "7")]);
        let mysql = settings(&[("server_id", "7"), ("server_uuid", "3E11-71")]);
        assert_eq!((maria.identity(), mysql.identity()), (b"/7".to_vec(), b"/3E11-71".to_vec()));
    }
}
