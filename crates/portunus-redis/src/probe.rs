//! Who the servers are, and what about their settings is dangerous for locks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::Probe;
use portunus_core::error::Result;
use portunus_core::token::Incarnation;

use crate::backend::Redis;
use crate::node::Node;

impl Redis {
    pub(crate) async fn examine(&self) -> Result<Probe> {
        // A session says the same as everybody's, and seeds servers that nobody used so far.
        let session = self.open(PROBE_TTL).await?;
        let incarnation: Incarnation = session.incarnation.clone();
        portunus_core::backend::LockBackend::close_session(self, &session).await?;
        let (mut warnings, mut versions) = (Vec::new(), Vec::new());
        let nodes = self.nodes.all();
        if nodes.len().is_multiple_of(2) {
            warnings.push(format!(
                "{} masters bear the loss of no more of them than {} would",
                nodes.len(),
                nodes.len() - 1
            ));
        }
        for node in nodes {
            warnings.extend(Self::examine_node(node).await);
            versions.extend(node.identity().map(|is| is.version));
        }
        versions.sort();
        versions.dedup();
        Ok(Probe { incarnation, version: versions.join(", "), warnings })
    }

    async fn examine_node(node: &Arc<Node>) -> Vec<String> {
        let host = node.host();
        let Some(is) = node.identity() else { return vec![format!("{host} does not answer")] };
        let mut warnings = Vec::new();
        if is.eviction != "noeviction" {
            warnings.push(format!(
                "{host} has maxmemory-policy {}: locks and counters may be evicted; \
                 accepted is noeviction",
                is.eviction
            ));
        }
        let mut ask = redis::cmd("CONFIG");
        ask.arg("GET").arg("appendfsync");
        let fsync = node.read::<HashMap<String, String>>("probe", &ask).await;
        let fsync = fsync.ok().and_then(|mut settings| settings.remove("appendfsync"));
        match (is.appends, fsync.as_deref()) {
            (false, _) => warnings.push(format!(
                "{host} has appendonly no: a restart loses locks and tokens that it acknowledged"
            )),
            (true, Some("always")) => {}
            (true, Some(other)) => warnings.push(format!(
                "{host} has appendfsync {other}: a crash loses locks and tokens that it \
                 acknowledged last; accepted is always"
            )),
            (true, None) => {
                warnings.push(format!("{host} does not tell its appendfsync; accepted is always"))
            }
        }
        if is.replicas > 0 {
            warnings.push(format!(
                "{host} has {} replicas: replication is asynchronous, so a fail-over to one may \
                 grant a lock twice and take tokens back",
                is.replicas
            ));
        }
        warnings
    }
}

/// Long enough for two requests.
const PROBE_TTL: Duration = Duration::from_secs(5);
