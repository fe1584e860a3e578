//! The suite on PostgreSQL in a container, and through PgBouncer.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{LockBackend, LockObserver, Session};
use portunus_core::name::LockName;
use portunus_core::url::StoreUrl;
use portunus_sql::postgres::{Postgres, PostgresConfig};
use portunus_testkit::cluster::{self, Access};
use portunus_testkit::{Harness, async_trait};
use tokio_postgres::{Client, NoTls};

struct PostgresHarness {
    _server: Access<cluster::Postgres>,
    /// Of a database of its own.
    url: String,
    /// Where the backends connect to.
    way: String,
    observer: Postgres,
}

impl PostgresHarness {
    async fn open() -> Self {
        Self::by(cluster::Postgres::url).await
    }

    async fn pooled() -> Self {
        Self::by(cluster::Postgres::pooler_url).await
    }

    async fn by(way: fn(&cluster::Postgres) -> String) -> Self {
        let server = cluster::Postgres::shared().await.unwrap();
        let database = format!("lock_{:016x}", rand::random::<u64>());
        let sql = format!("CREATE DATABASE {database} OWNER portunus");
        let made = server.exec(0, &["psql", "-U", "postgres", "-c", &sql]).await.unwrap();
        assert_eq!(made.code, Some(0), "{made:?}");
        let [url, way] = [server.url(), way(&server)]
            .map(|url| format!("{}/{database}", url.rsplit_once('/').unwrap().0));
        let observer = backend(&way);
        observer.create_schema().await.unwrap();
        Self { _server: server, url, way, observer }
    }

    /// A connection without any setting of ours, as an operator's tool has it.
    async fn raw(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

#[async_trait]
impl Harness for PostgresHarness {
    async fn backend(&self) -> Arc<dyn LockBackend> {
        Arc::new(backend(&self.way))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn end_session(&self, session: &Session) {
        let id = i64::try_from(session.id.0).unwrap();
        let end = "DELETE FROM portunus_session WHERE id = $1";
        assert_eq!(self.raw().await.execute(end, &[&id]).await.unwrap(), 1);
    }

    /// Entries, tombstones, sessions, and what was seen of others: all rows but those of keys.
    async fn audit(&self, _: &[Session]) -> Vec<String> {
        // Who crashed is found dead by whoever looks next.
        self.observer.queue(&LockName::new("audit").unwrap()).await.unwrap();
        let raw = self.raw().await;
        let mut left = Vec::new();
        for table in ["portunus_session", "portunus_entry", "portunus_sighting"] {
            let count = format!("SELECT count(*) FROM {table}");
            let count: i64 = raw.query_one(&count, &[]).await.unwrap().get(0);
            left.extend((count > 0).then(|| format!("{count} rows in {table}")));
        }
        left
    }
}

fn backend(url: &str) -> Postgres {
    Postgres::new(PostgresConfig::from_url(&mut StoreUrl::parse(url).unwrap()).unwrap()).unwrap()
}

portunus_testkit::conformance! {
    #[ignore = "needs a server: `cargo xtask test`"]
    super::PostgresHarness::open => [
        exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many, shared,
        permits,
    ]
}

/// In transaction mode: each transaction may get another connection, and nobody is told of changes.
mod pooled {
    use super::PostgresHarness;

    portunus_testkit::conformance! {
        #[ignore = "needs a server: `cargo xtask test`"]
        PostgresHarness::pooled => [
            exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many,
            shared, permits,
        ]
    }
}
