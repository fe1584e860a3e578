//! Who the servers are, and what about their settings is dangerous for locks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use portunus_core::backend::{LockBackend, Probe};
use portunus_core::error::{ErrorKind, Result};
use redis::InfoDict;

use crate::backend::Redis;
use crate::node::{Lane, Node};
use crate::session::layout;

impl Redis {
    pub(crate) async fn examine(&self) -> Result<Probe> {
        // A session says the same as everybody's, and seeds servers that nobody used so far.
        // By the connections of requests: a session's must not hang on whoever probes.
        let session = self.open(PROBE_TTL, Lane::Requests).await?;
        self.close_session(&session).await?;
        let incarnation = session.incarnation;
        let (mut warnings, mut versions) = (Vec::new(), Vec::new());
        let nodes = self.nodes.all();
        if nodes.len().is_multiple_of(2) {
            warnings.push(format!(
                "{} masters bear the loss of no more of them than {} would",
                nodes.len(),
                nodes.len() - 1
            ));
        }
        let life = incarnation.to_string();
        let examining = nodes.iter().map(|node| self.examine_node(node, &life));
        for (node, examined) in nodes.iter().zip(join_all(examining).await) {
            match examined {
                Ok((version, told)) => {
                    versions.push(version);
                    warnings.extend(told);
                }
                Err(error) => warnings.push(format!("{} has no vote: {error:#}", node.host())),
            }
        }
        versions.sort();
        versions.dedup();
        Ok(Probe { incarnation, version: versions.join(", "), warnings })
    }

    /// The version of a server, and what to warn of. All is asked anew: settings change while servers run.
    async fn examine_node(&self, node: &Arc<Node>, life: &str) -> Result<(String, Vec<String>)> {
        let info = node.info(PROBE).await?;
        let mut warnings = warned_of(node.host(), &info);
        warnings.extend(self.vote(node, life).await?);
        warnings.extend(fsync(node, &info).await?);
        Ok((version(&info), warnings))
    }

    /// Why a server that answers has no vote, if so.
    async fn vote(&self, node: &Arc<Node>, life: &str) -> Result<Option<String>> {
        let mut ask = redis::cmd("HMGET");
        ask.arg(self.keys.node()).arg("incarnation").arg("layout");
        let (is, theirs): (Option<String>, Option<String>) = node.read(PROBE, &ask).await?;
        let own = layout(&self.keys, &self.nodes);
        let why = match (is, theirs) {
            (None, _) => {
                "its counter is gone, and it is kept out for the longest time to live".to_owned()
            }
            (Some(is), _) if is != life => {
                format!("it is of another life of the store, `{is}`, and the majority of `{life}`")
            }
            (_, Some(theirs)) if theirs != own => {
                format!("it is in use with the layout `{theirs}`, and this client's is `{own}`")
            }
            _ => return Ok(None),
        };
        Ok(Some(format!("{} has no vote: {why}", node.host())))
    }
}

/// Valkey tells beside its own version which one of Redis it is compatible with.
fn version(info: &InfoDict) -> String {
    let version = info.get("valkey_version").or_else(|| info.get("redis_version"));
    version.unwrap_or_default()
}

fn warned_of(host: &str, info: &InfoDict) -> Vec<String> {
    let mut warnings = Vec::new();
    let eviction = info.get("maxmemory_policy").unwrap_or_else(|| "unknown".to_owned());
    if eviction != "noeviction" {
        warnings.push(format!(
            "{host} has maxmemory-policy {eviction}: locks and counters may be evicted; accepted is \
             noeviction"
        ));
    }
    let replicas = info.get("connected_slaves").unwrap_or(0);
    if replicas > 0 {
        warnings.push(format!(
            "{host} has {replicas} replicas: replication is asynchronous, so a fail-over to one may \
             grant a lock twice and take tokens back"
        ));
    }
    warnings
}

/// Whether what a server acknowledged outlives it.
async fn fsync(node: &Arc<Node>, info: &InfoDict) -> Result<Option<String>> {
    let host = node.host();
    if info.get::<String>("aof_enabled").as_deref() != Some("1") {
        return Ok(Some(format!(
            "{host} has appendonly no: a restart loses locks and tokens that it acknowledged"
        )));
    }
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("appendfsync");
    let fsync = match node.read::<HashMap<String, String>>(PROBE, &ask).await {
        Ok(mut settings) => settings.remove("appendfsync"),
        // A right that one may do without.
        Err(error) if error.kind() == ErrorKind::Denied => None,
        Err(error) => return Err(error),
    };
    Ok(match fsync.as_deref() {
        Some("always") => None,
        Some(other) => Some(format!(
            "{host} has appendfsync {other}: a crash loses locks and tokens that it acknowledged \
             last; accepted is always"
        )),
        None => Some(format!("{host} does not tell its appendfsync; accepted is always")),
    })
}

const PROBE: &str = "probe";
/// Long enough for two requests.
const PROBE_TTL: Duration = Duration::from_secs(5);
