//! What a test may choose about a ZooKeeper ensemble.

use std::time::Duration;

use super::{Result, Tls, ZooKeeper};

/// Chooses how an ensemble is made; see [`ZooKeeper::builder`] for the defaults.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct ZooKeeperBuilder {
    pub(super) tls: Tls,
    pub(super) tick: Duration,
    pub(super) container_check: Duration,
}

impl ZooKeeperBuilder {
    pub(super) fn new() -> Self {
        Self {
            tls: Tls::Off,
            tick: Duration::from_millis(500),
            container_check: Duration::from_secs(3600),
        }
    }

    /// How clients reach the nodes.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// ZooKeeper's unit of time, in whole milliseconds. Sessions may ask for 2 to 20 of them and
    /// expire at multiples of it; a follower gives a leader up after 4 of them.
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// How often the leader looks for empty container nodes and for TTL nodes whose time is over.
    pub fn container_check(mut self, every: Duration) -> Self {
        self.container_check = every;
        self
    }

    /// Starts the nodes, at the same time, and waits until all of them are healthy.
    ///
    /// # Errors
    ///
    /// Without an engine or an image, and when the nodes do not get healthy; nothing is left then.
    ///
    /// # Cancel safety
    ///
    /// The start goes on in the background, and what it started is removed.
    pub async fn start(self) -> Result<ZooKeeper> {
        ZooKeeper::launch(self).await
    }
}
