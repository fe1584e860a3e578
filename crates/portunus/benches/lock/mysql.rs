//! MySQL or MariaDB: the two durable transactions that make a lock, on a connection that nobody else uses.

use super::{Counts, Raw, Result};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

/// The least that makes a lock in such a database: the key's row locked and its counter raised, the queue read
/// by a statement of its own, a row with the number; and its deletion.
pub(crate) struct Mysql(Conn);

impl Mysql {
    pub(crate) async fn connect(server: &str) -> Result<Self> {
        let mut conn = Conn::from_url(format!("mysql://{server}?prefer_socket=false")).await?;
        conn.query_drop(
            "CREATE TABLE IF NOT EXISTS raw_key (name VARBINARY(64) PRIMARY KEY, counter BIGINT UNSIGNED)
                 ENGINE = InnoDB;
             CREATE TABLE IF NOT EXISTS raw_entry (name VARBINARY(64), position BIGINT UNSIGNED,
                 PRIMARY KEY (name, position)) ENGINE = InnoDB;
             INSERT IGNORE INTO raw_key VALUES ('pair', 0); DELETE FROM raw_entry",
        )
        .await?;
        Ok(Self(conn))
    }
}

impl Raw for Mysql {
    const TRIPS: u64 = 6;

    async fn pair(&mut self) -> Result<()> {
        let begin = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";
        self.0.query_drop(begin).await?;
        let raise = "UPDATE raw_key SET counter = LAST_INSERT_ID(counter + 1) WHERE name = ?";
        self.0.exec_drop(raise, ("pair",)).await?;
        let position = self.0.last_insert_id().ok_or("no number")?;
        let read = "SELECT position FROM raw_entry WHERE name = ? AND position < ? LIMIT 1";
        let first: Option<u64> = self.0.exec_first(read, ("pair", position)).await?;
        let insert = "INSERT INTO raw_entry (name, position) VALUES (?, ?)";
        self.0.exec_drop(insert, ("pair", position)).await?;
        self.0.query_drop("COMMIT").await?;
        let remove = "DELETE FROM raw_entry WHERE name = ? AND position = ?";
        self.0.exec_drop(remove, ("pair", position)).await?;
        first.map_or(Ok(()), |_| Err("the raw lock was taken".into()))
    }
}

/// Statements that the server ran, by kind.
pub(crate) fn requests(server: &str) -> Result<Counts> {
    let url = format!("mysql://{server}?prefer_socket=false");
    // It is asked for in the middle of a runtime, which does not wait for another.
    let asking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut conn = Conn::from_url(url).await?;
            let list = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_begin', 'Com_commit', \
                'Com_delete', 'Com_insert', 'Com_rollback', 'Com_select', 'Com_set_option', 'Com_update')";
            let counts: Vec<(String, f64)> = conn.query(list).await?;
            conn.disconnect().await?;
            Ok(counts)
        })
    });
    asking.join().map_err(|_| "the counting panicked")?
}
