//! ZooKeeper: the least requests that make a lock, and what the servers count.

use super::{Counts, Raw, Result};
use std::io::{Read, Write};
use std::net::TcpStream;
use zookeeper_client::{Acls, Client, CreateMode};

/// The least that makes a lock with this client: create, list, delete.
pub(crate) struct ZooKeeper(Client);

impl ZooKeeper {
    pub(crate) async fn connect(hosts: &str) -> Result<Self> {
        let client = Client::connect(hosts).await?;
        // Not a container: it is empty between two locks, and the ensemble would remove it.
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        client.mkdir(PARENT, &options).await?;
        Ok(Self(client))
    }
}

impl Raw for ZooKeeper {
    const TRIPS: u64 = 3;

    async fn pair(&mut self) -> Result<()> {
        let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
        let prefix = format!("{PARENT}/lock-");
        let (_, number) = self.0.create(&prefix, b"", &options).await?;
        let children = self.0.list_children(PARENT).await?;
        self.0.delete(&format!("{prefix}{number}"), None).await?;
        (!children.is_empty()).then_some(()).ok_or_else(|| "the raw lock vanished".into())
    }
}

/// Packets that the servers received, over all hosts; pings are among them.
pub(crate) fn requests(hosts: &str) -> Result<Counts> {
    let mut sum = 0.0;
    for host in hosts.split(',') {
        let mut stream = TcpStream::connect(host)?;
        stream.write_all(b"mntr")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line = text.lines().find_map(|line| line.strip_prefix("zk_packets_received\t"));
        sum += line.ok_or("`mntr` is not allowed on this server")?.parse::<f64>()?;
    }
    Ok(vec![("packets".to_owned(), sum)])
}

const PARENT: &str = "/portunus-bench-raw";
