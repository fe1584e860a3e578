//! A connection of our own beside the caller's transaction.
//!
//! What the transaction reads without locks may be of before it had the key's row, and what it reads with
//! locks keeps others from their rows, in the gaps between them too. A connection that is in no transaction
//! reads what is committed, and locks nothing.

use std::fmt;

use mysql_async::prelude::Queryable;
use portunus_core::error::{Error, ErrorKind};
use portunus_core::token::Incarnation;
use tokio::sync::Mutex;

use super::connection::Connection;
use super::error::{STORE, Stage, failure};
use super::rows::{all, literal};
use super::servers::Servers;
use crate::server::failure::Fallible;
use crate::server::line::{Dialer, LONGEST};

/// Where a connection is, in every isolation level and character set the same.
macro_rules! server {
    () => {
        "HEX(CONCAT_WS('/', @@hostname, @@port, @@server_id, @@datadir, DATABASE()))"
    };
}

/// Connects when it is first asked.
pub(super) struct Witness {
    dialer: Dialer<Servers>,
    kept: Mutex<Option<Connection>>,
}

/// Which tables of which server a connection is to.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Place {
    incarnation: Incarnation,
    /// Two that were copied with all their files are still two.
    server: String,
}

impl Place {
    /// Where a transaction is. Reads no table, and so takes no snapshot.
    pub(super) async fn of(conn: &mut impl Queryable, incarnation: Incarnation) -> Fallible<Self> {
        let rows = conn.query(concat!("SELECT ", server!())).await;
        let rows = rows.map_err(|cause| failure(cause, Stage::Uncommitted))?;
        let server = all::<(String,)>(rows)?.into_iter().map(|(server,)| server).collect();
        Ok(Self { incarnation, server })
    }
}

impl Witness {
    pub(super) fn new(dialer: Dialer<Servers>) -> Self {
        Self { dialer, kept: Mutex::new(None) }
    }

    /// Whether nobody is in the queue, for a transaction at `place` that has the key's row: none can enter
    /// then, and who entered before has committed, which the server shows before it frees the row.
    ///
    /// Everybody else waits for the row meanwhile, so nothing here waits for long.
    pub(super) async fn is_free(&self, place: &Place, key: &str) -> Fallible<bool> {
        let mut slot = self.kept.lock().await;
        // It may have ended since, or be to a server that has lost its part to another.
        if let Some(mut kept) = slot.take()
            && let Ok(Some(is_free)) = self.ask(&mut kept, place, key).await
        {
            *slot = Some(kept);
            return Ok(is_free);
        }
        let mut connection = self.dialer.connect().await?;
        let is_free = self.ask(&mut connection, place, key).await?.ok_or_else(|| {
            let detail = "the transaction is not on the server and in the database of this store";
            Error::new(ErrorKind::Invalid, STORE, "acquire_in").with_detail(detail)
        })?;
        *slot = Some(connection);
        Ok(is_free)
    }

    async fn ask(
        &self,
        connection: &mut Connection,
        place: &Place,
        key: &str,
    ) -> Fallible<Option<bool>> {
        self.dialer.limited(LONGEST, ask(connection, place, key)).await
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Witness").field(&self.dialer).finish()
    }
}

/// `None` if the connection is to another place. A proxy may lead one connection to several servers, so
/// the answer says where it is from.
async fn ask(connection: &mut Connection, place: &Place, key: &str) -> Fallible<Option<bool>> {
    let ask = format!(
        "SELECT {}, NOT EXISTS (SELECT 1 FROM portunus_entry WHERE lock_key = {})",
        server!(),
        literal(key.as_bytes())
    );
    let answers: Vec<(String, bool)> = all(connection.rows_of(ask).await?)?;
    let is_same = *connection.incarnation() == place.incarnation;
    let answer = answers.into_iter().find(|(server, _)| is_same && *server == place.server);
    Ok(answer.map(|(_, is_free)| is_free))
}
