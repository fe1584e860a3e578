//! What a test does to a node, and how the cluster is made whole again.

use std::sync::atomic::Ordering;

use testcontainers::bollard::Docker;
use testcontainers::bollard::errors::Error as DockerError;
use testcontainers::bollard::query_parameters::{
    KillContainerOptionsBuilder, StartContainerOptions,
};

use super::nodes::Cluster;
use super::status::until;
use super::{Error, Result, engine};

/// Each method returns once the engine has done it, and fails when the engine refuses. Calls are
/// carried out even when their future is dropped.
impl Cluster {
    /// Freezes every process of the node; its connections stay open.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], also when it is frozen already.
    pub async fn pause(&self, node: usize) -> Result<()> {
        self.disturb(node, "pause a node", |docker, name| async move {
            docker.pause_container(&name).await
        })
        .await
    }

    /// Lets a frozen node go on.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], also when it is not frozen.
    pub async fn unpause(&self, node: usize) -> Result<()> {
        self.disturb(node, "unpause a node", |docker, name| async move {
            docker.unpause_container(&name).await
        })
        .await
    }

    /// Kills the node (SIGKILL) and waits until it is down. Its data stays.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], also when it is down already.
    pub async fn kill(&self, node: usize) -> Result<()> {
        self.disturb(node, "kill a node", |docker, name| async move {
            let signal = KillContainerOptionsBuilder::new().signal("KILL").build();
            docker.kill_container(&name, Some(signal)).await
        })
        .await?;
        let cluster = self.clone();
        engine::run(async move {
            let docker = &engine::client().await?;
            let cluster = &cluster;
            until("the node down", || async {
                let (running, _) = cluster.state(docker, node).await.ok()?;
                (!running).then_some(())
            })
            .await
        })
        .await
    }

    /// Starts a node that is down, with its old data, at its old address. It comes back without
    /// the rules of [`Cluster::partition`] and [`Cluster::cut_clients`]; [`Cluster::wait_healthy`] waits
    /// until it serves.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], also when its port was taken meanwhile.
    pub async fn restart(&self, node: usize) -> Result<()> {
        self.disturb(node, "start a node", |docker, name| async move {
            docker.start_container(&name, None::<StartContainerOptions>).await
        })
        .await
    }

    /// Drops every packet between the node and its peers; clients still reach it. A server on
    /// its own has no peers: nothing happens.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] or [`Error::Engine`], also when the node is down or frozen.
    pub async fn partition(&self, node: usize) -> Result<()> {
        // Its own connections and those of its peers: one has the port there, the other here.
        let rules = |port| {
            ["INPUT", "OUTPUT"].into_iter().flat_map(move |chain| {
                ["dport", "sport"].map(|end| format!("-A {chain} -p tcp --{end} {port} -j DROP"))
            })
        };
        let rules: Vec<_> = self.0.store.ports().peers.iter().flat_map(rules).collect();
        self.iptables(node, &rules).await
    }

    /// Drops every packet between the node and its clients, a pooler's among them; connections stay
    /// open, and new ones get no answer. [`Cluster::exec`], which runs inside the node, still works.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] or [`Error::Engine`], also when the node is down or frozen.
    pub async fn cut_clients(&self, node: usize) -> Result<()> {
        let ports = self.0.store.ports();
        let rules = |port| {
            [
                format!("-A INPUT ! -i lo -p tcp --dport {port} -j DROP"),
                format!("-A OUTPUT ! -o lo -p tcp --sport {port} -j DROP"),
            ]
        };
        let rules: Vec<_> =
            [Some(ports.client), ports.pooler].into_iter().flatten().flat_map(rules).collect();
        self.iptables(node, &rules).await
    }

    /// Lets packets flow again, after [`Cluster::partition`] and [`Cluster::cut_clients`].
    ///
    /// # Errors
    ///
    /// [`Error::Command`] or [`Error::Engine`], also when the node is down or frozen.
    pub async fn heal(&self, node: usize) -> Result<()> {
        self.iptables(node, &["-F".to_owned()]).await
    }

    /// Sets the node's wall clock to this machine's plus `seconds`, at once; its other clocks stay.
    /// It lasts through a restart. Only servers that were built with a movable clock have one.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when the clock is not movable, [`Error::Engine`] also when the node is
    /// down or frozen.
    pub async fn step_clock(&self, node: usize, seconds: i64) -> Result<()> {
        self.0.disturbed.store(true, Ordering::SeqCst);
        // In place of the old file at once: the server reads it all the time.
        let step =
            format!("test -e {CLOCK} && echo {seconds:+} >{CLOCK}.new && mv {CLOCK}.new {CLOCK}");
        self.exec(node, &["sh", "-c", &step]).await?.success(&step).map(drop)
    }

    /// Undoes whatever was done to any node, and waits until all are healthy.
    ///
    /// # Errors
    ///
    /// Any [`Error`], when a node does not come back.
    pub async fn restore(&self) -> Result<()> {
        let cluster = self.clone();
        engine::run(async move {
            let docker = engine::client().await?;
            for node in cluster.nodes() {
                match cluster.state(&docker, node).await? {
                    (_, true) => cluster.unpause(node).await?,
                    (false, _) => cluster.restart(node).await?,
                    (true, false) => {}
                }
                cluster.heal(node).await?;
                if cluster.0.store.movable_clock() {
                    cluster.step_clock(node, 0).await?;
                }
            }
            cluster.wait_healthy().await?;
            cluster.0.disturbed.store(false, Ordering::SeqCst);
            Ok(())
        })
        .await
    }

    async fn disturb<F>(
        &self,
        node: usize,
        doing: &'static str,
        fault: impl FnOnce(Docker, String) -> F + Send + 'static,
    ) -> Result<()>
    where
        F: Future<Output = Result<(), DockerError>> + Send + 'static,
    {
        self.0.disturbed.store(true, Ordering::SeqCst);
        let name = self.node(node).container.clone();
        engine::run(async move {
            let docker = engine::client().await?;
            fault(docker, name).await.map_err(Error::engine(doing))
        })
        .await
    }

    async fn iptables(&self, node: usize, rules: &[String]) -> Result<()> {
        if rules.is_empty() {
            return Ok(());
        }
        self.0.disturbed.store(true, Ordering::SeqCst);
        // One call for all, and `--wait` for another one's lock.
        let rules: Vec<String> =
            rules.iter().map(|rule| format!("iptables --wait {rule}")).collect();
        self.exec(node, &["sh", "-c", &rules.join(" && ")]).await?.success("iptables").map(drop)
    }

    /// Whether the node runs, and whether it is frozen.
    async fn state(&self, docker: &Docker, node: usize) -> Result<(bool, bool)> {
        let found = docker.inspect_container(&self.node(node).container, None).await;
        let state = found.map_err(Error::engine("inspect a node"))?.state.unwrap_or_default();
        Ok((state.running.unwrap_or_default(), state.paused.unwrap_or_default()))
    }
}

/// The seconds that the images' `moved-clock` adds to the time.
const CLOCK: &str = "/run/portunus-clock";
