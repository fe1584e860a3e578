//! The etcd cluster: its nodes' flags, `etcdctl`, and what a node says on its metrics port.

mod options;

use std::fmt;
use std::io;
use std::ops::Deref;

use async_trait::async_trait;
use testcontainers::{ContainerRequest, GenericImage, ImageExt};

use super::nodes::{NODES, Plan};
use super::shared::Turns;
use super::status;
use super::store::{FILES, Ports, Store};
use super::{Access, Cluster, Error, Output, Process, Result, Tls, engine};

pub use options::{Auth, EtcdBuilder, Token};

/// A running etcd [`Cluster`], to which it dereferences.
#[derive(Clone)]
pub struct Etcd {
    cluster: Cluster,
    auth: Option<Auth>,
}

impl Etcd {
    /// Three nodes in the clear, without authentication, with etcd's timing (heartbeat 100 ms,
    /// election 1 s).
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder::new()
    }

    /// This process's cluster, in the clear and without authentication, together with other tests
    /// that leave its nodes alone.
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

    /// The same cluster, alone: the caller may disturb its nodes and need not undo it.
    ///
    /// # Errors
    ///
    /// As [`Etcd::shared`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn exclusive() -> Result<Access<Self>> {
        TURNS.exclusive().await
    }

    /// The password that clients need, if any.
    pub fn auth(&self) -> Option<&Auth> {
        self.auth.as_ref()
    }

    /// Runs `etcdctl` in a node, against that node, with certificates and password.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when it fails, [`Error::Engine`] also when the node is down or frozen.
    pub async fn etcdctl(&self, node: usize, args: &[&str]) -> Result<Output> {
        let output = self.exec(node, &self.etcdctl_command(args)).await?;
        // Without the arguments, a password may be among them.
        output.success(&format!("etcdctl {}", args.first().unwrap_or(&"")))
    }

    /// Starts `etcdctl` as [`Etcd::etcdctl`] does and leaves it running: `["lock", name]` prints
    /// the key when it holds the lock, and releases it on SIGTERM.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], also when the node is down or frozen.
    pub async fn spawn_etcdctl(&self, node: usize, args: &[&str]) -> Result<Process> {
        self.spawn(node, &self.etcdctl_command(args)).await
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
        let port = self.node(node).status_port;
        let asked = engine::run(get(port, "/metrics")).await;
        asked.map_err(Error::engine("show a node's metrics"))
    }

    async fn launch(options: EtcdBuilder) -> Result<Self> {
        engine::run(async move {
            let auth = options.auth.clone();
            let mut etcd = Self { cluster: Cluster::launch(options).await?, auth: None };
            if let Some(auth) = auth {
                let user = format!("{}:{}", Auth::USER, auth.password());
                etcd.etcdctl(0, &["user", "add", &user]).await?;
                etcd.etcdctl(0, &["user", "grant-role", Auth::USER, "root"]).await?;
                etcd.etcdctl(0, &["auth", "enable"]).await?;
                etcd.auth = Some(auth);
            }
            Ok(etcd)
        })
        .await
    }

    fn etcdctl_command<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let mut command = vec!["etcdctl"];
        if let Some(auth) = &self.auth {
            command.extend(["--user", Auth::USER, "--password", auth.password()]);
        }
        command.extend(args);
        command
    }
}

impl Deref for Etcd {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

/// Without the password.
impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Etcd").field(&self.cluster).finish()
    }
}

#[async_trait]
impl Store for EtcdBuilder {
    fn name(&self) -> &'static str {
        "etcd"
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
        Ports { client: CLIENT, pooler: None, status: METRICS, peers: &[PEER] }
    }

    fn request(&self, plan: &Plan, node: usize) -> ContainerRequest<GenericImage> {
        let mut request = GenericImage::new(IMAGE, VERSION).with_cmd(flags(self, plan, node));
        if self.tls != Tls::Off {
            request = request
                .with_env_var("ETCDCTL_CACERT", format!("{FILES}/ca.crt"))
                .with_env_var("ETCDCTL_CERT", format!("{FILES}/client.crt"))
                .with_env_var("ETCDCTL_KEY", format!("{FILES}/client.key"));
        }
        // The key that signs tokens: one for all nodes, and no secret.
        request.with_copy_to(format!("{FILES}/jwt.key"), plan.name.clone().into_bytes())
    }

    async fn serves(&self, status: u16) -> io::Result<()> {
        let health = get(status, "/health").await?;
        if health.starts_with("HTTP/1.0 200") || health.starts_with("HTTP/1.1 200") {
            Ok(())
        } else {
            Err(io::Error::other(health))
        }
    }

    async fn leads(&self, status: u16) -> io::Result<bool> {
        let metrics = get(status, "/metrics").await?;
        Ok(metrics.lines().any(|line| line == "etcd_server_is_leader 1"))
    }
}

fn flags(options: &EtcdBuilder, plan: &Plan, node: usize) -> Vec<String> {
    let node = &plan.nodes[node];
    let name = &node.container;
    let scheme = if options.tls == Tls::Off { "http" } else { "https" };
    let peers = plan.nodes.iter().map(|node| &node.container);
    let peers: Vec<String> = peers.map(|name| format!("{name}=http://{name}:{PEER}")).collect();
    let mut flags = vec![
        format!("--name={name}"),
        // In the container's own layer, not on a tmpfs: a restart finds it again.
        "--data-dir=/var/lib/etcd".to_owned(),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
        format!("--listen-client-urls={scheme}://0.0.0.0:{CLIENT}"),
        format!("--advertise-client-urls={scheme}://127.0.0.1:{}", node.client_port),
        // Health without TLS and password, and through `cut_clients`.
        format!("--listen-metrics-urls=http://0.0.0.0:{METRICS}"),
        format!("--listen-peer-urls=http://0.0.0.0:{PEER}"),
        format!("--initial-advertise-peer-urls=http://{name}:{PEER}"),
        format!("--initial-cluster={}", peers.join(",")),
        format!("--initial-cluster-token={}", plan.name),
        format!("--heartbeat-interval={}", options.heartbeat.as_millis()),
        format!("--election-timeout={}", options.election.as_millis()),
    ];
    if options.tls != Tls::Off {
        flags.push(format!("--cert-file={FILES}/server.crt"));
        flags.push(format!("--key-file={FILES}/server.key"));
    }
    if options.tls == Tls::Mutual {
        flags.push("--client-cert-auth".to_owned());
        flags.push(format!("--trusted-ca-file={FILES}/ca.crt"));
    }
    match options.auth.as_ref().map(|auth| auth.token) {
        None => {}
        Some(Token::Simple { ttl }) => {
            flags.push("--auth-token=simple".to_owned());
            flags.push(format!("--auth-token-ttl={}", ttl.as_secs()));
        }
        Some(Token::Jwt { ttl }) => flags.push(format!(
            "--auth-token=jwt,sign-method=HS256,priv-key={FILES}/jwt.key,ttl={}s",
            ttl.as_secs()
        )),
    }
    flags
}

async fn get(port: u16, path: &str) -> io::Result<String> {
    let answer = status::exchange(port, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    String::from_utf8(answer).map_err(io::Error::other)
}

static TURNS: Turns<Etcd> = Turns::new(|| Box::pin(Etcd::builder().start()));

const CLIENT: u16 = 2379;
const PEER: u16 = 2380;
const METRICS: u16 = 2381;
/// The host part makes a missing image fail at once, instead of a pull.
const IMAGE: &str = "localhost/portunus/etcd";
const VERSION: &str = "3.5.16";
