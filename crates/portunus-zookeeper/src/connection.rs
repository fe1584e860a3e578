//! One connection to one server, from its handshake to its end.
//!
//! The client library drives a connection in a task of its own, connects anew when it breaks, and
//! ends the *session* with the last handle to it. None of that is wanted here: which server is
//! asked next is decided in [`endpoints`](crate::endpoints), and a session outlives its
//! connections. So the task is spawned through a scope of ours, holds a handle to itself, and is
//! aborted when the connection breaks or is left.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use spawns_core::{Spawn, Task};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use zookeeper_client::{
    Client, Connector, Error as ClientError, OneshotWatcher, SessionInfo, SessionState,
    StateWatcher, TlsOptions, WatchedEvent,
};

use crate::error::{Effect, classify};
use crate::handshake::Handshake;

/// How to reach the servers, and who we are there.
pub(crate) struct Dial {
    pub(crate) hosts: Vec<String>,
    pub(crate) tls: Option<Tls>,
    /// `user:password` of the scheme `digest`.
    pub(crate) login: Option<SecretString>,
    /// The host that the next session begins with: another one after a try that led nowhere.
    pub(crate) next: AtomicU64,
}

/// How TLS is spoken with them.
pub(crate) struct Tls {
    pub(crate) options: TlsOptions,
    pub(crate) handshake: Handshake,
}

/// A session's connection to one server. Dropping it ends the connection and not the session.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    driver: AbortHandle,
}

/// What the library's task and its users share.
struct Shared {
    /// The handle to the task, kept by the task itself; none once the session is to end with it.
    client: Mutex<Option<Client>>,
    /// Whether the task is gone. It goes while this is locked.
    over: watch::Sender<bool>,
}

impl Dial {
    /// Connects to one server on the present runtime, where the connection lives from then on. It
    /// goes on with `session`, or opens one.
    pub(crate) async fn open(
        &self,
        host: &str,
        timeout: Duration,
        session: Option<SessionInfo>,
    ) -> Result<Connection, ClientError> {
        let moved = session.is_some();
        let mut connector = Client::connector()
            .with_session_timeout(timeout)
            // A server that says nothing for so long is taken for dead.
            .with_connection_timeout(timeout / 6)
            .with_fail_eagerly();
        if let Some(session) = session {
            connector = connector.with_session(session);
        }
        if let Some(login) = &self.login {
            connector = connector.with_auth("digest", login.expose_secret().as_bytes());
        }
        if let Some(tls) = &self.tls {
            connector = connector.with_tls(tls.options.clone());
        }
        let connection = Connection::open(connector, self.tls.is_some(), host).await?;
        if moved && let Some(client) = connection.client() {
            barrier(&client).await?;
        }
        Ok(connection)
    }
}

/// Waits until the server has seen all that the session did through others, and more.
///
/// A read is answered from what the server has applied, which may lag behind. A write goes through
/// the leader and comes back to the server after everything before it; a refused one does as well.
pub(crate) async fn barrier(client: &Client) -> Result<(), ClientError> {
    let mut write = client.new_multi_writer();
    write.add_check_version("/", -1)?;
    match write.commit().await.map_err(ClientError::from) {
        Err(error) if !classify(&error, Effect::Read).answered => Err(error),
        _ => Ok(()),
    }
}

impl Connection {
    async fn open(connector: Connector, tls: bool, host: &str) -> Result<Self, ClientError> {
        let shared = Arc::new(Shared { client: Mutex::new(None), over: watch::Sender::new(false) });
        let spawner = Spawner { shared: Arc::clone(&shared), driver: OnceLock::new() };
        let mut connecting = pin!(async {
            if tls { connector.secure_connect(host).await } else { connector.connect(host).await }
        });
        let connected = poll_fn(|cx| {
            let _scope = spawns_core::enter(&spawner);
            connecting.as_mut().poll(cx)
        });
        let client = connected.await?;
        let driver = spawner.driver.into_inner();
        let driver = driver.ok_or(ClientError::UnexpectedError("no task was spawned".into()))?;
        let states = client.state_watcher();
        *shared.client() = Some(client);
        tokio::spawn(end_when_broken(states, shared.over.subscribe(), driver.clone()));
        Ok(Self { shared, driver })
    }

    /// The handle to send requests with; none while the session is being ended.
    ///
    /// A request is sent when its method is called, not when its future is polled.
    pub(crate) fn client(&self) -> Option<Client> {
        self.shared.client().clone()
    }

    /// Ends the connection and not the session.
    pub(crate) fn abort(&self) {
        self.driver.abort();
    }

    /// Asks the server to end the session, and waits for the end of the connection.
    pub(crate) async fn close(&self) {
        self.resign();
        // The sender lives as long as `self`.
        let _ = self.shared.over.subscribe().wait_for(|over| *over).await;
    }

    /// Asks the server to end the session, without waiting for it.
    pub(crate) fn resign(&self) {
        // With the last handle the library sends the request.
        drop(self.shared.client().take());
    }

    /// Whether the connection is gone, as far as this side knows.
    pub(crate) fn is_over(&self) -> bool {
        *self.shared.over.borrow()
    }

    /// Waits for what a watch tells; none when the connection went first.
    pub(crate) async fn watched(&self, watcher: OneshotWatcher) -> Option<WatchedEvent> {
        let over = self.shared.over.subscribe();
        let mut watched = pin!(watcher.changed());
        poll_fn(|cx| {
            // The library panics when its task goes under a watcher that is polled; it cannot go
            // while this is borrowed. Its going wakes the watcher.
            match *over.borrow() {
                true => Poll::Ready(None),
                false => watched.as_mut().poll(cx).map(Some),
            }
        })
        .await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.shared.client().is_some() {
            self.driver.abort();
        }
    }
}

impl Shared {
    fn client(&self) -> std::sync::MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a connection that broke: the library would go on to connect anew.
async fn end_when_broken(
    mut states: StateWatcher,
    mut over: watch::Receiver<bool>,
    driver: AbortHandle,
) {
    let broken = async { while states.changed().await == SessionState::SyncConnected {} };
    tokio::select! {
        () = broken => {
            // A terminal state ends the task by itself, and is told to its watchers.
            if !states.peek_state().is_terminated() {
                driver.abort();
            }
        }
        _ = over.wait_for(|over| *over) => {}
    }
}

/// Spawns the library's task on the present runtime.
struct Spawner {
    shared: Arc<Shared>,
    driver: OnceLock<AbortHandle>,
}

impl Spawn for Spawner {
    fn spawn(&self, task: Task) {
        let driven = Driven { task: Some(Box::into_pin(task.future)), shared: self.shared.clone() };
        let spawned = Handle::current().spawn(driven);
        // The library spawns one task a connection.
        let _ = self.driver.set(spawned.abort_handle());
    }
}

/// The library's task; its end is told however it comes about.
struct Driven {
    task: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    shared: Arc<Shared>,
}

impl Future for Driven {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.task {
            Some(task) => task.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        let task = self.task.take();
        self.shared.over.send_modify(|over| {
            *over = true;
            drop(task);
        });
    }
}
