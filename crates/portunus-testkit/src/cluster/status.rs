//! What the nodes say about themselves, on a port that needs neither TLS nor password.

use std::io;
use std::time::Duration;

use futures_util::future::{select_ok, try_join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::nodes::Cluster;
use super::{Error, Result, engine};

impl Cluster {
    /// The node that leads, confirmed by a quorum; waits for an election that is under way. A
    /// server on its own leads while it is healthy, and where nobody elects anyone several may: the
    /// answer is one of them then.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when none leads within 30 s.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only looks.
    pub async fn leader(&self) -> Result<usize> {
        let cluster = self.clone();
        engine::run(async move {
            // Each at its own pace: a frozen node's silence holds up none of the others.
            let nodes = cluster.nodes().map(|node| {
                let cluster = &cluster;
                Box::pin(until("a leader", move || async move { cluster.leads(node).await.ok() }))
            });
            select_ok(nodes).await.map(|(leader, _)| leader)
        })
        .await
    }

    /// Whether the node serves linearizable requests now.
    pub async fn is_healthy(&self, node: usize) -> bool {
        let cluster = self.clone();
        engine::run(async move { cluster.serves(node).await.is_ok() }).await
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
        let cluster = self.clone();
        engine::run(async move {
            let nodes = cluster.nodes().map(|node| {
                let cluster = &cluster;
                until("all nodes healthy", move || async move { cluster.serves(node).await.ok() })
            });
            try_join_all(nodes).await.map(drop)
        })
        .await
    }

    /// Succeeds when a quorum takes the node for its leader.
    async fn leads(&self, node: usize) -> io::Result<usize> {
        // In this order: a leader that was cut off believes in itself for a while more, but cannot
        // have served a linearizable request.
        self.serves(node).await?;
        let leads = self.0.store.leads(self.node(node).status_port).await?;
        if leads { Ok(node) } else { Err(io::Error::other("follows")) }
    }

    async fn serves(&self, node: usize) -> io::Result<()> {
        self.0.store.serves(self.node(node).status_port).await
    }
}

/// What a node answers on its status port to one request, after which it closes the connection.
pub(super) async fn exchange(port: u16, request: &[u8]) -> io::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    // A paused node accepts and says nothing.
    timeout(ANSWER_LIMIT, exchange).await?
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
const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
