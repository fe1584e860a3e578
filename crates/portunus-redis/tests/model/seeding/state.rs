//! What servers and clients know.

/// Two believe at most: then one is too many.
pub(crate) const HOLDS: u8 = 2;
/// Clients at most.
pub(super) const CLIENTS: usize = 3;
/// The life of a store that is not new.
pub(super) const OLD: u8 = 9;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State<const N: usize> {
    pub(super) servers: [Server; N],
    pub(super) clients: [Client<N>; CLIENTS],
    /// Bit `h` is set: hold `h` is believed.
    pub(super) believed: u8,
    /// Bit `h` is set: it is of a long time to live.
    pub(super) long: u8,
    pub(super) granted: u8,
    /// The highest token that was granted.
    pub(super) highest: u8,
    pub(super) wiped: u8,
    /// A token was not above those before it.
    pub(super) is_disordered: bool,
}

/// One independent master.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Server {
    /// 0: it has no state, hence no vote.
    pub(super) life: u8,
    pub(super) counter: u8,
    /// A session of the long time to live was opened.
    pub(super) is_long: bool,
    /// The hold whose value stands in the lock's key.
    pub(super) key: Option<u8>,
    /// The nonce of its want of a state; 0: nobody has noticed yet.
    pub(super) want: u8,
    /// The life proposed to it; 0: none.
    pub(super) proposal: u8,
    /// It lost a vote.
    pub(super) was_wiped: bool,
    /// Bit `h` is set: the key of hold `h` was lost in a wipe, and may stand on others.
    pub(super) lost: u8,
}

/// A client that opens a session, and seeds what it finds without a vote.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Client<const N: usize> {
    pub(super) phase: Phase,
    pub(super) seen: [Seen; N],
    /// The life that it goes for.
    pub(super) life: u8,
    /// Bit `s` is set: server `s` began another epoch for it.
    pub(super) fenced: u8,
    /// The highest count among those.
    pub(super) best: u8,
    /// The longest time to live among those is the long one.
    pub(super) is_long: bool,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Phase {
    Reading,
    /// At this place in its order.
    Proposing(usize),
    Beginning(usize),
    /// Seeds this server.
    Fencing(usize),
    Over,
}

/// What a server answered to a client's read.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Seen {
    Nothing,
    Life(u8),
    Wants { nonce: u8, proposal: u8 },
}

impl<const N: usize> State<N> {
    pub(super) fn new(is_new: bool) -> Self {
        let life = if is_new { 0 } else { OLD };
        Self {
            servers: [Server { life, ..Server::default() }; N],
            clients: [Client::default(); CLIENTS],
            believed: 0,
            long: 0,
            granted: 0,
            highest: 0,
            wiped: 0,
            is_disordered: false,
        }
    }

    pub(super) fn has_one_life(&self) -> bool {
        let mut lives = self.servers.iter().map(|server| server.life).filter(|life| *life != 0);
        lives.next().is_none_or(|one| lives.all(|life| life == one))
    }

    /// A hold is believed no more, and its keys are gone.
    pub(super) fn over(&mut self, hold: u8) -> bool {
        let is_believed = self.believed >> hold & 1 == 1;
        self.believed &= !(1 << hold);
        for server in &mut self.servers {
            server.key = server.key.filter(|key| *key != hold);
        }
        is_believed
    }

    /// Forgets what no later step asks for, so that states that cannot be told apart are one.
    pub(super) fn tidy(&mut self) {
        self.long &= self.believed;
        for server in &mut self.servers {
            server.lost &= self.believed;
        }
        for client in &mut self.clients {
            if client.phase == Phase::Over {
                *client = Client { phase: Phase::Over, ..Client::default() };
            }
        }
    }
}

impl<const N: usize> Default for Client<N> {
    fn default() -> Self {
        let (phase, seen) = (Phase::Reading, [Seen::Nothing; N]);
        Self { phase, seen, life: 0, fenced: 0, best: 0, is_long: false }
    }
}

pub(super) fn majority<const N: usize>() -> u32 {
    u32::try_from(N / 2 + 1).unwrap()
}
