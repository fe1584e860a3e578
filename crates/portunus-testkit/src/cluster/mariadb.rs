//! The MariaDB server, and a login without a client library.

use std::io;

use async_trait::async_trait;
use testcontainers::{ContainerRequest, GenericImage, ImageExt};

use super::nodes::Plan;
use super::server::Kind;
use super::shared::Turns;
use super::store::{FILES, Ports, Store};
use super::{Result, Server, Tls, shell, status};

/// A running MariaDB server, a [`Cluster`](super::Cluster) of one node to which it dereferences.
///
/// The user `portunus`, with the password `portunus`, may do all in the database `portunus`. Inside
/// the container `mariadb` without a user is the superuser's.
pub type MariaDb = Server<MariaDbBuilder>;

impl MariaDb {
    /// One server in the clear.
    pub fn builder() -> MariaDbBuilder {
        MariaDbBuilder::new()
    }

    /// Where clients reach the server, with user, password and database. What TLS needs is not in
    /// it.
    pub fn url(&self) -> String {
        format!("mysql://portunus:portunus@{}/portunus", self.endpoint(0))
    }
}

/// Chooses how a MariaDB server is made; see [`MariaDb::builder`] for the defaults.
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct MariaDbBuilder {
    tls: Tls,
    movable_clock: bool,
}

impl MariaDbBuilder {
    const fn new() -> Self {
        Self { tls: Tls::Off, movable_clock: false }
    }

    /// How clients reach the server: no login as `portunus` succeeds with less.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Gives the server a wall clock for [`Cluster::step_clock`](super::Cluster::step_clock).
    pub fn movable_clock(mut self) -> Self {
        self.movable_clock = true;
        self
    }

    /// Starts the server and waits until it is healthy.
    ///
    /// # Errors
    ///
    /// Without an engine or an image, and when the server does not get healthy; nothing is left
    /// then.
    ///
    /// # Cancel safety
    ///
    /// The start goes on in the background, and what it started is removed.
    pub async fn start(self) -> Result<MariaDb> {
        Server::launch(self).await
    }
}

impl Kind for MariaDbBuilder {
    fn turns() -> &'static Turns<MariaDb> {
        static TURNS: Turns<MariaDb> = Turns::new(|| Box::pin(MariaDb::builder().start()));
        &TURNS
    }
}

#[async_trait]
impl Store for MariaDbBuilder {
    fn name(&self) -> &'static str {
        "mariadb"
    }

    fn nodes(&self) -> usize {
        1
    }

    fn tls(&self) -> Tls {
        self.tls
    }

    fn movable_clock(&self) -> bool {
        self.movable_clock
    }

    fn ports(&self) -> Ports {
        Ports { client: CLIENT, pooler: None, status: STATUS, peers: &[] }
    }

    fn request(&self, _: &Plan, _: usize) -> ContainerRequest<GenericImage> {
        let demand = match self.tls {
            Tls::Off => "NONE",
            Tls::Server => "SSL",
            Tls::Mutual => "X509",
        };
        let mut args = vec![format!("--init-file={FILES}/init.sql")];
        if self.tls != Tls::Off {
            args.push("--ssl".to_owned());
            args.push(format!("--ssl-cert={FILES}/server.crt"));
            args.push(format!("--ssl-key={FILES}/server.key"));
            args.push(format!("--ssl-ca={FILES}/ca.crt"));
        }
        let program = shell::clocked("mariadb-start", self.movable_clock);
        GenericImage::new(IMAGE, VERSION)
            .with_entrypoint("sh")
            .with_cmd(shell::start([shell::relay(STATUS, CLIENT)], &program, args))
            .with_copy_to(
                format!("{FILES}/init.sql"),
                format!("ALTER USER portunus@'%' REQUIRE {demand};\n").into_bytes(),
            )
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
