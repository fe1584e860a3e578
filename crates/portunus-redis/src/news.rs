//! What servers tell by themselves: on a connection of its own to each of them, for wake-ups alone. A
//! message that is lost costs time, never more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use portunus_core::backend::AttemptId;
use portunus_core::name::LockName;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::{Notify, mpsc};

use crate::attempts::Attempts;
use crate::nodes::Nodes;

/// The channels that are listened to, on all servers.
#[derive(Debug)]
pub(crate) struct News {
    shared: Arc<Shared>,
    orders: Mutex<Vec<mpsc::UnboundedSender<Order>>>,
}

#[derive(Debug)]
struct Shared {
    nodes: Arc<Nodes>,
    attempts: Arc<Attempts>,
    channels: Mutex<HashMap<String, Channel>>,
}

/// One channel.
#[derive(Debug)]
struct Channel {
    /// The lock whose waiters it is for; none for a session's.
    name: Option<LockName>,
    users: usize,
    /// The servers that send it to us.
    listened: HashSet<usize>,
    ready: Arc<Notify>,
    /// Rings at each message that counts.
    bell: Arc<Notify>,
    /// The last messages that no majority has sent so far, each with the servers that did.
    heard: VecDeque<(String, HashSet<usize>)>,
}

/// A channel in use; it is listened to for as long as this lives, and some time longer.
#[derive(Debug)]
pub(crate) struct Subscription {
    shared: Arc<Shared>,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    channel: String,
    ready: Arc<Notify>,
    pub(crate) bell: Arc<Notify>,
}

#[derive(Clone, Debug)]
enum Order {
    Listen(String),
    Leave(String),
}

impl News {
    pub(crate) fn new(nodes: Arc<Nodes>, attempts: Arc<Attempts>) -> Self {
        let shared = Arc::new(Shared { nodes, attempts, channels: Mutex::default() });
        Self { shared, orders: Mutex::default() }
    }

    /// Listens to a channel. The first call starts the tasks, on the runtime it is made on.
    pub(crate) fn listen(&self, channel: String, name: Option<&LockName>) -> Subscription {
        let orders = self.orders();
        let mut channels = self.shared.channels();
        let is_new = !channels.contains_key(&channel);
        let of = channels.entry(channel.clone()).or_insert_with(|| Channel {
            name: name.cloned(),
            users: 0,
            listened: HashSet::new(),
            ready: Arc::default(),
            bell: Arc::default(),
            heard: VecDeque::new(),
        });
        of.users += 1;
        let (ready, bell) = (Arc::clone(&of.ready), Arc::clone(&of.bell));
        if is_new {
            tell(&orders, &Order::Listen(channel.clone()));
        }
        drop(channels);
        Subscription { shared: Arc::clone(&self.shared), orders, channel, ready, bell }
    }

    fn orders(&self) -> Vec<mpsc::UnboundedSender<Order>> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if orders.is_empty() || orders.iter().any(mpsc::UnboundedSender::is_closed) {
            // Also after the end of a runtime on which they ran.
            orders.clear();
            for channel in self.shared.channels().values_mut() {
                channel.listened.clear();
            }
            for at in 0..self.shared.nodes.all().len() {
                let (sender, receiver) = mpsc::unbounded_channel();
                tokio::spawn(hear(Arc::clone(&self.shared), at, receiver));
                orders.push(sender);
            }
        }
        orders.clone()
    }
}

impl Subscription {
    /// Waits until a majority of the servers sends what is told from now on, or `limit` is over.
    pub(crate) async fn ready(&self, limit: Duration) {
        let nodes = &self.shared.nodes;
        let mut over = nodes.clock().sleep_until(nodes.stamp().after(limit));
        loop {
            let mut ready = std::pin::pin!(self.ready.notified());
            ready.as_mut().enable();
            let listened = self.shared.channels().get(&self.channel).map(|of| of.listened.len());
            if listened.is_none_or(|listened| listened >= nodes.quorum()) {
                return;
            }
            tokio::select! {
                biased;
                () = ready => {}
                () = &mut over => return,
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut channels = self.shared.channels();
        if let Some(channel) = channels.get_mut(&self.channel) {
            channel.users -= 1;
        }
        // Who waits again soon finds it as it was.
        if channels.values().filter(|channel| channel.users == 0).count() <= MAX_IDLE {
            return;
        }
        channels.retain(|name, channel| {
            if channel.users == 0 {
                tell(&self.orders, &Order::Leave(name.clone()));
            }
            channel.users > 0
        });
    }
}

impl Shared {
    fn channels(&self) -> MutexGuard<'_, HashMap<String, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listened(&self, at: usize, channel: &str) {
        if let Some(channel) = self.channels().get_mut(channel) {
            channel.listened.insert(at);
            channel.ready.notify_waiters();
        }
    }

    fn deaf(&self, at: usize) {
        for channel in self.channels().values_mut() {
            channel.listened.remove(&at);
        }
    }

    /// Takes a message. Of a lock each one counts: who is woken asks, and believes nothing before. Of a
    /// session, whose entry is given up without a question, a majority has to say it.
    fn heard(&self, at: usize, channel: &str, message: String) {
        let mut channels = self.channels();
        let Some(of) = channels.get_mut(channel) else { return };
        if of.name.is_none() && !of.is_told(at, &message, self.nodes.quorum()) {
            return;
        }
        of.bell.notify_waiters();
        let name = of.name.clone();
        drop(channels);
        match (name, u128::from_str_radix(&message, 16)) {
            (Some(name), _) if message != "=" => self.attempts.wake_next(&name),
            (None, Ok(attempt)) => self.attempts.gone(AttemptId(attempt)),
            (None, Err(_)) => self.attempts.wake_all(),
            _ => {}
        }
    }
}

impl Channel {
    /// Notes that a server sent a message; whether that makes a majority.
    fn is_told(&mut self, at: usize, message: &str, quorum: usize) -> bool {
        let found = self.heard.iter().position(|(other, _)| other == message);
        let (message, mut by) = match found.and_then(|found| self.heard.remove(found)) {
            Some(heard) => heard,
            None => (message.to_owned(), HashSet::new()),
        };
        by.insert(at);
        if by.len() >= quorum {
            return true;
        }
        if self.heard.len() == MAX_HEARD {
            self.heard.pop_front();
        }
        self.heard.push_back((message, by));
        false
    }
}

/// Listens to one server for as long as somebody gives orders.
async fn hear(shared: Arc<Shared>, at: usize, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut pause = FIRST_PAUSE;
    let nodes = Arc::clone(&shared.nodes);
    loop {
        let Some(node) = nodes.all().get(at) else { return };
        let began = nodes.stamp();
        let connecting = in_time(&nodes, async {
            match node.place().client("changed").await {
                Ok(client) => client.get_async_pubsub().await,
                Err(failure) => Err(std::io::Error::other(failure).into()),
            }
        });
        if let Some(connection) = connecting.await {
            let (mut sink, mut stream) = connection.split();
            if serve(&shared, at, &mut sink, &mut stream, &mut orders).await.is_none() {
                return;
            }
            shared.deaf(at);
        }
        if nodes.is_past(began.after(LAST_PAUSE)) {
            // It stood for a while: one that is cut again and again is not asked without a pause.
            pause = FIRST_PAUSE;
        }
        let pausing = nodes.sleep(pause);
        tokio::pin!(pausing);
        loop {
            // What is listened to is asked for anew by the next connection.
            tokio::select! {
                () = &mut pausing => break,
                order = orders.recv() => if order.is_none() { return },
            }
        }
        pause = (2 * pause).min(LAST_PAUSE);
    }
}

/// Serves one connection until it ends, or says nothing for too long; `None` when nobody wants it any more.
async fn serve(
    shared: &Shared,
    at: usize,
    sink: &mut PubSubSink,
    stream: &mut PubSubStream,
    orders: &mut mpsc::UnboundedReceiver<Order>,
) -> Option<()> {
    let nodes = &shared.nodes;
    let wanted: Vec<String> = shared.channels().keys().cloned().collect();
    for channel in wanted {
        if in_time(nodes, sink.subscribe(&channel)).await.is_none() {
            return Some(());
        }
        shared.listened(at, &channel);
    }
    // What was told meanwhile was not heard.
    shared.attempts.wake_all();
    let mut asking = Box::pin(nodes.sleep(SILENCE));
    loop {
        tokio::select! {
            message = stream.next() => {
                let message = match message {
                    Some(message) => message,
                    None => return Some(()),
                };
                let payload = String::from_utf8_lossy(message.get_payload_bytes()).into_owned();
                shared.heard(at, message.get_channel_name(), payload);
            }
            order = orders.recv() => match order? {
                Order::Listen(channel) => {
                    if in_time(nodes, sink.subscribe(&channel)).await.is_none() {
                        return Some(());
                    }
                    shared.listened(at, &channel);
                }
                Order::Leave(channel) => {
                    // Somebody may want it again since.
                    let is_wanted = shared.channels().contains_key(&channel);
                    if !is_wanted && in_time(nodes, sink.unsubscribe(&channel)).await.is_none() {
                        return Some(());
                    }
                }
            },
            () = &mut asking => {
                // A connection that was cut on the way tells nothing, not even that.
                if in_time(nodes, sink.ping::<redis::Value>()).await.is_none() {
                    return Some(());
                }
                asking = Box::pin(nodes.sleep(SILENCE));
            }
        }
    }
}

/// What a server answers in time.
async fn in_time<T>(
    nodes: &Nodes,
    answer: impl Future<Output = redis::RedisResult<T>>,
) -> Option<T> {
    tokio::select! {
        biased;
        answer = answer => answer.ok(),
        () = nodes.sleep(ANSWER) => None,
    }
}

fn tell(orders: &[mpsc::UnboundedSender<Order>], order: &Order) {
    for sender in orders {
        // A task that ended with its runtime is replaced by the next who listens.
        let _ = sender.send(order.clone());
    }
}

/// How many channels are kept that nobody uses.
const MAX_IDLE: usize = 128;
/// How many messages of one channel wait for a majority.
const MAX_HEARD: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// After how long a connection is asked whether it still leads to its server.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a server may take to answer that.
const ANSWER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_entry_is_told_by_a_majority_whatever_was_told_before() {
        let mut channel = Channel {
            name: None,
            users: 1,
            listened: HashSet::new(),
            ready: Arc::default(),
            bell: Arc::default(),
            heard: VecDeque::new(),
        };
        let mut told = |at| channel.is_told(at, "a", 2);
        assert_eq!([told(0), told(0), told(1)], [false, false, true]);
        // It begins anew: what counted once does not count again.
        assert_eq!([told(2), told(0)], [false, true]);
        for other in 0..2 * MAX_HEARD {
            channel.is_told(0, &other.to_string(), 2);
        }
        assert!(channel.heard.len() <= MAX_HEARD);
    }
}
