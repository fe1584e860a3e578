//! One row is written in a transaction of its own; the fence is one statement more in it.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, TxOpts};
use portunus_fence::postgres::{self, PreparedFence};
use portunus_fence::{FencingToken, mysql, sqlite};
use portunus_testkit::cluster::{MariaDb, Postgres};
use tokio_postgres::{Client, NoTls, Statement};

use crate::{Pair, Result, compare, token};

pub(crate) async fn sqlite() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut database = rusqlite::Connection::open(directory.path().join("bench.db"))?;
    sqlite::create_table(&mut database)?;
    database.execute_batch("CREATE TABLE stock (n INTEGER); INSERT INTO stock VALUES (0)")?;
    compare("sqlite write", "≤ 1.3", 1_000, Sqlite { database, token: token() }).await.map(drop)
}

pub(crate) async fn postgres() -> Result<()> {
    // The tests' own server does not wait for the disk: another one may be named.
    let url = match std::env::var("PORTUNUS_BENCH_POSTGRES") {
        Ok(url) => url,
        Err(_) => Postgres::shared().await?.url(),
    };
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    postgres::create_table(&client).await?;
    client.batch_execute("CREATE TABLE stock (n BIGINT); INSERT INTO stock VALUES (0)").await?;
    let write = client.prepare("UPDATE stock SET n = n + 1").await?;
    let prepared = PreparedFence::new(&client).await?;
    let pair = OnPostgres { client, write, prepared, token: token(), way: Way::Parsed };
    let mut pair = compare("postgres write, fence not prepared", "≤ 1.3", 2_000, pair).await?;
    pair.way = Way::Prepared;
    let mut pair = compare("postgres write", "≤ 1.3", 2_000, pair).await?;
    pair.way = Way::InOneFlight;
    compare("postgres write, sent with the fence", "≤ 1.3", 2_000, pair).await.map(drop)
}

pub(crate) async fn mariadb() -> Result<()> {
    let server = MariaDb::shared().await?;
    let pool = mysql_async::Pool::new(&*server.url());
    mysql::create_table(&pool).await?;
    let mut connection = pool.get_conn().await?;
    connection.query_drop("CREATE TABLE stock (n BIGINT)").await?;
    connection.query_drop("INSERT INTO stock VALUES (0)").await?;
    compare("mariadb write", "≤ 1.3", 2_000, OnMariaDb { connection, token: token() })
        .await
        .map(drop)
}

struct Sqlite {
    database: rusqlite::Connection,
    token: FencingToken,
}

impl Sqlite {
    fn write(&mut self, fenced: bool) -> Result<()> {
        let transaction = self.database.transaction()?;
        if fenced {
            sqlite::open(&transaction, "stock", &self.token)?;
        }
        transaction.prepare_cached("UPDATE stock SET n = n + 1")?.execute([])?;
        Ok(transaction.commit()?)
    }
}

impl Pair for Sqlite {
    async fn bare(&mut self) -> Result<()> {
        self.write(false)
    }

    async fn fenced(&mut self) -> Result<()> {
        self.write(true)
    }
}

struct OnPostgres {
    client: Client,
    write: Statement,
    prepared: PreparedFence,
    token: FencingToken,
    way: Way,
}

enum Way {
    Parsed,
    Prepared,
    /// The write does not wait for the fence's answer: a refusal rolls it back.
    InOneFlight,
}

impl Pair for OnPostgres {
    async fn bare(&mut self) -> Result<()> {
        let transaction = self.client.transaction().await?;
        transaction.execute(&self.write, &[]).await?;
        Ok(transaction.commit().await?)
    }

    async fn fenced(&mut self) -> Result<()> {
        let transaction = self.client.transaction().await?;
        let write = transaction.execute(&self.write, &[]);
        match self.way {
            Way::Parsed => {
                postgres::open(&transaction, "stock", &self.token).await?;
                write.await?;
            }
            Way::Prepared => {
                self.prepared.open(&transaction, "stock", &self.token).await?;
                write.await?;
            }
            Way::InOneFlight => {
                let open = self.prepared.open(&transaction, "stock", &self.token);
                let (opened, written) = tokio::join!(open, write);
                opened?;
                written?;
            }
        }
        Ok(transaction.commit().await?)
    }
}

struct OnMariaDb {
    connection: Conn,
    token: FencingToken,
}

impl Pair for OnMariaDb {
    async fn bare(&mut self) -> Result<()> {
        let mut transaction = self.connection.start_transaction(TxOpts::default()).await?;
        transaction.exec_drop(WRITE, ()).await?;
        Ok(transaction.commit().await?)
    }

    async fn fenced(&mut self) -> Result<()> {
        let mut transaction = self.connection.start_transaction(TxOpts::default()).await?;
        mysql::open(&mut transaction, "stock", &self.token).await?;
        transaction.exec_drop(WRITE, ()).await?;
        Ok(transaction.commit().await?)
    }
}

const WRITE: &str = "UPDATE stock SET n = n + 1";
