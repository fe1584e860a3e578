//! The PostgreSQL server, and a login without a client library.

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

/// A running PostgreSQL server, a [`Cluster`] of one node to which it dereferences.
///
/// The user `portunus`, with the password `portunus`, owns the database `portunus`. Inside the
/// container no role needs a password on the Unix socket: `psql -U postgres` is the superuser.
#[derive(Clone, Debug)]
pub struct Postgres(Cluster);

impl Postgres {
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
    /// As [`Postgres::shared`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn exclusive() -> Result<Access<Self>> {
        TURNS.exclusive().await
    }

    /// Where clients reach the server, with user, password and database.
    pub fn url(&self) -> String {
        format!("postgres://portunus:portunus@{}/portunus", self.endpoint(0))
    }
}

impl Deref for Postgres {
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
        "postgres"
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
            "postgres-server",
            STATUS,
            CLIENT,
            [],
        ))
    }

    async fn serves(&self, status: u16) -> io::Result<()> {
        let answer = status::exchange(status, &login()).await?;
        // A server that starts, stops or is full says so in an error instead.
        if answer.ends_with(&READY) {
            Ok(())
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
        }
    }

    async fn leads(&self, _: u16) -> io::Result<bool> {
        Ok(true)
    }
}

/// The messages that log in as a role without a password, and take leave.
fn login() -> Vec<u8> {
    let settings = b"user\0health\0database\0portunus\0\0";
    let length = u32::try_from(8 + settings.len()).expect("BUG: a message of less than 50 bytes");
    let terminate = [b'X', 0, 0, 0, 4];
    [&length.to_be_bytes()[..], &PROTOCOL.to_be_bytes(), settings, &terminate].concat()
}

static TURNS: Turns<Postgres> =
    Turns::new(|| Box::pin(async { Cluster::launch(Plain).await.map(Postgres) }));

const CLIENT: u16 = 5432;
const STATUS: u16 = 5433;
/// Version 3.0 of the protocol.
const PROTOCOL: u32 = 3 << 16;
/// `ReadyForQuery`, outside of a transaction.
const READY: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];
/// The host part makes a missing image fail at once, instead of a pull.
const IMAGE: &str = "localhost/portunus/postgres";
const VERSION: &str = "17";
