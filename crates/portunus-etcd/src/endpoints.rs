//! Which member is asked: one until it fails to answer, then the next.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error as ClientError};
use tokio::sync::{Mutex as AsyncMutex, OnceCell, watch};

use crate::error::{Effect, Fault, is_stale_token};

/// The members of a cluster, one client for the present one.
///
/// The client library's own balancing keeps sending to members that are down, so each client here
/// has one member. A client is made inside the first call that needs it, because it is bound to
/// the runtime that it was made on, and thrown away with the first call that it does not answer:
/// what is left of it may be a connection that hangs.
pub(crate) struct Endpoints {
    urls: Vec<String>,
    options: ConnectOptions,
    has_login: bool,
    seat: Mutex<Seat>,
    epochs: watch::Sender<u64>,
}

/// The member that is asked at present; the epoch counts how often it changed.
struct Seat {
    epoch: u64,
    /// Answers since the epoch began.
    answers: u64,
    /// Whether any member ever answered.
    reached: bool,
    connection: Arc<OnceCell<Connection>>,
}

/// A client of one member.
pub(crate) struct Connection {
    client: Client,
    /// How often the token was renewed.
    token: AtomicU64,
    /// Makes concurrent renewals one.
    renewing: AsyncMutex<()>,
}

impl Endpoints {
    /// Takes the members in the order of `urls`, beginning at a random one.
    pub(crate) fn new(urls: Vec<String>, options: ConnectOptions, has_login: bool) -> Self {
        let options = options
            // A member that lost its leader then says so, and ends its streams.
            .with_require_leader(true)
            // Ends streams on a connection that hangs. Servers punish less than 5 s.
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(false)
            .with_connect_timeout(Duration::from_secs(5));
        let start = rand::random_range(0..u64::try_from(urls.len()).unwrap_or(1).max(1));
        let seat = Seat { epoch: start, answers: 0, reached: false, connection: Arc::default() };
        Self { urls, options, has_login, seat: Mutex::new(seat), epochs: watch::Sender::new(start) }
    }

    /// Sends one request, once more if it was refused for its old token.
    pub(crate) async fn run<T, F, R>(&self, effect: Effect, request: F) -> Result<T, Fault>
    where
        F: Fn(&Client) -> R,
        R: Future<Output = Result<T, ClientError>>,
    {
        let mut call = self.begin();
        let result = call.request(request).await;
        call.settle(result, effect)
    }

    /// Begins a call to the present member. Unless [`Call::settle`] says otherwise, or another
    /// call was answered meanwhile, the member counts as failed when the call is dropped.
    pub(crate) fn begin(&self) -> Call<'_> {
        let seat = self.seat();
        Call {
            endpoints: self,
            epoch: seat.epoch,
            answers: seat.answers,
            connection: Arc::clone(&seat.connection),
            state: State::Open,
        }
    }

    /// Tells when the epoch changes.
    pub(crate) fn epochs(&self) -> watch::Receiver<u64> {
        self.epochs.subscribe()
    }

    async fn connect(&self, epoch: u64) -> Result<Connection, ClientError> {
        let url = self.url(epoch);
        let client = Client::connect([url], Some(self.options.clone())).await?;
        Ok(Connection { client, token: AtomicU64::new(0), renewing: AsyncMutex::new(()) })
    }

    /// The member of an epoch.
    fn url(&self, epoch: u64) -> &str {
        let count = u64::try_from(self.urls.len()).unwrap_or(1).max(1);
        &self.urls[usize::try_from(epoch % count).unwrap_or(0)]
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The options hold the password.
        f.debug_struct("Endpoints").field("urls", &self.urls).finish_non_exhaustive()
    }
}

/// One call to the member of one epoch.
pub(crate) struct Call<'a> {
    endpoints: &'a Endpoints,
    epoch: u64,
    answers: u64,
    connection: Arc<OnceCell<Connection>>,
    state: State,
}

enum State {
    Open,
    Answered,
    Failed,
}

impl Call<'_> {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Sends a request, once more if it was refused for its old token.
    pub(crate) async fn request<T, F, R>(&self, request: F) -> Result<T, ClientError>
    where
        F: Fn(&Client) -> R,
        R: Future<Output = Result<T, ClientError>>,
    {
        let connect = || self.endpoints.connect(self.epoch);
        let connection = self.connection.get_or_try_init(connect).await?;
        let token = connection.token.load(Ordering::Acquire);
        match request(&connection.client).await {
            Err(error) if self.endpoints.has_login && is_stale_token(&error) => {
                connection.renew_token(token).await?;
                request(&connection.client).await
            }
            result => result,
        }
    }

    /// Gets a new token whatever the present one is worth; `false` without a login.
    pub(crate) async fn renew_token(&self) -> Result<bool, ClientError> {
        match self.connection.get() {
            Some(connection) if self.endpoints.has_login => {
                let token = connection.token.load(Ordering::Acquire);
                connection.renew_token(token).await.map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// Judges the result: the member answered, or it failed and the next call goes to another.
    pub(crate) fn settle<T>(
        &mut self,
        result: Result<T, ClientError>,
        effect: Effect,
    ) -> Result<T, Fault> {
        let mut result = result.map_err(|error| Fault::new(error, effect));
        match &mut result {
            Err(fault) if !fault.verdict.answered => {
                if !self.endpoints.seat().reached {
                    fault.hint();
                }
                fault.at(self.endpoints.url(self.epoch));
                self.fail();
            }
            _ => self.answered(),
        }
        result
    }

    pub(crate) fn answered(&mut self) {
        self.state = State::Answered;
        let mut seat = self.endpoints.seat();
        seat.reached = true;
        if seat.epoch == self.epoch {
            seat.answers += 1;
        }
    }

    /// Moves on to the next member, unless another call already did.
    pub(crate) fn fail(&mut self) {
        self.state = State::Failed;
        let mut seat = self.endpoints.seat();
        if seat.epoch == self.epoch {
            let epoch = self.epoch + 1;
            *seat = Seat { epoch, answers: 0, connection: Arc::default(), ..*seat };
            drop(seat);
            self.endpoints.epochs.send_replace(epoch);
            tracing::debug!(epoch, "etcd: next endpoint");
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let State::Open = self.state {
            // The engine's patience ended, or a user's: only the first says anything about the
            // member, and an answer to another call meanwhile says that it works.
            let seat = self.endpoints.seat();
            let works = seat.epoch == self.epoch && seat.answers > self.answers;
            drop(seat);
            if !works {
                self.fail();
            }
        }
    }
}

impl Connection {
    /// Gets a new token, unless somebody did since `seen`.
    async fn renew_token(&self, seen: u64) -> Result<(), ClientError> {
        let _renewing = self.renewing.lock().await;
        if self.token.load(Ordering::Acquire) == seen {
            self.client.refresh_token().await?;
            self.token.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> Endpoints {
        let urls = vec!["http://a:1".to_owned(), "http://b:1".to_owned()];
        Endpoints::new(urls, ConnectOptions::new(), false)
    }

    #[test]
    fn many_failures_of_one_member_move_on_once() {
        let endpoints = endpoints();
        let start = endpoints.begin().epoch();
        endpoints.begin().answered();
        let calls: Vec<_> = (0..100).map(|_| endpoints.begin()).collect();
        let before = calls[0].epoch();
        assert!(before > start, "the first call was dropped unanswered");
        drop(calls);
        assert_eq!(*endpoints.epochs().borrow(), before + 1);
    }

    #[test]
    fn a_dropped_call_is_no_failure_while_others_are_answered() {
        let endpoints = endpoints();
        let cancelled = endpoints.begin();
        let epoch = cancelled.epoch();
        endpoints.begin().answered();
        drop(cancelled);
        assert_eq!(*endpoints.epochs().borrow(), epoch);
        let mut failed = endpoints.begin();
        failed.fail();
        drop(failed);
        assert_eq!(*endpoints.epochs().borrow(), epoch + 1);
    }
}
