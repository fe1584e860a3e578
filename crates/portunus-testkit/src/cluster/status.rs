//! What the nodes say about themselves, on a port that needs neither TLS nor password.

use std::io;
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::etcd::{Etcd, NODES};
use super::{Error, Result, engine};

impl Etcd {
    /// The node that leads, confirmed by a quorum; waits for an election that is under way.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when none leads within 30 s.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only looks.
    pub async fn leader(&self) -> Result<usize> {
        let etcd = self.clone();
        engine::run(async move {
            until("a leader", || async {
                let nodes = (0..NODES).map(|node| Box::pin(etcd.leads(node)));
                select_ok(nodes).await.ok().map(|(leader, _)| leader)
            })
            .await
        })
        .await
    }

    /// Whether the node serves linearizable requests now.
    pub async fn is_healthy(&self, node: usize) -> bool {
        let etcd = self.clone();
        engine::run(async move { etcd.serves(node).await.is_ok() }).await
    }

    /// Waits until every node serves linearizable requests.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when one does not within 30 s.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only looks.
    pub async fn wait_healthy(&self) -> Result<()> {
        let etcd = self.clone();
        engine::run(async move {
            until("all nodes healthy", || async {
                let nodes = join_all((0..NODES).map(|node| etcd.serves(node))).await;
                nodes.iter().all(io::Result::is_ok).then_some(())
            })
            .await
        })
        .await
    }

    /// What the node counts, in the text format of Prometheus.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] when the node is down or frozen.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only looks.
    pub async fn metrics(&self, node: usize) -> Result<String> {
        let etcd = self.clone();
        let asked = engine::run(async move { etcd.ask(node, "/metrics").await }).await;
        asked.map_err(Error::engine("show a node's metrics"))
    }

    /// Succeeds when a quorum takes the node for its leader.
    async fn leads(&self, node: usize) -> io::Result<usize> {
        // In this order: a leader that was cut off believes in itself for an election timeout
        // more, but cannot have served a linearizable request.
        self.serves(node).await?;
        let metrics = self.ask(node, "/metrics").await?;
        if metrics.lines().any(|line| line == "etcd_server_is_leader 1") {
            Ok(node)
        } else {
            Err(io::Error::other("follows"))
        }
    }

    async fn serves(&self, node: usize) -> io::Result<()> {
        let health = self.ask(node, "/health").await?;
        if health.starts_with("HTTP/1.0 200") || health.starts_with("HTTP/1.1 200") {
            Ok(())
        } else {
            Err(io::Error::other(health))
        }
    }

    async fn ask(&self, node: usize, path: &str) -> io::Result<String> {
        let port = self.0.nodes[node].metrics_port;
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        // A paused node accepts and says nothing.
        timeout(ANSWER_LIMIT, exchange).await?
    }
}

/// Looks until there is something, or for [`LIMIT`].
pub(super) async fn until<T, F>(awaited: &str, look: impl Fn() -> F + Send + Sync) -> Result<T>
where
    F: Future<Output = Option<T>> + Send,
{
    let found = timeout(LIMIT, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(PAUSE).await;
        }
    });
    found.await.map_err(|_| Error::Timeout { awaited: awaited.to_owned(), limit: LIMIT })
}

const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
