//! How servers get their vote, and get it back: first seeding, wants, nonces, fences and keep-outs.
//!
//! Each request is a step of its own and may be as late as it likes; a client that stops waiting is one
//! that takes no further step. A grant is one step here: what a round under way does beside a
//! seeding is the other model's.

mod state;
mod steps;
mod tests;

use stateright::{Model, Property};

use state::{Phase, Seen, State};

const ONE_HOLDS: &str = "one holds";
const ORDERED: &str = "tokens are ordered";
const ONE_LIFE: &str = "servers are of one life";

/// What is checked: how many, how far, which faults.
#[derive(Clone, Debug)]
pub(crate) struct Seeding<const N: usize> {
    /// No server has a vote yet.
    is_new: bool,
    /// A client for each; it goes through the servers in this order.
    orders: Vec<[usize; N]>,
    wipes: u8,
    grants: u8,
    mutant: Option<Mutant>,
}

/// A mistake in the protocol, or in what it runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mutant {
    /// Whatever comes first to a server that lost its state names the want, also a late seed.
    NonceByAnyStep,
    /// A seed fits any want.
    NoNonce,
    /// A nonce names two wants: the read is carried out twice.
    ReadTwice,
    /// A first seeding goes on although a server has a vote already.
    BeginBesideVotes,
    /// A first seeding takes no notice of which life was proposed.
    AnyProposal,
    /// A first seeding of some servers while others say nothing.
    FirstOfSome,
    /// A server without the proposal of a life that was begun is taken for a new one.
    LostIsNew,
    /// The counters are read before the want is.
    FenceBeforeWant,
    /// The server keeps out for the longest time to live of before the want.
    LongestBeforeWant,
    /// A server is seeded before the time to live is over.
    EarlySeed,
    /// A seeder reads fewer than a majority.
    FewRead,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    Read {
        client: usize,
        server: usize,
    },
    ReadAgain {
        client: usize,
        server: usize,
    },
    /// The answers are enough, or all that come: no majority has a vote.
    First {
        client: usize,
    },
    Propose {
        client: usize,
    },
    Begin {
        client: usize,
    },
    /// A majority has a vote; this one has none.
    Reseed {
        client: usize,
        server: usize,
    },
    Fence {
        client: usize,
        server: usize,
    },
    Seed {
        client: usize,
    },
    /// A bit for each server.
    Grant {
        servers: u8,
        is_long: bool,
    },
    /// Released, or over by time.
    Over {
        hold: u8,
    },
    Wipe {
        server: usize,
    },
}

impl<const N: usize> Model for Seeding<N> {
    type State = State<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<State<N>> {
        vec![State::new(self.is_new)]
    }

    fn actions(&self, state: &State<N>, actions: &mut Vec<Action>) {
        for client in 0..self.orders.len() {
            match state.clients[client].phase {
                Phase::Reading => actions.push(Action::First { client }),
                Phase::Proposing(_) => actions.push(Action::Propose { client }),
                Phase::Beginning(_) => actions.push(Action::Begin { client }),
                Phase::Fencing(_) => actions.push(Action::Seed { client }),
                Phase::Over => {}
            }
            for server in 0..N {
                actions.push(Action::Read { client, server });
                actions.push(Action::ReadAgain { client, server });
                actions.push(Action::Reseed { client, server });
                actions.push(Action::Fence { client, server });
            }
        }
        let majorities = (1..1_u8 << N).filter(|s| s.count_ones() == state::majority::<N>());
        for servers in majorities {
            actions.push(Action::Grant { servers, is_long: false });
            actions.push(Action::Grant { servers, is_long: true });
        }
        actions.extend((0..state::HOLDS).map(|hold| Action::Over { hold }));
        actions.extend((0..N).map(|server| Action::Wipe { server }));
    }

    fn next_state(&self, last: &State<N>, action: Action) -> Option<State<N>> {
        let mut state = *last;
        let happens = match action {
            Action::Read { client, server } => self.read(&mut state, client, server),
            Action::ReadAgain { client, server } => self.read_again(&mut state, client, server),
            Action::First { client } => self.first(&mut state, client),
            Action::Propose { client } => self.propose(&mut state, client),
            Action::Begin { client } => self.begin(&mut state, client),
            Action::Reseed { client, server } => self.reseed(&mut state, client, server),
            Action::Fence { client, server } => self.fence(&mut state, client, server),
            Action::Seed { client } => self.seed(&mut state, client),
            Action::Grant { servers, is_long } => self.grant(&mut state, servers, is_long),
            Action::Over { hold } => state.over(hold),
            Action::Wipe { server } => self.wipe(&mut state, server),
        };
        happens.then(|| {
            state.tidy();
            state
        })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_HOLDS, |_, state: &State<N>| state.believed.count_ones() <= 1),
            Property::always(ORDERED, |_, state: &State<N>| !state.is_disordered),
            Property::always(ONE_LIFE, |_, state: &State<N>| state.has_one_life()),
            // What the bounds reach, lest all of the above hold of nothing.
            Property::sometimes("a lock is granted", |model: &Self, state: &State<N>| {
                state.granted == model.grants
            }),
            Property::sometimes("a wiped server votes again", |model: &Self, state: &State<N>| {
                let voter = |s: &state::Server| s.was_wiped && s.key.is_some();
                model.wipes == 0 || state.servers.iter().any(voter)
            }),
            Property::sometimes("two propose", |model: &Self, state: &State<N>| {
                let proposes = |c: &&state::Client<N>| matches!(c.phase, Phase::Proposing(_));
                !model.is_new || state.clients.iter().filter(proposes).count() == model.orders.len()
            }),
        ]
    }
}

impl<const N: usize> Seeding<N> {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// The servers that a client of a first seeding goes through, from the `at`th on.
    fn next_wanting(&self, state: &State<N>, client: usize, at: usize) -> Option<usize> {
        let seen = &state.clients[client].seen;
        (at..N).find(|at| matches!(seen[self.orders[client][*at]], Seen::Wants { .. }))
    }
}
