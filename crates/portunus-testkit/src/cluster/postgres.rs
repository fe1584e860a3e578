//! PostgreSQL, alone or with a standby, its pooler, and a login without a client library.

mod options;

use std::io;

use async_trait::async_trait;
use testcontainers::{ContainerRequest, GenericImage, ImageExt};

use super::nodes::Plan;
use super::server::Kind;
use super::shared::Turns;
use super::store::{FILES, Ports, Store};
use super::{Result, Server, Tls, engine, shell, status};

pub use options::{PostgresBuilder, Standby};

/// A running PostgreSQL server, or a primary (node 0) and its standby (node 1), a
/// [`Cluster`](super::Cluster) to which it dereferences.
///
/// The user `portunus`, with the password `portunus`, owns the database `portunus`. Inside the
/// container no role needs a password on the Unix socket: `psql -U postgres` is the superuser.
///
/// A standby serves reads, and is healthy when it does; the [leader](super::Cluster::leader) is
/// a node that is none. An old primary that comes back after [`Postgres::promote`] takes itself
/// for a primary still.
pub type Postgres = Server<PostgresBuilder>;

impl Postgres {
    /// One server in the clear, without a standby.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::new()
    }

    /// Where clients reach node 0, with user, password and database. What TLS needs is not in it.
    pub fn url(&self) -> String {
        self.node_url(0)
    }

    /// The same of another node.
    pub fn node_url(&self, node: usize) -> String {
        format!("postgres://portunus:portunus@{}/portunus", self.endpoint(node))
    }

    /// Where clients reach node 0 through PgBouncer: each transaction may get another connection,
    /// and nothing of a session outlives its transaction.
    pub fn pooler_url(&self) -> String {
        self.node_pooler_url(0)
    }

    /// The same of another node.
    ///
    /// # Panics
    ///
    /// Panics if there is none of that number.
    pub fn node_pooler_url(&self, node: usize) -> String {
        let port = self.node(node).pooler_port.expect("BUG: every node has a pooler");
        format!("postgres://portunus:portunus@127.0.0.1:{port}/portunus")
    }

    /// Makes the standby a primary, on a timeline of its own, and waits until it is one. It waits
    /// for no standby when it commits. What became of the old primary is the caller's affair.
    ///
    /// # Errors
    ///
    /// [`Error::Command`](super::Error::Command) when it is no standby,
    /// [`Error::Engine`](super::Error::Engine) also when it is down or frozen.
    pub async fn promote(&self, node: usize) -> Result<()> {
        // Waits for up to a minute; else false, and a division by zero.
        self.psql(node, "SELECT 1 / pg_promote(true, 60)::int").await.map(drop)
    }

    /// Waits until the primary, node 0, has its standby: until then a synchronous one's commits
    /// wait.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`](super::Error::Timeout) when it has none within 30 s.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only looks.
    pub async fn wait_standby(&self) -> Result<()> {
        let wanted = match self.options.standby {
            Some(Standby::Synchronous) => "sync",
            Some(Standby::Asynchronous) | None => "async",
        };
        status::until("a standby in step", || async {
            let states = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'";
            let states = self.psql(0, states).await.ok()?;
            (states.trim() == wanted).then_some(())
        })
        .await
    }

    /// Runs a statement in a node as the superuser, in the database `portunus`, and returns the
    /// rows, a line each with `|` between the columns.
    ///
    /// # Errors
    ///
    /// [`Error::Command`](super::Error::Command) when it fails,
    /// [`Error::Engine`](super::Error::Engine) also when the node is down or frozen.
    pub async fn psql(&self, node: usize, statement: &str) -> Result<String> {
        let command = ["psql", "-XAtq", "-U", "postgres", "-d", "portunus", "-c", statement];
        Ok(self.exec(node, &command).await?.success(statement)?.stdout)
    }

    async fn run(options: PostgresBuilder) -> Result<Self> {
        engine::run(async move {
            let postgres = Self::launch(options).await?;
            if options.standby.is_some() {
                postgres.wait_standby().await?;
            }
            Ok(postgres)
        })
        .await
    }
}

impl Kind for PostgresBuilder {
    fn turns() -> &'static Turns<Postgres> {
        static TURNS: Turns<Postgres> = Turns::new(|| Box::pin(Postgres::builder().start()));
        &TURNS
    }
}

#[async_trait]
impl Store for PostgresBuilder {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn nodes(&self) -> usize {
        1 + usize::from(self.standby.is_some())
    }

    fn tls(&self) -> Tls {
        self.tls
    }

    fn movable_clock(&self) -> bool {
        self.movable_clock
    }

    fn ports(&self) -> Ports {
        let peers: &[_] = if self.standby.is_some() { &[REPLICATION] } else { &[] };
        Ports { client: CLIENT, pooler: Some(POOLER), status: STATUS, peers }
    }

    fn request(&self, plan: &Plan, node: usize) -> ContainerRequest<GenericImage> {
        let mut before = vec![
            shell::relay(STATUS, CLIENT),
            // Of its own, so that a partition leaves clients alone.
            shell::relay(REPLICATION, CLIENT),
            "postgres-pooler /var/run/postgresql &".to_owned(),
        ];
        let mut settings = Vec::new();
        if node == 0 && self.standby == Some(Standby::Synchronous) {
            settings.push("synchronous_standby_names=standby".to_owned());
        }
        if self.tls != Tls::Off {
            // The server refuses a key that others may read.
            before.push(format!(
                "install --owner postgres --mode 600 {FILES}/server.key /etc/postgresql"
            ));
            settings.push("ssl=on".to_owned());
            settings.push(format!("ssl_cert_file={FILES}/server.crt"));
            settings.push("ssl_key_file=/etc/postgresql/server.key".to_owned());
            settings.push(format!("ssl_ca_file={FILES}/ca.crt"));
        }
        let program = shell::clocked(
            match node {
                0 => "postgres-server",
                _ => "postgres-standby",
            },
            self.movable_clock,
        );
        let primary = (node > 0)
            .then(|| [plan.nodes[0].container.clone(), REPLICATION.to_string()])
            .into_iter()
            .flatten();
        let settings = settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]);
        GenericImage::new(IMAGE, VERSION)
            .with_entrypoint("sh")
            .with_cmd(shell::start(before, &program, primary.chain(settings)))
            .with_copy_to("/etc/postgresql/pg_hba.conf", access(self.tls).into_bytes())
    }

    async fn serves(&self, status: u16) -> io::Result<()> {
        let answer = status::exchange(status, &look()).await?;
        // A server that starts, stops or is full says so in an error instead.
        if answer.ends_with(&READY) {
            Ok(())
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
        }
    }

    async fn leads(&self, status: u16) -> io::Result<bool> {
        let answer = status::exchange(status, &look()).await?;
        Ok(answer.windows(PRIMARY.len()).any(|piece| piece == PRIMARY))
    }
}

/// Who may log in: as the image says, but for the clients of the network with TLS.
fn access(tls: Tls) -> String {
    let clients = match tls {
        Tls::Off => "host all,replication all all scram-sha-256",
        Tls::Server => "hostssl all all all scram-sha-256",
        Tls::Mutual => "hostssl all all all scram-sha-256 clientcert=verify-ca",
    };
    // The standby comes by the relay of its primary.
    let local = "local all all trust\nhost all health 127.0.0.1/32 trust\n\
                 host replication replica 127.0.0.1/32 scram-sha-256\n";
    format!("{local}{clients}\n")
}

/// The messages that log in as a role without a password, ask whether the server is a standby, and
/// take leave.
fn look() -> Vec<u8> {
    let settings = b"user\0health\0database\0portunus\0\0";
    let query = b"SELECT pg_is_in_recovery()\0";
    let length = |content: usize| {
        u32::try_from(4 + content).expect("BUG: a message of less than 50 bytes").to_be_bytes()
    };
    let start = [&length(4 + settings.len())[..], &PROTOCOL.to_be_bytes(), settings].concat();
    let query = [&b"Q"[..], &length(query.len()), query].concat();
    [&start[..], &query, b"X", &length(0)].concat()
}

const CLIENT: u16 = 5432;
const STATUS: u16 = 5433;
const REPLICATION: u16 = 5434;
const POOLER: u16 = 6432;
/// Version 3.0 of the protocol.
const PROTOCOL: u32 = 3 << 16;
/// `ReadyForQuery`, outside of a transaction.
const READY: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];
/// A row of one column that says false.
const PRIMARY: [u8; 12] = [b'D', 0, 0, 0, 11, 0, 1, 0, 0, 0, 1, b'f'];
/// The host part makes a missing image fail at once, instead of a pull.
const IMAGE: &str = "localhost/portunus/postgres";
const VERSION: &str = "17";
