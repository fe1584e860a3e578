//! Redis, or Valkey: one server or several masters, and a `PING` without a client library.

mod group;
mod options;

use std::io;

use async_trait::async_trait;
use testcontainers::{ContainerRequest, GenericImage, ImageExt};

use options::User;

use super::nodes::Plan;
use super::server::Kind;
use super::shared::Turns;
use super::store::{FILES, Ports, Store};
use super::{Process, Result, Server, Tls, shell, status};

pub use group::{Group, RedisGroup};
pub use options::{Persistence, RedisBuilder};

/// A running Redis server, a [`Cluster`](super::Cluster) of one node to which it dereferences.
///
/// Unless its builder said otherwise, each answered write is in its append-only file; nothing is
/// ever evicted.
pub type Redis = Server<RedisBuilder<1>>;

/// `N` running Redis servers that know nothing of each other, a [`Cluster`](super::Cluster) to
/// which it dereferences; each is as a [`Redis`] is.
///
/// A [`Proxy`](crate::proxy::Proxy) before its [endpoint](super::Cluster::endpoint) makes one of
/// them slow.
pub type RedisMasters<const N: usize = 5> = Server<RedisBuilder<N>>;

impl<const N: usize> Server<RedisBuilder<N>> {
    /// Redis in the clear, without users, with its data on disk.
    pub fn builder() -> RedisBuilder<N> {
        RedisBuilder::new()
    }

    /// Where clients reach the servers: `redis://host:port` for one, `redlock://host:port,…` for
    /// several, with user and password if there are. What TLS needs is not in it.
    pub fn url(&self) -> String {
        let scheme = if N == 1 { "redis" } else { "redlock" };
        format!("{scheme}://{}{}", self.login(), self.endpoints().join(","))
    }

    /// Where clients reach one server: `redis://host:port`, with user and password.
    pub fn node_url(&self, node: usize) -> String {
        format!("redis://{}{}", self.login(), self.endpoint(node))
    }

    /// Kills a node and brings it back without its data, and waits until it serves: another server
    /// of the same address.
    ///
    /// # Errors
    ///
    /// Any [`Error`](super::Error), when the node does not come back, also when it is down or
    /// frozen now.
    pub async fn wipe(&self, node: usize) -> Result<()> {
        let remove = "rm -rf /var/lib/redis/*";
        // The server has its files open and writes on, to nowhere.
        self.exec(node, &["sh", "-c", remove]).await?.success(remove)?;
        self.kill(node).await?;
        self.restart(node).await?;
        status::until("the wiped node healthy", || async {
            self.is_healthy(node).await.then_some(())
        })
        .await
    }

    /// Makes a node a replica of another, and waits until it is in step. Only in the clear and
    /// without users.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`](super::Error::Timeout) when it is not in step within 30 s,
    /// [`Error::Engine`](super::Error::Engine) also when it is down or frozen.
    pub async fn replicate(&self, node: usize, master: usize) -> Result<()> {
        let host = &self.node(master).container;
        self.cli(node, &["replicaof", host, &CLIENT.to_string()]).await?;
        status::until("a replica in step", || async {
            let told = self.cli(node, &["info", "replication"]).await.ok()?;
            told.contains("master_link_status:up").then_some(())
        })
        .await
    }

    /// Makes a replica a master, with what it has of the other's data. Only in the clear and
    /// without users.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`](super::Error::Engine), also when it is down or frozen.
    pub async fn promote(&self, node: usize) -> Result<()> {
        self.cli(node, &["replicaof", "no", "one"]).await.map(drop)
    }

    /// Runs a Python script in a node and leaves it running; redis-py can be imported, and
    /// reaches the node at its own default address. Only in the clear and without users.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`](super::Error::Engine), also when the node is down or frozen.
    pub async fn spawn_python(&self, node: usize, script: &str, args: &[&str]) -> Result<Process> {
        self.spawn(node, &[&["python3", "-u", "-c", script], args].concat()).await
    }

    /// Runs `redis-cli` in a node, in the clear and as the default user.
    async fn cli(&self, node: usize, args: &[&str]) -> Result<String> {
        let command = [&["redis-cli", "-e"], args].concat();
        Ok(self.exec(node, &command).await?.success(&command.join(" "))?.stdout)
    }

    /// User and password, as a URL begins with them.
    fn login(&self) -> String {
        let user = self.options.user.as_ref();
        user.map(|user| format!("{}:{}@", user.name, user.password)).unwrap_or_default()
    }
}

impl Kind for RedisBuilder<1> {
    fn turns() -> &'static Turns<Redis> {
        static TURNS: Turns<Redis> = Turns::new(|| Box::pin(Redis::builder().start()));
        &TURNS
    }
}

impl Kind for RedisBuilder<5> {
    fn turns() -> &'static Turns<RedisMasters> {
        static TURNS: Turns<RedisMasters> =
            Turns::new(|| Box::pin(<RedisMasters>::builder().start()));
        &TURNS
    }
}

#[async_trait]
impl<const N: usize> Store for RedisBuilder<N> {
    fn name(&self) -> &'static str {
        if self.valkey { "valkey" } else { "redis" }
    }

    fn nodes(&self) -> usize {
        N
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
        let (image, version) =
            if self.valkey { (VALKEY, VALKEY_VERSION) } else { (IMAGE, VERSION) };
        let mut args = Vec::new();
        let mut set = |setting: String| args.extend(setting.split(' ').map(str::to_owned));
        let clear = if self.tls == Tls::Off { CLIENT } else { LOCAL };
        if self.tls != Tls::Off {
            let demand = if self.tls == Tls::Mutual { "yes" } else { "no" };
            // The one in the clear is not published.
            set(format!("--port {LOCAL} --tls-port {CLIENT} --tls-auth-clients {demand}"));
            set(format!("--tls-cert-file {FILES}/server.crt --tls-key-file {FILES}/server.key"));
            set(format!("--tls-ca-cert-file {FILES}/ca.crt"));
        }
        if self.persistence == Persistence::None {
            set("--appendonly no".to_owned());
        }
        if let Some(User { name, password, rules }) = &self.user {
            set(format!("--user {name} on >{password} {rules}"));
            // The default user is for looking alone.
            set("--user default on nopass -@all +ping +quit".to_owned());
        }
        let program = shell::clocked("redis", self.movable_clock);
        GenericImage::new(image, version).with_entrypoint("sh").with_cmd(shell::start(
            [shell::relay(STATUS, clear)],
            &program,
            args,
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

const CLIENT: u16 = 6379;
const STATUS: u16 = 6380;
/// In the clear beside TLS.
const LOCAL: u16 = 6381;
/// The host part makes a missing image fail at once, instead of a pull.
const IMAGE: &str = "localhost/portunus/redis";
const VERSION: &str = "8.0";
const VALKEY: &str = "localhost/portunus/valkey";
const VALKEY_VERSION: &str = "8.1";
