//! The nodes of a cluster: how they are started and removed, and how clients reach them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use testcontainers::core::IntoContainerPort;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};

use super::engine;
use super::store::{FILES, Store};
use super::{Certificates, Error, Result, Tls};

/// How many nodes a cluster of etcd or ZooKeeper has: one may fail.
pub const NODES: usize = 3;

/// A running cluster, whichever store it is of; the stores' types dereference to it. Nodes are
/// called by number, from 0; a single server is node 0.
///
/// Clones are the same cluster; it is removed with the last one. Data survives [`Cluster::kill`]
/// and [`Cluster::restart`], but most stores do not flush it to disk: it may not outlive the machine.
///
/// # Panics
///
/// Every method that takes a node's number panics if there is none of that number.
#[derive(Clone)]
pub struct Cluster(pub(super) Arc<Inner>);

impl Cluster {
    /// Where clients reach the nodes, as `host:port`. Addresses stay through a restart.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes().map(|node| self.endpoint(node)).collect()
    }

    /// Where clients reach one node.
    pub fn endpoint(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.node(node).client_port)
    }

    /// The files for a client, with [`Tls::Server`] or [`Tls::Mutual`].
    pub fn certificates(&self) -> Option<&Certificates> {
        self.0.plan.certificates.as_ref()
    }

    /// Starts the nodes, at the same time, and waits until all of them are healthy.
    pub(super) async fn launch(store: impl Store) -> Result<Self> {
        engine::run(async move {
            let plan = Plan::new(&store)?;
            let store = Box::new(store);
            let cluster = Self(Arc::new(Inner { plan, store, disturbed: AtomicBool::new(false) }));
            // From here on its drop removes what was started.
            cluster.0.start().await?;
            cluster.wait_healthy().await?;
            Ok(cluster)
        })
        .await
    }

    /// The numbers of all nodes.
    pub(super) fn nodes(&self) -> Range<usize> {
        0..self.0.plan.nodes.len()
    }

    pub(super) fn node(&self, node: usize) -> &Node {
        &self.0.plan.nodes[node]
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.0.plan.name)
            .field("endpoints", &self.endpoints())
            .finish_non_exhaustive()
    }
}

pub(super) struct Inner {
    plan: Plan,
    pub(super) store: Box<dyn Store>,
    /// Whether a fault was made since the cluster was last seen whole.
    pub(super) disturbed: AtomicBool,
}

impl Inner {
    async fn start(&self) -> Result<()> {
        let docker = engine::client().await?;
        engine::sweep(&docker).await?;
        let requests: Vec<_> = (0..self.plan.nodes.len()).map(|node| self.request(node)).collect();
        // testcontainers would try to pull what is missing.
        let image = requests[0].descriptor();
        if docker.inspect_image(&image).await.is_err() {
            docker.ping().await.map_err(Error::engine("answer"))?;
            return Err(Error::MissingImage { image });
        }
        engine::create_network(&docker, &self.plan.name).await?;
        let starts = requests.into_iter().map(AsyncRunner::start);
        for started in futures_util::future::join_all(starts).await {
            forget(started.map_err(Error::engine("start a node"))?);
        }
        Ok(())
    }

    fn request(&self, number: usize) -> ContainerRequest<GenericImage> {
        let (node, ports) = (&self.plan.nodes[number], self.store.ports());
        let mut request = self.store.request(&self.plan, number);
        for (name, text) in self.plan.certificates.iter().flat_map(Certificates::files) {
            request = request.with_copy_to(format!("{FILES}/{name}"), text.clone().into_bytes());
        }
        if let (Some(outside), Some(inside)) = (node.pooler_port, ports.pooler) {
            request = request.with_mapped_port(outside, inside.tcp());
        }
        request
            .with_mapped_port(node.client_port, ports.client.tcp())
            .with_mapped_port(node.status_port, ports.status.tcp())
            .with_container_name(&node.container)
            .with_hostname(&node.container)
            .with_labels(engine::labels(&self.plan.name))
            .with_network(&self.plan.name)
            .with_cap_add("NET_ADMIN")
            .with_host_config_modifier(|host| {
                let ports = host.port_bindings.iter_mut().flatten();
                for binding in ports.flat_map(|(_, bindings)| bindings).flatten() {
                    binding.host_ip = Some("127.0.0.1".to_owned());
                }
            })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.plan.name);
        engine::run_blocking(async move {
            // Without an engine there is nothing to remove; else the next sweep tries again.
            if let Ok(docker) = engine::client().await {
                engine::remove(&docker, &name).await.ok();
            }
        });
    }
}

/// What is settled before a node is started.
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) nodes: Vec<Node>,
    pub(super) certificates: Option<Certificates>,
}

impl Plan {
    fn new(store: &impl Store) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("portunus-{}-{count}", std::process::id());
        let node = |n| {
            Ok(Node {
                container: format!("{name}-{}{n}", store.name()),
                client_port: engine::free_port()?,
                pooler_port: store.ports().pooler.map(|_| engine::free_port()).transpose()?,
                status_port: engine::free_port()?,
            })
        };
        let nodes = (0..store.nodes()).map(node).collect::<Result<Vec<_>>>()?;
        let names = nodes.iter().map(|node| node.container.as_str());
        let certificates =
            (store.tls() != Tls::Off).then(|| Certificates::new(names)).transpose()?;
        Ok(Self { name, nodes, certificates })
    }
}

pub(super) struct Node {
    /// The container's name, and on the cluster's network its address.
    pub(super) container: String,
    /// This port and the next ones are the machine's.
    pub(super) client_port: u16,
    pub(super) pooler_port: Option<u16>,
    pub(super) status_port: u16,
}

/// Takes a node away from testcontainers, which would remove each by itself: [`Inner`] removes
/// the nodes together, and their network after them.
fn forget(container: ContainerAsync<GenericImage>) {
    std::mem::forget(container);
}
