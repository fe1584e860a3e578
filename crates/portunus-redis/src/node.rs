//! One server: its connections, and who it says it is.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portunus_core::error::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, InfoDict};

use crate::error::{STORE, classify, failed};
use crate::script::{Call, Reply};

/// One server, connected to when it is needed.
pub(crate) struct Node {
    host: String,
    client: Client,
    /// One for sessions alone, whose requests come from another thread than all others.
    renewals: Link,
    requests: Link,
    identity: Mutex<Option<Identity>>,
    connections: AtomicU64,
}

/// Which connection a request takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lane {
    Renewals,
    Requests,
}

/// What a server said of itself when it was last connected to.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) run_id: String,
    pub(crate) version: String,
    pub(crate) replicas: u64,
    pub(crate) eviction: String,
    pub(crate) appends: bool,
}

#[derive(Default)]
struct Link {
    opening: Arc<tokio::sync::Mutex<()>>,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Node {
    pub(crate) fn new(host: String, client: Client) -> Self {
        Self {
            host,
            client,
            renewals: Link::default(),
            requests: Link::default(),
            identity: Mutex::default(),
            connections: AtomicU64::new(0),
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// How many connections for requests there have been.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a script. Its request is never sent twice.
    pub(crate) async fn run(self: &Arc<Self>, lane: Lane, call: Call) -> Result<Reply> {
        let operation = call.operation;
        let mut connection = self.connection(lane, operation).await?;
        match call.invoke(&mut connection).await {
            Ok(reply) => Ok(reply),
            Err(error) => {
                self.judge(lane, &error);
                Err(failed(operation, &self.host, error))
            }
        }
    }

    /// Runs a command that reads.
    pub(crate) async fn read<T: redis::FromRedisValue>(
        self: &Arc<Self>,
        operation: &'static str,
        command: &redis::Cmd,
    ) -> Result<T> {
        let mut connection = self.connection(Lane::Requests, operation).await?;
        command.query_async(&mut connection).await.map_err(|error| {
            self.judge(Lane::Requests, &error);
            let told = failed(operation, &self.host, error.clone());
            match told.kind() {
                ErrorKind::Unconfirmed => {
                    Error::new(ErrorKind::Unavailable, STORE, operation).with_source(error)
                }
                _ => told,
            }
        })
    }

    async fn connection(
        self: &Arc<Self>,
        lane: Lane,
        operation: &'static str,
    ) -> Result<MultiplexedConnection> {
        let link = self.link(lane);
        if let Some(connection) = link.open() {
            return Ok(connection);
        }
        let turn = Arc::clone(&link.opening).lock_owned().await;
        if let Some(connection) = link.open() {
            return Ok(connection);
        }
        // A task of its own: it goes on when this caller gives up, for the next one to use.
        let node = Arc::clone(self);
        let connecting = tokio::spawn(async move {
            let _turn = turn;
            let connection = node.connect(operation).await?;
            if lane == Lane::Requests {
                node.connections.fetch_add(1, Ordering::AcqRel);
            }
            let open = &node.link(lane).connection;
            *open.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
            Ok(connection)
        });
        let ended = |_| Err(Error::new(ErrorKind::Unavailable, STORE, operation));
        connecting.await.unwrap_or_else(ended)
    }

    async fn connect(&self, operation: &'static str) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        // Nothing of ours was sent before the connection stands.
        let unavailable = |error: redis::RedisError| {
            let kind = match classify(&error) {
                kind @ (ErrorKind::Denied | ErrorKind::Invalid) => kind,
                _ => ErrorKind::Unavailable,
            };
            let detail = format!("{} can't be connected to", self.host);
            Error::new(kind, STORE, operation).with_detail(detail).with_source(error)
        };
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connecting.await.map_err(unavailable)?;
        let info: InfoDict =
            redis::cmd("INFO").query_async(&mut connection).await.map_err(unavailable)?;
        let identity = self.identify(operation, &info)?;
        crate::script::load(&mut connection).await.map_err(unavailable)?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
        Ok(connection)
    }

    fn identify(&self, operation: &'static str, info: &InfoDict) -> Result<Identity> {
        let text = |field: &str| info.get::<String>(field).unwrap_or_default();
        let unusable = |kind, what: &str| {
            Err(Error::new(kind, STORE, operation)
                .with_detail(format!("{} is {what}; nothing was asked of it", self.host)))
        };
        if text("role") != "master" {
            // It may become one: a fail-over that is under way ends.
            return unusable(ErrorKind::Unavailable, "a replica, and locks are taken on a master");
        }
        if text("cluster_enabled") == "1" {
            let what = "a node of a cluster; accepted are independent masters";
            return unusable(ErrorKind::Unsupported, what);
        }
        Ok(Identity {
            run_id: text("run_id"),
            version: text("redis_version"),
            replicas: info.get("connected_slaves").unwrap_or(0),
            eviction: text("maxmemory_policy"),
            appends: text("aof_enabled") == "1",
        })
    }

    /// Gives a connection up that the next request can't use.
    fn judge(&self, lane: Lane, error: &redis::RedisError) {
        let is_answer = error.code().is_some() && !error.is_io_error();
        let is_stale =
            matches!(classify(error), ErrorKind::Denied) || error.code() == Some("READONLY");
        if !is_answer || is_stale {
            self.link(lane).connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    fn link(&self, lane: Lane) -> &Link {
        match lane {
            Lane::Renewals => &self.renewals,
            Lane::Requests => &self.requests,
        }
    }
}

impl Link {
    fn open(&self) -> Option<MultiplexedConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)
    }
}

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A server that does not answer for so long is connected to anew; the engine gives up much earlier.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
