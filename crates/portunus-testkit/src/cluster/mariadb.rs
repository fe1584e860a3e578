//! The MariaDB server, and a login without a client library.

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

/// A running MariaDB server, a [`Cluster`] of one node to which it dereferences.
///
/// The user `portunus`, with the password `portunus`, may do all in the database `portunus`. Inside
/// the container `mariadb` without a user is the superuser's.
#[derive(Clone, Debug)]
pub struct MariaDb(Cluster);

impl MariaDb {
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
    /// As [`MariaDb::shared`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn exclusive() -> Result<Access<Self>> {
        TURNS.exclusive().await
    }

    /// Where clients reach the server, with user, password and database.
    pub fn url(&self) -> String {
        format!("mysql://portunus:portunus@{}/portunus", self.endpoint(0))
    }
}

impl Deref for MariaDb {
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
        "mariadb"
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
            "mariadb-start",
            STATUS,
            CLIENT,
            [],
        ))
    }

    async fn serves(&self, status: u16) -> io::Result<()> {
        // All at once: without a password, the answer to the greeting does not hang on it.
        let answer = status::exchange(status, &login()).await?;
        // A server that is full greets with an error, and then there is no second packet.
        match packets(&answer).nth(1) {
            Some([OK, ..]) => Ok(()),
            _ => Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned())),
        }
    }

    async fn leads(&self, _: u16) -> io::Result<bool> {
        Ok(true)
    }
}

/// The packets that log in as a user without a password, and take leave.
fn login() -> Vec<u8> {
    let mut answer = Vec::new();
    answer.extend((PROTOCOL_41 | SECURE_CONNECTION).to_le_bytes());
    // The longest packet, the character set (utf8mb4), and what is reserved.
    answer.extend((1_u32 << 24).to_le_bytes());
    answer.push(45);
    answer.extend([0; 23]);
    answer.extend(b"health\0");
    // The length of the proof of a password.
    answer.push(0);
    let length = u8::try_from(answer.len()).expect("BUG: a packet of less than 50 bytes");
    // A packet is its length in three bytes, its number in the exchange, and the rest.
    [&[length, 0, 0, 1], &answer[..], &[1, 0, 0, 0, QUIT]].concat()
}

/// What the packets say, those that came whole.
fn packets(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&[low, middle, high, _], rest) = bytes.split_first_chunk()?;
        let length = usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16;
        let (packet, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        Some(packet)
    })
}

static TURNS: Turns<MariaDb> =
    Turns::new(|| Box::pin(async { Cluster::launch(Plain).await.map(MariaDb) }));

const CLIENT: u16 = 3306;
const STATUS: u16 = 3307;
const OK: u8 = 0;
const QUIT: u8 = 1;
/// What the client can: the protocol since 4.1, and a proof of any length.
const PROTOCOL_41: u32 = 1 << 9;
const SECURE_CONNECTION: u32 = 1 << 15;
/// The host part makes a missing image fail at once, instead of a pull.
const IMAGE: &str = "localhost/portunus/mariadb";
const VERSION: &str = "11.8";
