//! One server: its connections, and who it says it is.

use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portunus_core::beat::Beats;
use portunus_core::clock::Clock;
use portunus_core::error::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, InfoDict};

use crate::discovery::{Place, is_elsewhere};
use crate::doubts::Sent;
use crate::error::{STORE, SameServer, classify, failed, unconnected};
use crate::script::{Call, Reply};
use crate::silence::Silence;

/// One server, connected to when it is needed.
pub(crate) struct Node {
    host: String,
    place: Place,
    /// One for sessions alone, whose requests come from another thread than all others.
    renewals: Link,
    requests: Link,
    identity: Mutex<Option<Identity>>,
    /// Its number, and which server each lane of each node leads to.
    at: usize,
    servers: Servers,
    beats: Beats,
}

/// The run ids of the servers, by node and lane; shared by all nodes.
pub(crate) type Servers = Arc<Mutex<Vec<[Option<String>; 2]>>>;

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
    /// Of what history its data is; another one whenever it becomes a master.
    pub(crate) history: String,
}

#[derive(Default)]
struct Link {
    opening: Arc<tokio::sync::Mutex<()>>,
    open: Mutex<Option<Connection>>,
    /// How many there have been.
    opened: AtomicU64,
    failures: Mutex<Failures>,
}

/// How often a connection could not be opened, and why, if it was so the last time.
#[derive(Clone, Default)]
struct Failures {
    count: u64,
    last: Option<Error>,
}

/// A connection, with its number among those of its lane.
#[derive(Clone)]
struct Connection {
    requests: MultiplexedConnection,
    number: u64,
    silence: Arc<Silence>,
}

impl Node {
    pub(crate) fn new(
        host: String,
        place: Place,
        at: usize,
        servers: Servers,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            host,
            place,
            renewals: Link::default(),
            requests: Link::default(),
            identity: Mutex::default(),
            at,
            servers,
            beats: Beats::new(clock),
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The number of the connection by which requests go from now on.
    pub(crate) fn newest(&self) -> u64 {
        let link = &self.requests;
        let slot = link.slot();
        slot.as_ref().map_or_else(|| link.opened.load(Ordering::Acquire) + 1, |open| open.number)
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the server was refused, if the last connection led to one that another node stands for.
    pub(crate) fn twin(&self, lane: Lane) -> Option<Error> {
        let is_twin = |told: &Error| told.source().is_some_and(|cause| cause.is::<SameServer>());
        self.link(lane).failures().last.clone().filter(is_twin)
    }

    /// What the server says of itself now; an error if locks are not taken there.
    pub(crate) async fn info(self: &Arc<Self>, operation: &'static str) -> Result<InfoDict> {
        let info = self.read(operation, &redis::cmd("INFO")).await?;
        self.identify(operation, &info).map(|_| info)
    }

    /// Runs a script. Its request is never sent twice, and not at all after `limit`, before which there has to
    /// be a connection.
    pub(crate) async fn run(
        self: &Arc<Self>,
        lane: Lane,
        call: Call,
        mut sent: Option<Sent>,
        limit: impl Future<Output = ()>,
    ) -> Result<Reply> {
        let operation = call.operation;
        let connecting = self.connection(lane, operation);
        let connected = tokio::select! {
            biased;
            connected = connecting => connected?,
            () = limit => return Err(self.unsent(operation)),
        };
        let Connection { mut requests, number, silence } = connected;
        if let Some(sent) = &mut sent {
            sent.leaves(number);
        }
        let awaited = silence.await_from(self.beats.stamp());
        let answer = call.invoke(&mut requests, number).await;
        awaited.answered();
        if let Some(sent) = sent
            && answer.as_ref().err().is_none_or(is_answer)
        {
            sent.answered();
        }
        match answer {
            Ok(reply) if reply.word() == "late" => {
                // Numbers only grow: the next connection's is above whatever the session has heard.
                self.link(lane).slot().take_if(|open| open.number == number);
                Err(self.unsent(operation))
            }
            Ok(reply) => Ok(reply),
            Err(error) => {
                self.judge(lane, number, &error);
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
        let Connection { mut requests, number, .. } =
            self.connection(Lane::Requests, operation).await?;
        command.query_async(&mut requests).await.map_err(|error| {
            self.judge(Lane::Requests, number, &error);
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
    ) -> Result<Connection> {
        let link = self.link(lane);
        if let Some(connection) = self.usable(link) {
            return Ok(connection);
        }
        let failures = link.failures().count;
        let turn = Arc::clone(&link.opening).lock_owned().await;
        if let Some(connection) = link.open() {
            return Ok(connection);
        }
        let failed = link.failures().clone();
        if failed.count != failures {
            // Who waited while it failed does not try it again, one after the other.
            return Err(failed.last.unwrap_or_else(|| self.unsent(operation)));
        }
        // A task of its own: it goes on when this caller gives up, for the next one to use.
        let node = Arc::clone(self);
        let connecting = tokio::spawn(async move {
            let _turn = turn;
            let link = node.link(lane);
            let connected = node.connect(lane, operation).await;
            let (requests, run_id) = link.failures().note(connected)?;
            // The other lane may have found another server meanwhile, which came after this one.
            let servers = node.servers.lock().unwrap_or_else(PoisonError::into_inner);
            let leads_to = servers.get(node.at).and_then(|lanes| lanes[lane as usize].as_ref());
            if leads_to != Some(&run_id) {
                return Err(node.unsent(operation));
            }
            // Counted and given out in one step, for those who ask for the newest.
            let mut slot = link.slot();
            let number = link.opened.fetch_add(1, Ordering::AcqRel) + 1;
            let silence = Arc::default();
            Ok(slot.insert(Connection { requests, number, silence }).clone())
        });
        connecting.await.unwrap_or_else(|_| Err(self.unsent(operation)))
    }

    /// The open connection. One that is silent is given up: who waited for it had to stop before the client
    /// itself did, and the next one would do the same.
    fn usable(&self, link: &Link) -> Option<Connection> {
        let mut slot = link.slot();
        let since = slot.as_ref().and_then(|open| open.silence.since());
        if since.is_some_and(|since| self.beats.is_past(since.after(ANSWER_TIMEOUT))) {
            *slot = None;
        }
        slot.clone()
    }

    /// Nothing was changed by a request that was not sent, or came too late to do anything.
    fn unsent(&self, operation: &'static str) -> Error {
        let detail = format!("{} can't be asked now", self.host);
        Error::new(ErrorKind::Unavailable, STORE, operation).with_detail(detail)
    }

    /// Connects, and says to whom.
    async fn connect(
        &self,
        lane: Lane,
        operation: &'static str,
    ) -> Result<(MultiplexedConnection, String)> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        // Nothing of ours was sent before the connection stands.
        let unavailable = |error| unconnected(operation, &self.host, error);
        let client = self.place.client(operation).await?;
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connecting.await.map_err(unavailable)?;
        let info: InfoDict =
            redis::cmd("INFO").query_async(&mut connection).await.map_err(unavailable)?;
        let identity = self.identify(operation, &info)?;
        self.check_server(lane, operation, &identity.run_id)?;
        crate::script::load(&mut connection).await.map_err(unavailable)?;
        self.place.claim(&identity.history, &mut connection).await.map_err(unavailable)?;
        let run_id = identity.run_id.clone();
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
        Ok((connection, run_id))
    }

    fn identify(&self, operation: &'static str, info: &InfoDict) -> Result<Identity> {
        let text = |field: &str| info.get::<String>(field).unwrap_or_default();
        let unusable = |kind, what: &str| {
            Err(Error::new(kind, STORE, operation)
                .with_detail(format!("{} is {what}; nothing was asked of it", self.host)))
        };
        if text("redis_mode") == "sentinel" {
            let what = "a Sentinel; accepted is its address with `sentinel=<master>`";
            return unusable(ErrorKind::Invalid, what);
        }
        if text("role") != "master" {
            // It may become one: a fail-over that is under way ends.
            return unusable(ErrorKind::Unavailable, "a replica, and locks are taken on a master");
        }
        if text("cluster_enabled") == "1" && !self.place.is_cluster() {
            let what = "a node of a cluster; accepted are independent masters, and \
                        `redis://` with `cluster=true`";
            return unusable(ErrorKind::Unsupported, what);
        }
        if text("master_replid").is_empty() && !self.place.is_fixed() {
            let what = "a server that tells no `master_replid`, by which a fail-over is noticed";
            return unusable(ErrorKind::Unsupported, what);
        }
        Ok(Identity { run_id: text("run_id"), history: text("master_replid") })
    }

    /// Refuses a server that another node stands for already: it would have two votes. If the other
    /// lane leads elsewhere it is given up, for that was before a restart, or before the name changed.
    fn check_server(&self, lane: Lane, operation: &'static str, run_id: &str) -> Result<()> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |known: &Option<String>| known.as_deref() == Some(run_id);
        let mut others = servers.iter().enumerate().filter(|(at, _)| *at != self.at);
        if others.any(|(_, lanes)| lanes.iter().any(is_it)) {
            let detail = format!(
                "{} is the same server as another that is named; accepted are independent masters",
                self.host
            );
            return Err(Error::new(ErrorKind::Invalid, STORE, operation)
                .with_detail(detail)
                .with_source(SameServer(run_id.to_owned())));
        }
        let Some(own) = servers.get_mut(self.at) else { return Ok(()) };
        let other = match lane {
            Lane::Renewals => Lane::Requests,
            Lane::Requests => Lane::Renewals,
        };
        if own[other as usize].as_ref().is_some_and(|known| known != run_id) {
            own[other as usize] = None;
            self.link(other).slot().take();
        }
        own[lane as usize] = Some(run_id.to_owned());
        Ok(())
    }

    /// Gives a connection up that the next request can't use, unless another has replaced it.
    fn judge(&self, lane: Lane, number: u64, error: &redis::RedisError) {
        let is_stale = matches!(classify(error), ErrorKind::Denied) || is_elsewhere(error);
        if !is_answer(error) || is_stale {
            self.link(lane).slot().take_if(|open| open.number == number);
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
    fn open(&self) -> Option<Connection> {
        self.slot().clone()
    }

    fn slot(&self) -> MutexGuard<'_, Option<Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failures {
    fn note<T>(&mut self, connected: Result<T>) -> Result<T> {
        self.last = connected.as_ref().err().cloned();
        self.count += u64::from(self.last.is_some());
        connected
    }
}

/// Whether the server said this, in answer to the request.
fn is_answer(error: &redis::RedisError) -> bool {
    error.code().is_some() && !error.is_io_error()
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
