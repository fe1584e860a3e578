//! A TCP proxy between a client and one server, which loses what a test wants lost.
//!
//! It knows bytes, not requests: what flows from the client is *requests*, what flows back is
//! *replies*. Data that is held is not lost; it flows on at [`Proxy::pass`], late, or goes at
//! [`Proxy::cut`]. So "the reply to the entering transaction is lost" is `hold_replies`, the
//! call, `wait_held(Replies)`, `cut`; "the entering transaction arrives after the clean-up" is
//! `hold_requests`, the call, `wait_held(Requests)`, the clean-up by another way, `release`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// A way through the proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the server to the client.
    Replies,
    /// From the client to the server.
    Requests,
}

/// A running proxy. Dropping it closes its port and its connections.
///
/// It runs on the Tokio runtime that started it: a test that blocks its executor starts it on
/// another one.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    control: Arc<Control>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback address and passes everything on to `upstream`
    /// (`host:port`), to which it connects once for each client connection.
    ///
    /// # Errors
    ///
    /// When no port can be opened. A server that does not answer is no error: its client sees a
    /// reset connection.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is left behind.
    pub async fn start(upstream: impl Into<String>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let control = Arc::new(Control::default());
        let accepting = tokio::spawn(accept(listener, upstream.into(), Arc::clone(&control)));
        Ok(Self { address, control, accepting })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many client connections are open.
    pub fn connections(&self) -> usize {
        self.control.counts.borrow().connections
    }

    /// Lets everything flow at once, what was held first, and accepts new connections.
    pub fn pass(&self) {
        self.set(|switches| {
            let Switches { cuts, releases, forgotten, .. } = *switches;
            *switches = Switches { cuts, releases, forgotten, ..Switches::default() };
        });
    }

    /// Lets what is in hand now flow, late, while what comes behind it is held: a request that
    /// arrives although its client has gone, and has said so.
    pub fn release(&self) {
        self.set(|switches| switches.releases += 1);
    }

    /// Holds what clients send from now on; connections stay open.
    pub fn hold_requests(&self) {
        self.set(|switches| switches.hold_requests = true);
    }

    /// Holds what the server sends from now on; connections stay open.
    pub fn hold_replies(&self) {
        self.set(|switches| switches.hold_replies = true);
    }

    /// Holds both directions, as a network does that drops every packet: connections stay open,
    /// new ones are accepted, and no byte flows.
    pub fn black_hole(&self) {
        self.set(|switches| {
            switches.hold_requests = true;
            switches.hold_replies = true;
        });
    }

    /// Holds for ever what comes by the connections that are open now, as a firewall does that lost its state;
    /// those that follow flow.
    pub fn forget(&self) {
        self.set(|switches| switches.forgotten += 1);
    }

    /// Delivers what comes this way `late` by that much: a slow network, or a slow server. What
    /// comes behind a piece under way waits for it, and is delayed from then.
    pub fn delay(&self, direction: Direction, late: Duration) {
        self.set(|switches| match direction {
            Direction::Replies => switches.late_replies = late,
            Direction::Requests => switches.late_requests = late,
        });
    }

    /// Resets new connections at once; those that are open flow on.
    pub fn refuse(&self) {
        self.set(|switches| switches.refuse = true);
    }

    /// Resets every open connection on both sides, with what is held in it. The switches stay as
    /// they are for the connections that follow.
    pub fn cut(&self) {
        self.set(|switches| switches.cuts += 1);
    }

    /// Waits until something that came this way is held.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only looks.
    pub async fn wait_held(&self, direction: Direction) {
        let mut counts = self.control.counts.subscribe();
        // The sender lives as long as `self`.
        counts.wait_for(|counts| counts.held(direction) > 0).await.ok();
    }

    fn set(&self, change: impl FnOnce(&mut Switches)) {
        self.control.switches.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its connections are children of the accepting task and end with it.
        self.accepting.abort();
    }
}

#[derive(Debug, Default)]
struct Control {
    switches: watch::Sender<Switches>,
    counts: watch::Sender<Counts>,
}

#[derive(Clone, Debug, Default)]
struct Switches {
    hold_requests: bool,
    hold_replies: bool,
    late_requests: Duration,
    late_replies: Duration,
    refuse: bool,
    /// Each increment resets the connections that are open then.
    cuts: u64,
    /// Each increment lets go of what is in hand then.
    releases: u64,
    /// Each increment holds what comes by the connections that are open then.
    forgotten: u64,
}

impl Switches {
    /// Whether they hold what comes by a connection that began when they were as `then`.
    fn hold(&self, direction: Direction, then: &Self) -> bool {
        let all = match direction {
            Direction::Replies => self.hold_replies,
            Direction::Requests => self.hold_requests,
        };
        all || self.forgotten > then.forgotten
    }

    fn late(&self, direction: Direction) -> Duration {
        match direction {
            Direction::Replies => self.late_replies,
            Direction::Requests => self.late_requests,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    held_requests: usize,
    held_replies: usize,
}

impl Counts {
    fn held(&self, direction: Direction) -> usize {
        match direction {
            Direction::Replies => self.held_replies,
            Direction::Requests => self.held_requests,
        }
    }
}

/// Counts something in `Counts` for as long as it lives, also when its task is cut.
struct Counted<'a> {
    control: &'a Control,
    field: fn(&mut Counts) -> &mut usize,
}

impl<'a> Counted<'a> {
    fn new(control: &'a Control, field: fn(&mut Counts) -> &mut usize) -> Self {
        control.counts.send_modify(|counts| *field(counts) += 1);
        Self { control, field }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.control.counts.send_modify(|counts| *(self.field)(counts) -= 1);
    }
}

async fn accept(listener: TcpListener, upstream: String, control: Arc<Control>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Forget those that ended.
            Some(_) = connections.join_next() => continue,
        };
        let Ok((client, _)) = accepted else { continue };
        let then = control.switches.borrow().clone();
        if then.refuse {
            reset(client);
            continue;
        }
        let (upstream, control) = (upstream.clone(), Arc::clone(&control));
        connections.spawn(async move { connect(client, &upstream, &control, &then).await });
    }
}

/// Serves one client connection, which began when the switches were as `then`.
async fn connect(mut client: TcpStream, upstream: &str, control: &Control, then: &Switches) {
    let _counted = Counted::new(control, |counts| &mut counts.connections);
    let mut switches = control.switches.subscribe();
    let cut = async { switches.wait_for(|switches| switches.cuts > then.cuts).await.is_ok() };
    tokio::pin!(cut);
    let server = tokio::select! {
        _ = &mut cut => return reset(client),
        server = TcpStream::connect(upstream) => server,
    };
    let Ok(mut server) = server else { return reset(client) };
    let whole = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        // One side's reset is the other's: an error in one direction ends both.
        let both = async {
            tokio::try_join!(
                pump(from_client, to_server, control, then, Direction::Requests),
                pump(from_server, to_client, control, then, Direction::Replies),
            )
        };
        tokio::select! {
            _ = &mut cut => false,
            ended = both => ended.is_ok(),
        }
    };
    if !whole {
        reset(client);
        reset(server);
    }
}

/// Moves one direction, a piece at a time; what is in hand is held.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    control: &Control,
    then: &Switches,
    direction: Direction,
) -> io::Result<()> {
    let mut switches = control.switches.subscribe();
    let mut piece = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut piece).await?;
        let (mut hand, mut ends) = (piece[..length].to_vec(), length == 0);
        let late = switches.borrow().late(direction);
        if !late.is_zero() {
            sleep(late).await;
        }
        let released = {
            let switches = switches.borrow();
            switches.hold(direction, then).then_some(switches.releases)
        };
        if let Some(released) = released {
            // A message may come in several pieces, one right behind the other.
            while !ends && let Ok(length) = timeout(GATHER, from.read(&mut piece)).await {
                let length = length?;
                ends = length == 0;
                hand.extend_from_slice(&piece[..length]);
            }
            let _held = Counted::new(
                control,
                match direction {
                    Direction::Replies => |counts| &mut counts.held_replies,
                    Direction::Requests => |counts| &mut counts.held_requests,
                },
            );
            // The sender outlives its connections.
            let flows = |switches: &Switches| {
                switches.releases > released || !switches.hold(direction, then)
            };
            switches.wait_for(flows).await.ok();
        }
        to.write_all(&hand).await?;
        if ends {
            return to.shutdown().await;
        }
    }
}

/// What comes so soon behind belongs to what is in hand.
const GATHER: Duration = Duration::from_millis(10);

/// Closes with RST in place of FIN.
fn reset(stream: TcpStream) {
    // Where it fails, the peer has gone already.
    stream.set_zero_linger().ok();
}
