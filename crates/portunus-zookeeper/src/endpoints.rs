//! Which server a session is connected to: one until it fails to answer, then the next.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};
use zookeeper_client::{Client, Error as ClientError, SessionInfo};

use crate::connection::{Connection, Dial};
use crate::error::{Effect, Fault};

/// One ZooKeeper session, through one connection at a time.
///
/// The client library stays with a server that answers pings, also when that server has lost the
/// ensemble and the session is about to expire. So each connection here has one server, and is left
/// with the first request that goes unanswered; the session moves on to the next.
pub(crate) struct Endpoints {
    dial: Arc<Dial>,
    timeout: Duration,
    /// Where connections are made and live: that must not wait for users' code.
    runtime: Handle,
    /// The session, and the timeout that the ensemble granted it.
    session: OnceLock<(SessionInfo, Duration)>,
    seat: Mutex<Seat>,
}

/// The server that is asked at present; the epoch counts how often it changed.
struct Seat {
    epoch: u64,
    link: Link,
}

enum Link {
    Down,
    Dialing(Shared<Dialing>, AbortHandle),
    Up(Arc<Connection>),
}

impl Endpoints {
    /// Opens a session with the first server that answers. It lives on the present runtime.
    pub(crate) async fn open(dial: Arc<Dial>, timeout: Duration) -> Result<Self, Fault> {
        let count = u64::try_from(dial.hosts.len()).unwrap_or(1).max(1);
        // Counted up before each try: one that is dropped leads on to the next host, too.
        let epoch = dial.next.fetch_add(1, Ordering::Relaxed);
        let endpoints = Self {
            dial,
            timeout,
            runtime: Handle::current(),
            session: OnceLock::new(),
            seat: Mutex::new(Seat { epoch, link: Link::Down }),
        };
        let mut tried = 1;
        while let Err(fault) = endpoints.begin().await.map(|mut call| call.answered()) {
            if fault.verdict.answered {
                return Err(fault);
            }
            if tried == count {
                return Err(endpoints.explained(fault).await);
            }
            tried += 1;
            endpoints.dial.next.fetch_add(1, Ordering::Relaxed);
        }
        Ok(endpoints)
    }

    /// The session's id, and the timeout that the ensemble granted.
    pub(crate) fn granted(&self) -> (i64, Duration) {
        let session = self.session.get();
        session.map_or((0, self.timeout), |(session, timeout)| (session.id().0, *timeout))
    }

    /// Sends requests and waits for their answer.
    pub(crate) async fn run<T, F, R>(&self, effect: Effect, request: F) -> Result<T, Fault>
    where
        F: FnOnce(Client) -> R,
        R: Future<Output = Result<T, ClientError>>,
    {
        let mut call = self.begin().await?;
        let answer = request(call.client.clone()).await;
        call.settle(answer, effect)
    }

    /// Begins a call to the present server; connects if need be.
    ///
    /// A call that is dropped says nothing about the server, for users drop calls. A server that
    /// hangs is found by the library's pings, and one that lost the ensemble by the next renewal.
    pub(crate) async fn begin(&self) -> Result<Call<'_>, Fault> {
        self.call(State::Over).await
    }

    /// Begins a call that only the engine drops, because it took too long: then the server counts as
    /// failed, whatever it answered before.
    pub(crate) async fn begin_renewal(&self) -> Result<Call<'_>, Fault> {
        self.call(State::Open).await
    }

    /// Ends the session; never `Ok`, but a fault that says [`is_lost`](Fault::is_lost) once the
    /// ensemble does not know it any more.
    pub(crate) async fn close(&self) -> Fault {
        match self.connected(State::Open).await {
            Ok((mut turn, connection)) => {
                connection.close().await;
                turn.answered();
            }
            Err(fault) => return fault,
        }
        // The library calls a session closed also when it failed to connect anew. The ensemble's
        // word is what counts.
        let mut last = Fault::new(ClientError::ConnectionLoss, Effect::Write);
        for _ in &self.dial.hosts {
            match self.connected(State::Open).await {
                Ok((turn, _)) => return turn.pass(last),
                Err(fault) if fault.is_lost() => return fault,
                Err(fault) => last = fault,
            }
        }
        last
    }

    async fn call(&self, state: State) -> Result<Call<'_>, Fault> {
        let (turn, connection) = self.connected(state).await?;
        match connection.client() {
            Some(client) => Ok(Call { turn, connection, client }),
            None => Err(turn.pass(Fault::closing())),
        }
    }

    async fn connected(&self, state: State) -> Result<(Turn<'_>, Arc<Connection>), Fault> {
        loop {
            let (mut turn, dialing) = match self.take_turn(state) {
                (turn, Ok(connection)) => return Ok((turn, connection)),
                (turn, Err(dialing)) => (turn, dialing),
            };
            let dialed = dialing.await;
            let mut seat = self.seat();
            if seat.epoch != turn.epoch {
                drop(seat);
                // Given up by another call meanwhile.
                turn.state = State::Over;
                if let Ok(connection) = dialed {
                    connection.abort();
                }
                continue;
            }
            match dialed {
                Ok(connection) => {
                    if let Some(client) = connection.client() {
                        let granted = (client.session().clone(), client.session_timeout());
                        // The same, if the session was there before.
                        let _ = self.session.set(granted);
                    }
                    seat.link = Link::Up(Arc::clone(&connection));
                    drop(seat);
                    return Ok((turn, connection));
                }
                Err(error) => {
                    drop(seat);
                    let mut fault = Fault::connecting(error, self.session.get().is_some());
                    fault.at(self.host(turn.epoch));
                    turn.fail();
                    return Err(fault);
                }
            }
        }
    }

    /// The fault of not being connected, or what is found to be behind it.
    async fn explained(&self, mut fault: Fault) -> Fault {
        let Some(tls) = &self.dial.tls else { return fault };
        for host in &self.dial.hosts {
            if let Some(refusal) = tls.handshake.refusal(host).await {
                fault = refusal;
                fault.at(host);
                break;
            }
        }
        fault
    }

    /// A turn at the present server: its connection, or the one in the making.
    fn take_turn(&self, state: State) -> (Turn<'_>, Result<Arc<Connection>, Shared<Dialing>>) {
        let mut seat = self.seat();
        if matches!(&seat.link, Link::Up(connection) if connection.is_over()) {
            // Nothing is sent there any more, hence nothing is in doubt.
            *seat = Seat { epoch: seat.epoch + 1, link: Link::Down };
        }
        let turn = Turn { endpoints: self, epoch: seat.epoch, state };
        let link = match &seat.link {
            Link::Up(connection) => Ok(Arc::clone(connection)),
            Link::Dialing(dialing, _) => Err(dialing.clone()),
            Link::Down => {
                let task = self.dial(seat.epoch);
                let abort = task.abort_handle();
                let dialing = Dialing(task).shared();
                seat.link = Link::Dialing(dialing.clone(), abort);
                Err(dialing)
            }
        };
        (turn, link)
    }

    /// Begins to connect to the server of an epoch, on the session's own runtime.
    fn dial(&self, epoch: u64) -> JoinHandle<Dialed> {
        let (dial, host) = (Arc::clone(&self.dial), self.host(epoch).to_owned());
        let (session, timeout) = match self.session.get().cloned() {
            Some((session, timeout)) => (Some(session), timeout),
            None => (None, self.timeout),
        };
        let open = async move { dial.open(&host, timeout, session).await.map(Arc::new) };
        self.runtime.spawn(open)
    }

    fn host(&self, epoch: u64) -> &str {
        let count = u64::try_from(self.dial.hosts.len()).unwrap_or(1).max(1);
        &self.dial.hosts[usize::try_from(epoch % count).unwrap_or(0)]
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Dialed = Result<Arc<Connection>, ClientError>;

/// A session that nobody closed is asked to end, without waiting for it.
impl Drop for Endpoints {
    fn drop(&mut self) {
        if let Link::Up(connection) = &self.seat().link {
            connection.resign();
        }
    }
}

/// A connection in the making, which ends with this value.
struct Dialing(JoinHandle<Dialed>);

impl Future for Dialing {
    type Output = Dialed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // An error says that it was aborted, or that the runtime is gone.
        let joined = Pin::new(&mut self.0).poll(cx);
        joined.map(|joined| joined.unwrap_or(Err(ClientError::ClientClosed)))
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One call to the server of one epoch.
pub(crate) struct Call<'a> {
    turn: Turn<'a>,
    connection: Arc<Connection>,
    /// The handle to send requests with.
    pub(crate) client: Client,
}

impl Call<'_> {
    /// Judges the answer: the server answered, or it failed and the next call goes to another.
    pub(crate) fn settle<T>(
        &mut self,
        answer: Result<T, ClientError>,
        effect: Effect,
    ) -> Result<T, Fault> {
        self.turn.settle(answer, effect)
    }

    /// The fault of a request that failed.
    pub(crate) fn fault(&mut self, error: ClientError) -> Fault {
        match self.settle(Err::<std::convert::Infallible, _>(error), Effect::Write) {
            Err(fault) => fault,
            Ok(never) => match never {},
        }
    }

    pub(crate) fn answered(&mut self) {
        self.turn.answered();
    }

    /// Ends the call; the connection is left to wait on.
    pub(crate) fn into_connection(mut self) -> Arc<Connection> {
        self.answered();
        self.connection
    }
}

/// A use of the server of one epoch, whatever comes of it.
struct Turn<'a> {
    endpoints: &'a Endpoints,
    epoch: u64,
    state: State,
}

/// What it says about the server if a turn is dropped.
#[derive(Clone, Copy)]
enum State {
    /// That it failed.
    Open,
    /// Nothing.
    Over,
}

impl Turn<'_> {
    fn settle<T>(&mut self, answer: Result<T, ClientError>, effect: Effect) -> Result<T, Fault> {
        let mut answer = answer.map_err(|error| Fault::new(error, effect));
        match &mut answer {
            Err(fault) if !fault.verdict.answered => {
                fault.at(self.endpoints.host(self.epoch));
                self.fail();
            }
            _ => self.answered(),
        }
        answer
    }

    fn answered(&mut self) {
        self.state = State::Over;
    }

    /// Ends the turn without a word about the server.
    fn pass(mut self, fault: Fault) -> Fault {
        self.state = State::Over;
        fault
    }

    /// Moves on to the next server, unless another call already did.
    fn fail(&mut self) {
        self.state = State::Over;
        let mut seat = self.endpoints.seat();
        if seat.epoch != self.epoch {
            return;
        }
        let left = Seat { epoch: self.epoch + 1, link: Link::Down };
        let left = std::mem::replace(&mut *seat, left);
        drop(seat);
        match left.link {
            Link::Up(connection) => connection.abort(),
            // Left to itself, it would take the session to that server later.
            Link::Dialing(_, abort) => abort.abort(),
            Link::Down => {}
        }
        tracing::debug!(epoch = self.epoch + 1, "zookeeper: next server");
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let State::Open = self.state {
            self.fail();
        }
    }
}
