//! What a store tells about itself, so that there can be a cluster of it.

use std::io;

use async_trait::async_trait;
use testcontainers::{ContainerRequest, GenericImage};

use super::Tls;
use super::nodes::Plan;

/// The store's part of a [`Cluster`](super::Cluster): how its nodes are made, and how they are
/// asked. Whoever chose the options implements it.
#[async_trait]
pub(super) trait Store: Send + Sync + 'static {
    /// The store's name, in those of its containers.
    fn name(&self) -> &'static str;

    /// How many nodes there are.
    fn nodes(&self) -> usize;

    /// How clients reach the nodes.
    fn tls(&self) -> Tls;

    /// Whether the nodes have wall clocks of their own.
    fn movable_clock(&self) -> bool;

    /// Where a node listens in its container.
    fn ports(&self) -> Ports;

    /// The image with the node's settings and files. Labels, network, the published ports and
    /// the [`FILES`] of TLS are added to it.
    fn request(&self, plan: &Plan, node: usize) -> ContainerRequest<GenericImage>;

    /// Succeeds when the node serves linearizable requests; `status` is its status port, as this
    /// machine sees it.
    async fn serves(&self, status: u16) -> io::Result<()>;

    /// Whether the node takes itself for the leader; a server on its own always does.
    async fn leads(&self, status: u16) -> io::Result<bool>;
}

/// The ports of a node, in its container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) client: u16,
    /// Clients' other way in, through a pooler in front of the node.
    pub(super) pooler: Option<u16>,
    /// Not cut from anyone, and open to all: it needs neither TLS nor password.
    pub(super) status: u16,
    /// None where there is one node.
    pub(super) peers: &'static [u16],
}

/// Where the container has `ca.crt`, `server.crt`, `server.key`, `client.crt` and `client.key`.
pub(super) const FILES: &str = "/etc/portunus";
