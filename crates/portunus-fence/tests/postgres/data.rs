//! The server, the schema of a test, and clients of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use portunus_fence::Fence;
use portunus_fence::postgres::{self, PostgresFence};
use portunus_testkit::cluster::{Access, Postgres};
use portunus_testkit::{FenceHarness, async_trait};
use tokio_postgres::{Client, NoTls};

/// A schema of one test's own, with a table of data beside the marks.
pub(super) struct Data {
    server: Access<Postgres>,
    schema: String,
}

pub(super) async fn open() -> Data {
    Data::new().await
}

#[async_trait]
impl FenceHarness for Data {
    async fn fence(&self) -> Arc<dyn Fence> {
        Arc::new(PostgresFence::new(self.client().await))
    }

    /// Without a word to the server, which recovers from its log.
    async fn restart(&self) {
        self.server.kill(0).await.unwrap();
        self.server.restart(0).await.unwrap();
        self.server.wait_healthy().await.unwrap();
    }
}

impl Data {
    pub(super) async fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Each test starts on its own: some disturb the server.
        let server = Postgres::exclusive().await.unwrap();
        let schema = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let data = Self { server, schema };
        let client = data.client().await;
        client.batch_execute(&format!("CREATE SCHEMA {}", data.schema)).await.unwrap();
        postgres::create_table(&client).await.unwrap();
        let account = "CREATE TABLE account (balance BIGINT); INSERT INTO account VALUES (0)";
        client.batch_execute(account).await.unwrap();
        data
    }

    pub(super) async fn client(&self) -> Client {
        let url = format!("{}?options=-csearch_path%3D{}", self.server.url(), self.schema);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub(super) async fn now(&self) -> (i64, Option<i64>) {
        let both = "SELECT balance, (SELECT max(token) FROM portunus_fence) FROM account";
        let row = self.client().await.query_one(both, &[]).await.unwrap();
        (row.get(0), row.get(1))
    }

    /// Until the server says that this backend waits for a lock.
    pub(super) async fn waits(&self, backend: i32) {
        let client = self.client().await;
        let waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1";
        let limit = tokio::time::Instant::now() + Duration::from_secs(30);
        while client.query_one(waits, &[&backend]).await.unwrap().get::<_, Option<bool>>(0)
            != Some(true)
        {
            assert!(tokio::time::Instant::now() < limit, "it does not wait");
        }
    }
}
