//! Where the master is: asked of Sentinels, or of the nodes of a cluster, for each connection anew.
//!
//! Replication is asynchronous: a server that becomes the master may lack the last locks and tokens. So
//! whoever finds another master than before begins another life of the store there, in which no session
//! and no token of the one before counts.

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use portunus_core::error::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, InfoDict, RedisError, RedisResult,
    ServerErrorKind, Value,
};

use crate::dial::Dial;
use crate::error::{classify, error, unconnected};
use crate::script::CLAIM;
use crate::seeding::hex;

/// Where a node's server is.
pub(crate) enum Place {
    /// Always at one address.
    Fixed(Client),
    /// Wherever the master is at the time.
    Found(Discovery),
}

/// Whom to ask for the master, and how to reach it.
pub(crate) struct Discovery {
    pub(crate) guides: Vec<(String, Client)>,
    pub(crate) question: Question,
    /// The key of the server's counter; the master meant is the one that has it.
    pub(crate) key: String,
    pub(crate) dial: Dial,
}

/// What is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Question {
    /// Sentinels: the master of this name.
    Sentinel(String),
    /// Nodes of a cluster: the master of the key's slot.
    Cluster,
}

impl Place {
    pub(crate) fn is_fixed(&self) -> bool {
        matches!(self, Self::Fixed(_))
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Found(Discovery { question: Question::Cluster, .. }))
    }

    /// A client of the server, which is the master if that had to be found.
    pub(crate) async fn client(&self, operation: &'static str) -> Result<Client> {
        match self {
            Self::Fixed(client) => Ok(client.clone()),
            Self::Found(discovery) => discovery.master(operation).await,
        }
    }

    /// Begins another life of the store if the server was no master when the present one began.
    /// `history` is its replication id, which a server changes whenever it becomes a master.
    pub(crate) async fn claim(
        &self,
        history: &str,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        let Self::Found(discovery) = self else { return Ok(()) };
        let mut claim = CLAIM.key(&discovery.key);
        claim.arg(history).arg(hex(rand::random()));
        claim.invoke_async(connection).await
    }
}

impl Discovery {
    /// The answers of who is asked are hints: one that is behind may name a server that is no master
    /// any more. So most of them decide, and the server itself is asked, too.
    async fn master(&self, operation: &'static str) -> Result<Client> {
        let asking = self.guides.iter().map(|(host, client)| self.ask(operation, host, client));
        let mut asking: FuturesUnordered<_> = asking.collect();
        let mut answers: Vec<((String, u16), usize)> = Vec::new();
        let mut failures = Vec::new();
        while let Some(answer) = asking.next().await {
            let address = match answer {
                Ok(address) => address,
                Err(failure) => {
                    failures.push(failure);
                    continue;
                }
            };
            match answers.iter_mut().find(|(other, _)| *other == address) {
                Some((_, count)) => *count += 1,
                None => answers.push((address, 1)),
            }
            if answers.iter().any(|(_, count)| *count > self.guides.len() / 2) {
                break;
            }
        }
        if answers.is_empty() {
            return Err(self.nobody_knows(operation, failures));
        }
        answers.sort_by_key(|(_, count)| Reverse(*count));
        for ((host, port), _) in answers {
            let client = self.dial.server(&host, port)?;
            match is_master(&client).await {
                Ok(true) => return Ok(client),
                Ok(false) => failures.push(
                    error(ErrorKind::Unavailable, operation)
                        .with_detail(format!("{host}:{port} is a replica")),
                ),
                Err(failure) => {
                    let told = unconnected(operation, &format!("{host}:{port}"), failure);
                    if !told.is_retryable() {
                        return Err(told);
                    }
                    failures.push(told);
                }
            }
        }
        Err(self.nobody_knows(operation, failures))
    }

    /// Where the master is, as one of the guides has it.
    async fn ask(
        &self,
        operation: &'static str,
        host: &str,
        client: &Client,
    ) -> Result<(String, u16)> {
        let known = match &self.question {
            Question::Sentinel(name) => asked_sentinel(client, name).await,
            Question::Cluster => asked_cluster(client, &self.key, host).await,
        };
        match known {
            Ok(Some(address)) => Ok(address),
            Ok(None) => Err(match &self.question {
                Question::Sentinel(name) => {
                    let detail = format!("{host} watches no master `{name}`");
                    error(ErrorKind::Invalid, operation).with_detail(detail)
                }
                Question::Cluster => {
                    let detail = format!("{host} knows of no master of the namespace's slot");
                    error(ErrorKind::Unavailable, operation).with_detail(detail)
                }
            }),
            // It is alive, and has no such command.
            Err(failure) if classify(&failure) == ErrorKind::Protocol => {
                let is_none = match &self.question {
                    Question::Sentinel(_) => "no Sentinel; accepted are those of the master",
                    Question::Cluster => "no node of a cluster; accepted is `redis://host`",
                };
                Err(error(ErrorKind::Invalid, operation)
                    .with_detail(format!("{host} is {is_none}"))
                    .with_source(failure))
            }
            Err(failure) => Err(unconnected(operation, host, failure)),
        }
    }

    fn nobody_knows(&self, operation: &'static str, failures: Vec<Error>) -> Error {
        // Unless most of them refuse, one may know it when it is asked again.
        let refusals = failures.iter().filter(|failure| !failure.is_retryable()).count();
        let is_refused = refusals > self.guides.len() / 2;
        let cause = failures.into_iter().find(|failure| failure.is_retryable() != is_refused);
        let kind = cause.as_ref().map_or(ErrorKind::Unavailable, Error::kind);
        let nobody = error(kind, operation).with_detail(format!("{self} is not found"));
        match cause {
            Some(cause) => nobody.with_source(cause),
            None => nobody,
        }
    }
}

/// How errors call the server.
impl fmt::Display for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.question {
            Question::Sentinel(name) => write!(f, "the master `{name}`"),
            Question::Cluster => write!(f, "the master of the slot of `{}`", self.key),
        }
    }
}

/// Whether the server says by this that it does not answer for the keys now: another one does, or will.
pub(crate) fn is_elsewhere(failure: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    let redis::ErrorKind::Server(kind) = failure.kind() else { return false };
    matches!(kind, Ask | BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain)
}

async fn asked_sentinel(client: &Client, name: &str) -> RedisResult<Option<(String, u16)>> {
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    ask.query_async(&mut connect(client).await?).await
}

async fn asked_cluster(
    client: &Client,
    key: &str,
    host: &str,
) -> RedisResult<Option<(String, u16)>> {
    let mut ask = redis::pipe();
    ask.cmd("CLUSTER").arg("KEYSLOT").arg(key).cmd("CLUSTER").arg("SLOTS");
    let (slot, ranges): (u16, Vec<Vec<Value>>) =
        ask.query_async(&mut connect(client).await?).await?;
    for range in ranges {
        // First and last slot, the master, its replicas; each server is an address, a port, and more.
        let [first, last, Value::Array(master), ..] = &range[..] else { continue };
        if !(number(first)?..=number(last)?).contains(&slot) {
            continue;
        }
        let [address, port, ..] = &master[..] else { continue };
        let address = Option::<String>::from_redis_value_ref(address)?;
        // Nothing means: the one at which the question was asked.
        let asked = host.rsplit_once(':').map_or(host, |(asked, _)| asked);
        let address = address.filter(|address| !address.is_empty() && address != "?");
        return Ok(Some((address.unwrap_or_else(|| asked.to_owned()), number(port)?)));
    }
    Ok(None)
}

async fn is_master(client: &Client) -> RedisResult<bool> {
    let info: InfoDict =
        redis::cmd("INFO").arg("replication").query_async(&mut connect(client).await?).await?;
    Ok(info.get::<String>("role").as_deref() == Some("master"))
}

async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(LIMIT))
        .set_response_timeout(Some(LIMIT));
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn number(value: &Value) -> RedisResult<u16> {
    Ok(u16::from_redis_value_ref(value)?)
}

/// How long one that is asked may take to connect, and to answer.
const LIMIT: Duration = Duration::from_secs(1);
