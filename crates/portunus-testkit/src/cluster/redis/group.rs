//! Redis servers that fail over: with Sentinels, or as a cluster.
//!
//! All of them are processes of one container, whose ports have the same numbers outside: they tell
//! clients the addresses at which they know each other.

use std::io;

use async_trait::async_trait;
use testcontainers::core::IntoContainerPort;
use testcontainers::{ContainerRequest, GenericImage, ImageExt};

use super::super::nodes::Plan;
use super::super::store::{Ports, Store};
use super::super::{Result, Server, Tls, engine, shell, status};
use super::{IMAGE, VERSION};

/// Running Redis servers of which others take over what one has that is killed: replication is
/// asynchronous, so not all of it.
pub type RedisGroup = Server<Group>;

/// What the members of a [`RedisGroup`] are.
#[derive(Clone, Debug)]
pub struct Group {
    is_cluster: bool,
    servers: Vec<u16>,
    sentinels: Vec<u16>,
}

impl Server<Group> {
    /// Starts a master, number 0, two replicas of it, and three Sentinels that watch it as `main`;
    /// they are in step then.
    ///
    /// # Errors
    ///
    /// Without an engine or an image, and when the servers do not get in step; nothing is left then.
    pub async fn sentinels() -> Result<Self> {
        let group = Self::of(false, 3, 3).await?;
        for server in 0..3 {
            group.begin(server).await?;
        }
        group.in_step().await?;
        for port in &group.options.sentinels {
            let file = format!("/run/{port}.conf");
            let settings = format!(
                "port {port}\nprotected-mode no\ndir /tmp\n\
                 sentinel monitor {MASTER} {LOCAL} {} 2\n\
                 sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\n\
                 sentinel failover-timeout {MASTER} 10000\n",
                group.options.servers[0]
            );
            let run =
                format!("printf '%s' '{settings}' >{file}; exec redis-server {file} --sentinel");
            group.spawn(0, &["sh", "-c", &run]).await?;
        }
        for port in &group.options.sentinels {
            status::until("a Sentinel that knows all others", || async {
                let told = group.ask(*port, &["info", "sentinel"]).await.ok()?;
                told.contains("status=ok").then_some(())?;
                told.contains("slaves=2,sentinels=3").then_some(())
            })
            .await?;
        }
        Ok(group)
    }

    /// Starts a cluster of three masters with a replica each; they are in step then.
    ///
    /// # Errors
    ///
    /// As [`RedisGroup::sentinels`].
    pub async fn cluster() -> Result<Self> {
        let group = Self::of(true, 6, 0).await?;
        for server in 0..6 {
            group.begin(server).await?;
        }
        for server in 0..6 {
            status::until("a server of the cluster", || async {
                group.cli(server, &["ping"]).await.ok().map(drop)
            })
            .await?;
        }
        let hosts = addresses(&group.options.servers);
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let create = ["redis-cli", "--cluster", "create"];
        let manner = ["--cluster-replicas", "1", "--cluster-yes"];
        let create = [&create[..], &hosts, &manner].concat();
        group.exec(0, &create).await?.success("redis-cli --cluster create")?;
        group.in_step().await?;
        Ok(group)
    }

    async fn of(is_cluster: bool, servers: usize, sentinels: usize) -> Result<Self> {
        let ports = |count| (0..count).map(|_| engine::free_port()).collect::<Result<_>>();
        let (servers, sentinels) = (ports(servers)?, ports(sentinels)?);
        Self::launch(Group { is_cluster, servers, sentinels }).await
    }

    /// Where clients find the master: `redis://host:port,…` with the option `sentinel` or `cluster`.
    pub fn url(&self) -> String {
        let Group { is_cluster, servers, sentinels } = &self.options;
        match is_cluster {
            true => format!("redis://{}?cluster=true", addresses(servers).join(",")),
            false => format!("redis://{}?sentinel={MASTER}", addresses(sentinels).join(",")),
        }
    }

    /// How many servers there are, without the Sentinels.
    pub fn servers(&self) -> usize {
        self.options.servers.len()
    }

    /// Where a server is, as `host:port`.
    ///
    /// # Panics
    ///
    /// If there is none of that number; so of the other methods.
    pub fn address(&self, server: usize) -> String {
        format!("{LOCAL}:{}", self.options.servers[server])
    }

    /// The server that takes itself for the master; in a cluster, for that of the slot of `key`. `None` while
    /// there is none.
    pub async fn master(&self, key: &str) -> Option<usize> {
        for server in 0..self.servers() {
            // Also a server that is stopped is none.
            let port = self.options.servers[server];
            let ask = format!("ROLE\r\nEXISTS {key}\r\nQUIT\r\n");
            let Ok(told) = status::exchange(port, ask.as_bytes()).await else { continue };
            let told = String::from_utf8_lossy(&told).into_owned();
            if told.contains("master") && !told.contains("-MOVED") && !told.contains("-CLUSTERDOWN")
            {
                return Some(server);
            }
        }
        None
    }

    /// Runs `redis-cli` against a server.
    ///
    /// # Errors
    ///
    /// [`Error::Command`](super::super::Error::Command) when the server refuses or does not answer.
    pub async fn cli(&self, server: usize, args: &[&str]) -> Result<String> {
        self.ask(self.options.servers[server], args).await
    }

    async fn ask(&self, port: u16, args: &[&str]) -> Result<String> {
        let port = port.to_string();
        let command = [&["redis-cli", "-e", "-p", &port], args].concat();
        Ok(self.exec(0, &command).await?.success(&command.join(" "))?.stdout)
    }

    /// Sends a server a signal, by name (`"KILL"`, `"STOP"`, `"CONT"`).
    ///
    /// # Errors
    ///
    /// [`Error::Command`](super::super::Error::Command) when it has ended.
    pub async fn signal(&self, server: usize, name: &str) -> Result<()> {
        let kill = format!("kill -{name} $(cat /run/{}.pid)", self.options.servers[server]);
        self.exec(0, &["sh", "-c", &kill]).await?.success(&kill).map(drop)
    }

    /// Starts a server that was killed, with its data; others say what it becomes.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`](super::super::Error::Engine).
    pub async fn begin(&self, server: usize) -> Result<()> {
        let Group { is_cluster, servers, .. } = &self.options;
        let (port, first) = (servers[server], servers[0]);
        let role = match (is_cluster, server) {
            (true, _) => format!("--cluster-enabled yes --cluster-node-timeout {DOWN_AFTER}"),
            (false, 0) => String::new(),
            (false, _) => format!("--replicaof {LOCAL} {first}"),
        };
        let run = format!(
            "echo $$ >/run/{port}.pid; mkdir -p /var/lib/redis/{port}; \
             exec redis --port {port} --dir /var/lib/redis/{port} {role}"
        );
        self.spawn(0, &["sh", "-c", &run]).await.map(drop)
    }

    /// Waits until each server is a replica in step, or a master that has all its replicas.
    async fn in_step(&self) -> Result<()> {
        let replicas = if self.options.is_cluster { 1 } else { 2 };
        for server in 0..self.servers() {
            status::until("servers in step", || async {
                let told = self.cli(server, &["info", "replication"]).await.ok()?;
                let is_master = told.contains(&format!("connected_slaves:{replicas}\r"))
                    && !told.contains("state=wait");
                (is_master || told.contains("master_link_status:up")).then_some(())?;
                if self.options.is_cluster {
                    let told = self.cli(server, &["cluster", "info"]).await.ok()?;
                    told.contains("cluster_state:ok").then_some(())?;
                    told.contains("cluster_known_nodes:6").then_some(())?;
                }
                Some(())
            })
            .await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Group {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn nodes(&self) -> usize {
        1
    }

    fn tls(&self) -> Tls {
        Tls::Off
    }

    fn movable_clock(&self) -> bool {
        false
    }

    fn ports(&self) -> Ports {
        Ports { client: super::CLIENT, pooler: None, status: super::STATUS, peers: &[] }
    }

    fn request(&self, _: &Plan, _: usize) -> ContainerRequest<GenericImage> {
        // The servers are begun one by one, when it runs.
        let wait = shell::start([], "sleep", ["infinity".to_owned()]);
        let image = GenericImage::new(IMAGE, VERSION).with_entrypoint("sh").with_cmd(wait);
        let ports = self.servers.iter().chain(&self.sentinels);
        ports.fold(image, |image, port| image.with_mapped_port(*port, port.tcp()))
    }

    async fn serves(&self, _: u16) -> io::Result<()> {
        Ok(())
    }

    async fn leads(&self, _: u16) -> io::Result<bool> {
        Ok(true)
    }
}

fn addresses(ports: &[u16]) -> Vec<String> {
    ports.iter().map(|port| format!("{LOCAL}:{port}")).collect()
}

/// Inside the container and outside.
const LOCAL: &str = "127.0.0.1";
/// How the Sentinels call the master.
const MASTER: &str = "main";
/// For how long, in ms, a server is silent that is taken for dead: a busy machine is not.
const DOWN_AFTER: u16 = 2_000;
