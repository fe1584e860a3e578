//! etcd: the least requests that make a lock, and what the servers count.

use super::{Counts, Raw, Result};
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use std::io::{Read, Write};
use std::net::TcpStream;

/// The least that makes a lock with this client: put if absent under a lease, delete.
pub(crate) struct Etcd {
    client: Client,
    lease: i64,
}

impl Etcd {
    pub(crate) async fn connect(hosts: &str) -> Result<Self> {
        let mut client = Client::connect(hosts.split(',').collect::<Vec<_>>(), None).await?;
        let lease = client.lease_grant(600, None).await?.id();
        Ok(Self { client, lease })
    }
}

impl Raw for Etcd {
    const TRIPS: u64 = 2;

    async fn pair(&mut self) -> Result<()> {
        let key = format!("portunus-bench-raw/{:x}", self.lease);
        let absent = Compare::create_revision(&*key, CompareOp::Equal, 0);
        let put = TxnOp::put(&*key, "", Some(PutOptions::new().with_lease(self.lease)));
        let txn = Txn::new().when([absent]).and_then([put]);
        let entered = self.client.txn(txn).await?;
        self.client.delete(key, None).await?;
        entered.succeeded().then_some(()).ok_or_else(|| "the raw lock was taken".into())
    }
}

/// Messages that the servers received, by method, over all hosts.
pub(crate) fn requests(hosts: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    for host in hosts.split(',') {
        let mut stream = TcpStream::connect(host)?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        for line in text.lines().filter(|line| line.starts_with("grpc_server_msg_received_total{"))
        {
            let method =
                line.split("grpc_method=\"").nth(1).and_then(|rest| rest.split('"').next());
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
            let (Some(method), Some(count)) = (method, count) else { continue };
            match counts.iter_mut().find(|(other, _)| other == method) {
                Some((_, sum)) => *sum += count,
                None => counts.push((method.to_owned(), count)),
            }
        }
    }
    Ok(counts)
}
