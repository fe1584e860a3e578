//! The ZooKeeper ensemble: its nodes' settings, four-letter words, and kazoo inside a node.

mod options;

use std::collections::HashMap;
use std::io;
use std::ops::Deref;

use async_trait::async_trait;
use testcontainers::{ContainerRequest, GenericImage, ImageExt};

use super::nodes::{NODES, Plan};
use super::shared::Turns;
use super::store::{FILES, Ports, Store};
use super::{Access, Cluster, Error, Process, Result, Tls, engine, shell, status};

pub use options::ZooKeeperBuilder;

/// A running ZooKeeper ensemble, a [`Cluster`] to which it dereferences.
#[derive(Clone, Debug)]
pub struct ZooKeeper(Cluster);

impl ZooKeeper {
    /// Three nodes in the clear, with ticks of 500 ms: a session lasts 1 s to 60 s, and a leader
    /// that is frozen or cut off is replaced within 3 s. Container nodes and nodes with a time to
    /// live are on. They are looked after every hour: none goes in a test that did not ask for it.
    pub fn builder() -> ZooKeeperBuilder {
        ZooKeeperBuilder::new()
    }

    /// This process's ensemble, in the clear, together with other tests that leave its nodes
    /// alone.
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

    /// The same ensemble, alone: the caller may disturb its nodes and need not undo it.
    ///
    /// # Errors
    ///
    /// As [`ZooKeeper::shared`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn exclusive() -> Result<Access<Self>> {
        TURNS.exclusive().await
    }

    /// What the node answers to a four-letter word: `wchp` shows watches by path, `cons`
    /// connections, `dump` sessions and their ephemeral nodes (asked from the leader). All words
    /// are allowed, with TLS and through [`Cluster::cut_clients`] too.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] when the node is down or frozen. A node without a quorum answers, too:
    /// that it is not serving requests.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ask(&self, node: usize, word: &str) -> Result<String> {
        let (port, word) = (self.node(node).status_port, word.to_owned());
        let asked = engine::run(async move { ask(port, &word).await }).await;
        asked.map_err(Error::engine("ask a node"))
    }

    /// What the node counts, by name (`zk_…`).
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] when the node is down, frozen or without a quorum.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only looks.
    pub async fn mntr(&self, node: usize) -> Result<HashMap<String, String>> {
        let text = self.ask(node, "mntr").await?;
        let pairs = text.lines().map(|line| line.split_once('\t').ok_or(line));
        pairs
            .map(|pair| pair.map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect::<Result<_, _>>()
            .map_err(Error::engine("count"))
    }

    /// Runs a Python script in a node and leaves it running; kazoo can be imported.
    ///
    /// `ZOOKEEPER_HOSTS` in its environment names all nodes for kazoo; with TLS the files for a
    /// client are `ca.crt`, `client.crt` and `client.key` below `ZOOKEEPER_CERTIFICATES`.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], also when the node is down or frozen.
    pub async fn spawn_python(&self, node: usize, script: &str, args: &[&str]) -> Result<Process> {
        self.spawn(node, &[&["python3", "-u", "-c", script], args].concat()).await
    }

    async fn launch(options: ZooKeeperBuilder) -> Result<Self> {
        Cluster::launch(options).await.map(Self)
    }
}

impl Deref for ZooKeeper {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

#[async_trait]
impl Store for ZooKeeperBuilder {
    fn name(&self) -> &'static str {
        "zookeeper"
    }

    fn nodes(&self) -> usize {
        NODES
    }

    fn tls(&self) -> Tls {
        self.tls
    }

    fn movable_clock(&self) -> bool {
        false
    }

    fn ports(&self) -> Ports {
        let client = if self.tls == Tls::Off { PLAIN } else { SECURE };
        Ports { client, pooler: None, status: STATUS, peers: &[QUORUM, ELECTION] }
    }

    fn request(&self, plan: &Plan, node: usize) -> ContainerRequest<GenericImage> {
        let client = self.ports().client;
        let hosts = plan.nodes.iter().map(|node| format!("{}:{client}", node.container));
        let relay = shell::relay(STATUS, PLAIN);
        let mut request = GenericImage::new(IMAGE, VERSION)
            .with_entrypoint("sh")
            .with_cmd(shell::start([relay], "zookeeper", settings(self, plan)))
            .with_env_var("ZOO_MY_ID", (node + 1).to_string())
            .with_env_var("ZOOKEEPER_HOSTS", hosts.collect::<Vec<_>>().join(","))
            .with_env_var("ZOOKEEPER_CERTIFICATES", FILES)
            // The one setting that zoo.cfg does not take.
            .with_env_var(
                "JDK_JAVA_OPTIONS",
                format!("-Dznode.container.checkIntervalMs={}", self.container_check.as_millis()),
            );
        if let Some(made) = &plan.certificates {
            let pem = format!("{}{}", made.server.key, made.server.certificate);
            request = request.with_copy_to(format!("{FILES}/server.pem"), pem.into_bytes());
        }
        request
    }

    async fn serves(&self, status: u16) -> io::Result<()> {
        // A read asks no quorum, and not even `sync` surely does; opening a session is a write.
        let answer = status::exchange(status, &session()).await?;
        // A length, the protocol's version, and the time to live: none without a session.
        match answer.get(8..12) {
            Some(ttl) if ttl.iter().any(|byte| *byte != 0) => Ok(()),
            _ => Err(io::Error::other("no session")),
        }
    }

    async fn leads(&self, status: u16) -> io::Result<bool> {
        Ok(ask(status, "srvr").await?.lines().any(|line| line == "Mode: leader"))
    }
}

fn settings(options: &ZooKeeperBuilder, plan: &Plan) -> Vec<String> {
    let mut settings = vec![
        format!("tickTime={}", options.tick.as_millis()),
        // In ticks: how long a node may take to join, and how long the leader may be silent.
        "initLimit=10".to_owned(),
        "syncLimit=4".to_owned(),
        // Votes are sent again twice a second: by default ever less often, up to a minute apart.
        "fastleader.maxNotificationInterval=500".to_owned(),
        "maxClientCnxns=0".to_owned(),
        "maxSessionTimeout=60000".to_owned(),
        // Nothing is flushed to disk, and a log file does not begin with 64 MiB.
        "forceSync=no".to_owned(),
        "preAllocSize=1024".to_owned(),
        "extendedTypesEnabled=true".to_owned(),
        "4lw.commands.whitelist=*".to_owned(),
        "admin.enableServer=false".to_owned(),
        format!("clientPort={PLAIN}"),
    ];
    for (n, node) in plan.nodes.iter().enumerate() {
        settings.push(format!("server.{}={}:{QUORUM}:{ELECTION}", n + 1, node.container));
    }
    if options.tls != Tls::Off {
        let authentication = if options.tls == Tls::Mutual { "need" } else { "none" };
        settings.extend([
            // For the relay alone.
            "clientPortAddress=127.0.0.1".to_owned(),
            format!("secureClientPort={SECURE}"),
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory".to_owned(),
            format!("ssl.keyStore.location={FILES}/server.pem"),
            "ssl.keyStore.type=PEM".to_owned(),
            format!("ssl.trustStore.location={FILES}/ca.crt"),
            "ssl.trustStore.type=PEM".to_owned(),
            format!("ssl.clientAuth={authentication}"),
        ]);
    }
    settings
}

async fn ask(port: u16, word: &str) -> io::Result<String> {
    let answer = status::exchange(port, word.as_bytes()).await?;
    String::from_utf8(answer).map_err(io::Error::other)
}

/// The requests that open a session, of the shortest time to live, and close it again.
fn session() -> Vec<u8> {
    let mut open = Vec::new();
    // The protocol's version, and the last transaction seen.
    open.extend([0; 4 + 8]);
    open.extend(1_i32.to_be_bytes());
    // No session to resume, its empty password, and no wish for a node that only reads.
    open.extend([0; 8]);
    open.extend(16_i32.to_be_bytes());
    open.extend([0; 16 + 1]);
    let close = [1_i32.to_be_bytes(), CLOSE_SESSION.to_be_bytes()].concat();
    let frames = [open, close].map(|frame| {
        let length = u32::try_from(frame.len()).expect("BUG: a frame of less than 50 bytes");
        [&length.to_be_bytes(), &frame[..]].concat()
    });
    frames.concat()
}

static TURNS: Turns<ZooKeeper> = Turns::new(|| Box::pin(ZooKeeper::builder().start()));

const CLOSE_SESSION: i32 = -11;
const ELECTION: u16 = 3888;
const PLAIN: u16 = 2181;
const QUORUM: u16 = 2888;
const SECURE: u16 = 2281;
const STATUS: u16 = 2182;
/// The host part makes a missing image fail at once, instead of a pull.
const IMAGE: &str = "localhost/portunus/zookeeper";
const VERSION: &str = "3.9.3";
