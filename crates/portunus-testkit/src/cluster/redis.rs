//! The Redis server: append-only file, and a `PING` without a client library.

use std::io;
use std::ops::Deref;

use async_trait::async_trait;
use testcontainers::{ContainerRequest, GenericImage, ImageExt};

use super::nodes::Plan;
use super::relay;
use super::shared::Turns;
use super::status;
use super::store::{Ports, Store};
use super::{Access, Cluster, Result, Tls};

/// A running Redis server, a [`Cluster`] of one node to which it dereferences.
///
/// Each answered write is in its append-only file, and nothing is ever evicted.
#[derive(Clone, Debug)]
pub struct Redis(Cluster);

impl Redis {
    /// This process's server, in the clear, together with other tests that leave it alone.
    ///
    /// The first call starts it; it is healthy then. It lives as long as the process; the next
    /// sweep removes it.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or not be made whole after a test that disturbed it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn shared() -> Result<Access<Self>> {
        TURNS.shared().await
    }

    /// The same server, alone: the caller may disturb it and need not undo it.
    ///
    /// # Errors
    ///
    /// As [`Redis::shared`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn exclusive() -> Result<Access<Self>> {
        TURNS.exclusive().await
    }

    /// Where clients reach the server: `redis://host:port`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.endpoint(0))
    }
}

impl Deref for Redis {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

/// How the server is run; there is nothing to choose yet.
struct Plain;

#[async_trait]
impl Store for Plain {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn nodes(&self) -> usize {
        1
    }

    fn tls(&self) -> Tls {
        Tls::Off
    }

    fn ports(&self) -> Ports {
        Ports { client: CLIENT, status: STATUS, peers: &[] }
    }

    fn request(&self, _: &Plan, _: usize) -> ContainerRequest<GenericImage> {
        GenericImage::new(IMAGE, VERSION).with_entrypoint("sh").with_cmd(relay::beside(
            "redis",
            STATUS,
            CLIENT,
            [],
        ))
    }

    async fn serves(&self, status: u16) -> io::Result<()> {
        // While it reads its file it answers, too: `-LOADING`.
        let answer = status::exchange(status, b"PING\r\nQUIT\r\n").await?;
        if answer.starts_with(b"+PONG\r\n") {
            Ok(())
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
        }
    }

    async fn leads(&self, _: u16) -> io::Result<bool> {
        Ok(true)
    }
}

static TURNS: Turns<Redis> =
    Turns::new(|| Box::pin(async { Cluster::launch(Plain).await.map(Redis) }));

const CLIENT: u16 = 6379;
const STATUS: u16 = 6380;
/// The host part makes a missing image fail at once, instead of a pull.
const IMAGE: &str = "localhost/portunus/redis";
const VERSION: &str = "8.0";
