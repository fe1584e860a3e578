//! The three etcd nodes: how they are started, and how clients reach them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use testcontainers::bollard::models::PortBinding;
use testcontainers::core::IntoContainerPort;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};

use super::engine;
use super::options::{Auth, EtcdBuilder, Tls, Token};
use super::{Certificates, Error, Result};

/// How many nodes a cluster has: one may fail.
pub const NODES: usize = 3;

/// A running cluster. Nodes are called by number, from 0 to [`NODES`] − 1.
///
/// Clones are the same cluster; it is removed with the last one.
///
/// # Panics
///
/// Every method that takes a node's number panics if there is none of that number.
#[derive(Clone)]
pub struct Etcd(pub(super) Arc<Inner>);

impl Etcd {
    /// Three nodes in the clear, without authentication, with etcd's timing (heartbeat 100 ms,
    /// election 1 s). Data survives [`Etcd::kill`] and [`Etcd::restart`], but is not flushed to
    /// disk: it does not outlive the machine.
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder::new()
    }

    /// Where clients reach the nodes, as `host:port`. Addresses stay through a restart.
    pub fn endpoints(&self) -> Vec<String> {
        (0..NODES).map(|node| self.endpoint(node)).collect()
    }

    /// Where clients reach one node.
    pub fn endpoint(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.0.nodes[node].client_port)
    }

    /// The files for a client, with [`Tls::Server`] or [`Tls::Mutual`].
    pub fn certificates(&self) -> Option<&Certificates> {
        self.0.certificates.as_ref()
    }

    /// The password that clients need, if any.
    pub fn auth(&self) -> Option<&Auth> {
        self.0.options.auth.as_ref()
    }

    pub(super) async fn launch(options: EtcdBuilder) -> Result<Self> {
        engine::run(async move {
            let etcd = Self(Arc::new(Inner::new(options)?));
            // From here on its drop removes what was started.
            etcd.0.start().await?;
            etcd.wait_healthy().await?;
            if let Some(auth) = etcd.auth() {
                let user = format!("{}:{}", Auth::USER, auth.password);
                etcd.etcdctl(0, &["user", "add", &user]).await?;
                etcd.etcdctl(0, &["user", "grant-role", Auth::USER, "root"]).await?;
                etcd.etcdctl(0, &["auth", "enable"]).await?;
                etcd.0.auth_is_on.store(true, Ordering::SeqCst);
            }
            Ok(etcd)
        })
        .await
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("cluster", &self.0.name)
            .field("endpoints", &self.endpoints())
            .finish_non_exhaustive()
    }
}

pub(super) struct Inner {
    name: String,
    pub(super) options: EtcdBuilder,
    pub(super) nodes: Vec<Node>,
    certificates: Option<Certificates>,
    pub(super) auth_is_on: AtomicBool,
    /// Whether a fault was made since the cluster was last seen whole.
    pub(super) disturbed: AtomicBool,
}

pub(super) struct Node {
    /// The container's name, and on the cluster's network its address.
    pub(super) container: String,
    pub(super) client_port: u16,
    pub(super) metrics_port: u16,
}

impl Inner {
    fn new(options: EtcdBuilder) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("portunus-{}-{count}", std::process::id());
        let node = |n| {
            Ok(Node {
                container: format!("{name}-etcd{n}"),
                client_port: engine::free_port()?,
                metrics_port: engine::free_port()?,
            })
        };
        let nodes = (0..NODES).map(node).collect::<Result<_>>()?;
        let certificates = (options.tls != Tls::Off).then(Certificates::new).transpose()?;
        Ok(Self {
            name,
            options,
            nodes,
            certificates,
            auth_is_on: AtomicBool::new(false),
            disturbed: AtomicBool::new(false),
        })
    }

    async fn start(&self) -> Result<()> {
        let docker = engine::client().await?;
        engine::sweep(&docker).await?;
        // testcontainers would try to pull what is missing.
        let image = format!("{IMAGE}:{VERSION}");
        if docker.inspect_image(&image).await.is_err() {
            docker.ping().await.map_err(Error::engine("answer"))?;
            return Err(Error::MissingImage { image });
        }
        engine::create_network(&docker, &self.name).await?;
        let starts = self.nodes.iter().map(|node| self.request(node).start());
        for started in futures_util::future::join_all(starts).await {
            forget(started.map_err(Error::engine("start a node"))?);
        }
        Ok(())
    }

    fn request(&self, node: &Node) -> ContainerRequest<GenericImage> {
        let ports = [(node.client_port, CLIENT), (node.metrics_port, METRICS)];
        let bindings: HashMap<_, _> = ports
            .map(|(host, container)| {
                let binding = PortBinding {
                    host_ip: Some("127.0.0.1".to_owned()),
                    host_port: Some(host.to_string()),
                };
                (format!("{container}/tcp"), Some(vec![binding]))
            })
            .into();
        let mut request = GenericImage::new(IMAGE, VERSION)
            .with_exposed_port(CLIENT.tcp())
            .with_exposed_port(METRICS.tcp())
            .with_cmd(self.flags(node))
            .with_container_name(&node.container)
            .with_hostname(&node.container)
            .with_labels(engine::labels(&self.name))
            .with_network(&self.name)
            .with_cap_add("NET_ADMIN")
            .with_host_config_modifier(move |host| {
                host.port_bindings = Some(bindings.clone());
                host.publish_all_ports = Some(false);
            });
        if let Some(made) = &self.certificates {
            for (name, text) in [
                ("ca.crt", &made.ca),
                ("server.crt", &made.server.certificate),
                ("server.key", &made.server.key),
                ("client.crt", &made.client.certificate),
                ("client.key", &made.client.key),
            ] {
                request =
                    request.with_copy_to(format!("{FILES}/{name}"), text.clone().into_bytes());
            }
            request = request
                .with_env_var("ETCDCTL_CACERT", format!("{FILES}/ca.crt"))
                .with_env_var("ETCDCTL_CERT", format!("{FILES}/client.crt"))
                .with_env_var("ETCDCTL_KEY", format!("{FILES}/client.key"));
        }
        // The key that signs tokens: one for all nodes, and no secret.
        request.with_copy_to(format!("{FILES}/jwt.key"), self.name.clone().into_bytes())
    }

    fn flags(&self, node: &Node) -> Vec<String> {
        let (name, scheme) = (&node.container, self.scheme());
        let peers = self.nodes.iter().map(|node| &node.container);
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
            format!("--initial-cluster-token={}", self.name),
            format!("--heartbeat-interval={}", self.options.heartbeat.as_millis()),
            format!("--election-timeout={}", self.options.election.as_millis()),
        ];
        if self.options.tls != Tls::Off {
            flags.push(format!("--cert-file={FILES}/server.crt"));
            flags.push(format!("--key-file={FILES}/server.key"));
        }
        if self.options.tls == Tls::Mutual {
            flags.push("--client-cert-auth".to_owned());
            flags.push(format!("--trusted-ca-file={FILES}/ca.crt"));
        }
        match self.options.auth.as_ref().map(|auth| auth.token) {
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

    fn scheme(&self) -> &'static str {
        if self.options.tls == Tls::Off { "http" } else { "https" }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        engine::run_blocking(async move {
            // Without an engine there is nothing to remove; else the next sweep tries again.
            if let Ok(docker) = engine::client().await {
                engine::remove(&docker, &name).await.ok();
            }
        });
    }
}

/// Takes a node away from testcontainers, which would remove each by itself: [`Inner`] removes
/// the nodes together, and their network after them.
fn forget(container: ContainerAsync<GenericImage>) {
    std::mem::forget(container);
}

pub(super) const CLIENT: u16 = 2379;
pub(super) const PEER: u16 = 2380;
const METRICS: u16 = 2381;
/// The host part makes a missing image fail at once, instead of a pull.
const IMAGE: &str = "localhost/portunus/etcd";
const VERSION: &str = "3.5.16";
/// Certificates and keys in the container.
const FILES: &str = "/etc/portunus";
