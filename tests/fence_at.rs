//! A fence from a URL: what the tests that end processes, and the process that they end, both open.

use std::sync::Arc;
use std::time::Duration;

use portunus_fence::etcd::EtcdFence;
use portunus_fence::mysql::MysqlFence;
use portunus_fence::postgres::PostgresFence;
use portunus_fence::redis::RedisFence;
use portunus_fence::sqlite::{self, SqliteFence};
use portunus_fence::zookeeper::ZooKeeperFence;
use portunus_fence::{Fence, FencingToken, FileFence};
use zookeeper_client::Acls;

/// Opens the fence, with its table where it has one.
pub(crate) async fn fence_at(url: &str) -> Arc<dyn Fence> {
    let (scheme, rest) = url.split_once(':').expect("a scheme");
    let hosts = rest.trim_start_matches('/');
    match scheme {
        "file" => Arc::new(FileFence::new(rest).expect("a directory")),
        "sqlite" => {
            let mut connection = rusqlite::Connection::open(rest).expect("a file");
            sqlite::create_table(&mut connection).expect("a table");
            Arc::new(SqliteFence::new(connection))
        }
        "postgres" => {
            let (client, connection) =
                tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("a server");
            // It ends with its client.
            tokio::spawn(connection);
            let fence = PostgresFence::new(client);
            fence.create_table().await.expect("a table");
            Arc::new(fence)
        }
        "mysql" => {
            let fence = MysqlFence::new(mysql_async::Pool::new(url));
            fence.create_table().await.expect("a table");
            Arc::new(fence)
        }
        "redis" => {
            let client = redis::Client::open(url).expect("a URL");
            // By itself the client gives up after half a second, which a busy machine may need.
            let patient = redis::AsyncConnectionConfig::new()
                .set_connection_timeout(Some(Duration::from_secs(20)))
                .set_response_timeout(Some(Duration::from_secs(20)));
            let connection = client.get_multiplexed_async_connection_with_config(&patient).await;
            let connection = connection.expect("a server");
            Arc::new(RedisFence::new(connection))
        }
        "etcd" => {
            let hosts: Vec<_> = hosts.split(',').collect();
            let client = etcd_client::Client::connect(hosts, None).await.expect("a cluster");
            Arc::new(EtcdFence::new(client, "fences"))
        }
        "zookeeper" => {
            let client = zookeeper_client::Client::connect(hosts).await.expect("an ensemble");
            Arc::new(ZooKeeperFence::new(client, "/fences", Acls::anyone_all()))
        }
        unknown => panic!("no fence at `{unknown}`"),
    }
}

/// A token of the lock that guards what is written.
pub(crate) fn token(value: u64) -> FencingToken {
    // 4 bytes of incarnation, then the lock's name.
    format!("{value};origin=046c69666573746f636b").parse().expect("a token")
}
