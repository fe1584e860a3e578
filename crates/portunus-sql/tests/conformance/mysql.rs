//! The suite on MariaDB in a container, or on the server that `PORTUNUS_TEST_MYSQL` names, whose user may
//! make databases `lock_…`: they are left there.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use portunus_core::backend::{LockBackend, LockObserver, Session};
use portunus_core::name::LockName;
use portunus_core::url::StoreUrl;
use portunus_sql::mysql::{Mysql, MysqlConfig};
use portunus_testkit::cluster::{Access, MariaDb};
use portunus_testkit::{Harness, async_trait};

struct MysqlHarness {
    /// The container, while it is used.
    _server: Option<Access<MariaDb>>,
    /// Of a database of its own.
    url: String,
    observer: Mysql,
}

impl MysqlHarness {
    async fn open() -> Self {
        let (server, any) = match std::env::var("PORTUNUS_TEST_MYSQL") {
            Ok(url) => (None, url),
            Err(_) => {
                let server = MariaDb::shared().await.unwrap();
                let grant = r"GRANT ALL ON `lock\_%`.* TO portunus@'%'";
                server.exec(0, &["mariadb", "-e", grant]).await.unwrap();
                let url = server.url();
                (Some(server), url)
            }
        };
        let database = format!("lock_{:016x}", rand::random::<u64>());
        let mut conn = Conn::new(Opts::from_url(&any).unwrap()).await.unwrap();
        conn.query_drop(format!("CREATE DATABASE {database}")).await.unwrap();
        conn.disconnect().await.unwrap();
        let url = format!("{}/{database}", any.rsplit_once('/').unwrap().0);
        let observer = backend(&url);
        observer.create_schema().await.unwrap();
        Self { _server: server, url, observer }
    }

    /// A connection without any setting of ours, as an operator's tool has it.
    async fn raw(&self) -> Conn {
        Conn::new(Opts::from_url(&self.url).unwrap()).await.unwrap()
    }
}

#[async_trait]
impl Harness for MysqlHarness {
    async fn backend(&self) -> Arc<dyn LockBackend> {
        Arc::new(backend(&self.url))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn end_session(&self, session: &Session) {
        let id = u64::try_from(session.id.0).unwrap();
        let mut raw = self.raw().await;
        raw.exec_drop("DELETE FROM portunus_session WHERE id = ?", (id,)).await.unwrap();
        raw.disconnect().await.unwrap();
    }

    /// Entries, tombstones, sessions, and what was seen of others: all rows but those of keys.
    async fn audit(&self, _: &[Session]) -> Vec<String> {
        // Who crashed is found dead by whoever looks next.
        self.observer.queue(&LockName::new("audit").unwrap()).await.unwrap();
        let mut raw = self.raw().await;
        let mut left = Vec::new();
        for table in ["portunus_session", "portunus_entry", "portunus_sighting"] {
            let count = format!("SELECT count(*) FROM {table}");
            let count: u64 = raw.query_first(count).await.unwrap().unwrap();
            left.extend((count > 0).then(|| format!("{count} rows in {table}")));
        }
        raw.disconnect().await.unwrap();
        left
    }
}

fn backend(url: &str) -> Mysql {
    Mysql::new(MysqlConfig::from_url(&mut StoreUrl::parse(url).unwrap()).unwrap()).unwrap()
}

portunus_testkit::conformance! {
    #[ignore = "needs a server: `cargo xtask test`"]
    MysqlHarness::open => [
        exclusion, expiry, fencing, queue, naming, cancellation, observing, election, many, shared,
        permits,
    ]
}
