//! The watch hub: one stream for all who wait, one watch for each lock.
//!
//! A watch begins *now*, never at a past revision: the server looks at those only each 100 ms.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use etcd_client::{
    Client, Error as ClientError, EventType, WatchFilterType, WatchOptions, WatchResponse,
    WatchStream,
};
use portunus_core::error::{Error, ErrorKind};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::endpoints::{Call, Endpoints};
use crate::error::{Effect, Fault, STORE, is_stale_token_reason};
use crate::layout::text;
use crate::news::{Changes, News, Order, Wake};
use crate::store::LARGEST_ANSWER;
use crate::table::Table;

/// All waits of one backend. The stream is opened for the first of them.
#[derive(Debug)]
pub(crate) struct Watches(Arc<Hub>);

#[derive(Debug)]
struct Hub {
    endpoints: Arc<Endpoints>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    table: Table,
    /// To the task that speaks to the store, and which one that is.
    orders: Option<UnboundedSender<Order>>,
    generation: u64,
}

impl Watches {
    pub(crate) fn new(endpoints: Arc<Endpoints>) -> Self {
        Self(Arc::new(Hub { endpoints, state: Mutex::default() }))
    }

    /// Waits until one of `keys` went after `as_of`, or changed if that is awaited, or may have.
    /// Cancel safe.
    pub(crate) async fn wait(
        &self,
        prefix: &str,
        keys: Vec<Arc<str>>,
        as_of: u64,
        changes: Changes,
    ) -> Wake {
        let (id, woken, stream) = {
            let mut state = self.0.state();
            let (id, woken, order) = state.table.register(prefix, keys, as_of, changes);
            (id, woken, order.and_then(|order| state.send(order, &self.0)))
        };
        let _registered = Registered { hub: &self.0, id };
        if let Some((end, orders)) = stream {
            // With the state unlocked: a runtime that shuts down drops the task at once.
            tokio::spawn(run(Arc::clone(&self.0.endpoints), end, orders));
        }
        woken.await.unwrap_or(Wake::Stale)
    }

    /// Remembers that `key` was seen to stand at `revision`.
    pub(crate) fn confirm(&self, prefix: &str, key: &Arc<str>, revision: u64) {
        self.0.state().table.confirm(prefix, key, revision);
    }

    /// Returns the revision at which `key` was last seen to stand, if it is remembered.
    pub(crate) fn confirmed(&self, prefix: &str, key: &Arc<str>) -> Option<u64> {
        self.0.state().table.confirmed(prefix, key)
    }
}

struct Registered<'a> {
    hub: &'a Arc<Hub>,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        let order = state.table.deregister(self.id);
        if let (Some(order), Some(orders)) = (order, &state.orders) {
            // If the stream has ended, the watch has too.
            let _ = orders.send(order);
        }
    }
}

impl Hub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Passes the order on; returns what a new stream needs if there is none.
    fn send(&mut self, order: Order, hub: &Arc<Hub>) -> Option<(End, UnboundedReceiver<Order>)> {
        let mut stream = None;
        let orders = self.orders.get_or_insert_with(|| {
            let (orders, received) = unbounded_channel();
            self.generation += 1;
            let end = End { hub: Arc::downgrade(hub), generation: self.generation };
            stream = Some((end, received));
            orders
        });
        // A stream that is just ending clears the table, and so wakes this waiter as well.
        let _ = orders.send(order);
        stream
    }
}

/// The end of a stream, however it comes about, wakes all waiters.
struct End {
    hub: Weak<Hub>,
    generation: u64,
}

impl End {
    fn with(&self, act: impl FnOnce(&mut State)) {
        if let Some(hub) = self.hub.upgrade() {
            let mut state = hub.state();
            if state.generation == self.generation && state.orders.is_some() {
                act(&mut state);
            }
        }
    }

    fn finish(&self, reason: &Wake) {
        self.with(|state| {
            state.orders = None;
            state.table.clear(reason);
        });
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.finish(&Wake::Stale);
    }
}

/// Runs one stream from its first watch to its end.
async fn run(endpoints: Arc<Endpoints>, end: End, mut orders: UnboundedReceiver<Order>) {
    let reason = stream(&endpoints, &end, &mut orders).await;
    if let Wake::Broken(error) = &reason {
        tracing::debug!(%error, "etcd: watch stream failed");
    }
    end.finish(&reason);
}

async fn stream(endpoints: &Endpoints, end: &End, orders: &mut UnboundedReceiver<Order>) -> Wake {
    let Some(first) = orders.recv().await else { return Wake::Stale };
    let mut epochs = endpoints.epochs();
    let mut call = endpoints.begin();
    let opened = tokio::select! {
        opened = open(&call, &first) => opened,
        // Another request found that this member does not answer.
        () = moved(&mut epochs, call.epoch()) => return Wake::Stale,
    };
    let (stream, created) = match call.settle(opened, Effect::Read) {
        Ok(opened) => opened,
        Err(fault) => return Wake::Broken(fault.into_error("watch", None)),
    };
    if created.canceled() {
        return Wake::Broken(refused(&created));
    }
    end.with(|state| deliver(state, &created));

    let (mut sender, mut replies) = stream.split();
    let send = async {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Open { watch, prefix, puts, replaces } => {
                    if let Some(replaced) = replaces {
                        sender.cancel(replaced).await?;
                    }
                    sender.watch(prefix.as_bytes(), Some(options(watch, puts))).await?;
                }
                Order::Close { watch } => sender.cancel(watch).await?,
            }
        }
        Ok::<(), ClientError>(())
    };
    let receive = async {
        loop {
            let Some(message) = replies.message().await? else { return Ok(()) };
            let mut lost = false;
            end.with(|state| {
                deliver(state, &message);
                lost = message.canceled() && state.table.knows(message.watch_id());
            });
            // Canceled: compacted, or no longer permitted. Refused: perhaps the token is old.
            if message.canceled() && message.created() {
                call.renew_token().await?;
                return Ok(());
            }
            if lost {
                return Ok::<(), ClientError>(());
            }
        }
    };
    let ended = tokio::select! {
        sent = send => sent,
        received = receive => received,
        () = moved(&mut epochs, call.epoch()) => return Wake::Stale,
    };
    if ended.is_err() {
        call.fail();
    }
    // It worked, so the waiters look at once; should it fail to open again, they are told.
    Wake::Stale
}

/// Opens a stream with its first watch; once more if the token may be to blame.
async fn open(call: &Call<'_>, first: &Order) -> Result<(WatchStream, WatchResponse), ClientError> {
    let (stream, created) = call.request(|client| create(client, first)).await?;
    let blames_token = created.canceled() && is_stale_token_reason(created.cancel_reason());
    if blames_token && call.renew_token().await? {
        return call.request(|client| create(client, first)).await;
    }
    Ok((stream, created))
}

fn create(
    client: &Client,
    first: &Order,
) -> impl Future<Output = Result<(WatchStream, WatchResponse), ClientError>> + use<> {
    let client = client.watch_client().max_decoding_message_size(LARGEST_ANSWER);
    let (mut client, first) = (client, first.clone());
    async move {
        let (prefix, options) = match &first {
            Order::Open { watch, prefix, puts, .. } => (prefix.as_bytes(), options(*watch, *puts)),
            Order::Close { .. } => {
                return Err(ClientError::WatchError("nothing to watch".into()));
            }
        };
        let mut stream = client.watch(prefix, Some(options)).await?;
        match stream.message().await? {
            Some(created) => Ok((stream, created)),
            None => Err(ClientError::WatchError("the stream ended".into())),
        }
    }
}

fn options(watch: i64, puts: bool) -> WatchOptions {
    let options = WatchOptions::new().with_prefix().with_watch_id(watch);
    if puts { options } else { options.with_filters([WatchFilterType::NoPut]) }
}

fn deliver(state: &mut State, message: &WatchResponse) {
    if message.created() && !message.canceled() {
        let revision = message.header().map_or(0, |header| header.revision());
        state.table.created(message.watch_id(), u64::try_from(revision).unwrap_or(0));
    }
    for event in message.events() {
        let Some(kv) = event.kv() else { continue };
        let stands = event.event_type() == EventType::Put;
        if stands && kv.create_revision() == kv.mod_revision() {
            // Nobody waits for one who comes.
            continue;
        }
        let revision = u64::try_from(kv.mod_revision()).unwrap_or(0);
        let news = News { key: text(kv.key()), revision, stands };
        let order = state.table.event(message.watch_id(), news);
        if let (Some(order), Some(orders)) = (order, &state.orders) {
            // The stream that would obey is the one that delivers.
            let _ = orders.send(order);
        }
    }
}

fn refused(message: &WatchResponse) -> Error {
    let reason = message.cancel_reason().to_owned();
    let status = tonic::Status::unknown(&reason);
    let fault = Fault::new(ClientError::GRpcStatus(status), Effect::Read);
    match fault.verdict.kind {
        ErrorKind::Denied => fault.into_error("watch", None),
        _ => Error::new(ErrorKind::Unavailable, STORE, "watch")
            .with_detail(format!("the server refused the watch: {reason}")),
    }
}

/// Completes when the member is no longer the one that is asked.
async fn moved(epochs: &mut tokio::sync::watch::Receiver<u64>, epoch: u64) {
    // An error would say that the endpoints are gone, which cannot be while they are borrowed.
    let _ = epochs.wait_for(|present| *present != epoch).await;
}
