//! The server, the tables of a test, and clients of them.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Pool};
use portunus_fence::Fence;
use portunus_fence::mysql::{self, MysqlFence};
use portunus_testkit::cluster::{Access, MariaDb};
use portunus_testkit::{FenceHarness, async_trait};

/// A database's tables of one test's own: marks, and data.
pub(super) struct Data {
    server: Access<MariaDb>,
}

pub(super) async fn open() -> Data {
    Data::new().await
}

#[async_trait]
impl FenceHarness for Data {
    async fn fence(&self) -> Arc<dyn Fence> {
        Arc::new(MysqlFence::new(self.pool()))
    }

    /// Without a word to the server, which recovers from its log.
    async fn restart(&self) {
        self.server.kill(0).await.unwrap();
        self.server.restart(0).await.unwrap();
        self.server.wait_healthy().await.unwrap();
    }
}

impl Data {
    /// Tests take turns: the tables are the only ones that the user may make.
    pub(super) async fn new() -> Self {
        let data = Self { server: MariaDb::exclusive().await.unwrap() };
        // To see who waits for whom.
        data.as_superuser("GRANT PROCESS ON *.* TO portunus@'%'").await;
        data.reset().await;
        data
    }

    pub(super) async fn reset(&self) {
        let mut connection = self.connection().await;
        for statement in [
            "DROP TABLE IF EXISTS portunus_fence",
            "CREATE OR REPLACE TABLE account (balance BIGINT) ENGINE = InnoDB",
            "INSERT INTO account VALUES (0)",
        ] {
            connection.query_drop(statement).await.unwrap();
        }
        mysql::create_table(&self.pool()).await.unwrap();
    }

    pub(super) async fn as_superuser(&self, statement: &str) {
        self.server.exec(0, &["mariadb", "-e", statement]).await.unwrap();
    }

    pub(super) fn options(&self) -> OptsBuilder {
        OptsBuilder::from_opts(Opts::from_url(&self.server.url()).unwrap())
    }

    pub(super) fn pool(&self) -> Pool {
        Pool::new(self.options())
    }

    pub(super) async fn connection(&self) -> Conn {
        Conn::new(self.options()).await.unwrap()
    }

    pub(super) async fn now(&self) -> (i64, Option<i64>) {
        let both = "SELECT balance, (SELECT max(token) FROM portunus_fence) FROM account";
        self.connection().await.query_first(both).await.unwrap().unwrap()
    }

    /// Until the server says that this connection waits for a lock.
    pub(super) async fn waits(&self, connection: u32) {
        let mut client = self.connection().await;
        let waits = format!(
            "SELECT 1 FROM information_schema.innodb_trx \
             WHERE trx_mysql_thread_id = {connection} AND trx_state = 'LOCK WAIT'"
        );
        let limit = tokio::time::Instant::now() + Duration::from_secs(30);
        while client.query_first::<u8, _>(&waits).await.unwrap().is_none() {
            assert!(tokio::time::Instant::now() < limit, "it does not wait");
            // InnoDB looks anew only if nobody has asked for 100 ms.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
}
