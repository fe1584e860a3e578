//! What the nodes and the clients of the model know, small enough to keep millions of it.

use std::hash::{Hash, Hasher};

/// Rounds at most, of all attempts together.
pub(crate) const ROUNDS: usize = 3;
/// Two clients at most seed at the same time.
pub(crate) const SEEDERS: usize = 2;

/// `N` nodes, the clients' rounds, and what went wrong so far.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State<const N: usize> {
    pub(crate) nodes: [Node; N],
    pub(crate) rounds: [Round; ROUNDS],
    pub(crate) seeders: [Seeder; SEEDERS],
    /// Bit τ is set: a grant carried token τ.
    pub(crate) granted: u32,
    pub(crate) broken: Broken,
}

/// Violations that a state does not show once the step is done.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Broken {
    /// Two grants carried the same token.
    pub(crate) unique: bool,
    /// A grant's token was not above one that was granted before it was requested.
    pub(crate) ordered: bool,
    /// An undo removed the value of another attempt, or of a later round.
    pub(crate) exact: bool,
}

/// One independent master.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Node {
    /// The round whose value stands in the lock's key.
    pub(crate) key: Option<u8>,
    /// The count that the key's value was set with.
    pub(crate) stamp: u8,
    pub(crate) counter: u8,
    /// The counter is not there: the node takes no part.
    pub(crate) unseeded: bool,
    /// How often it lost everything; its nonce.
    pub(crate) wipes: u8,
    pub(crate) traces: [Trace; ROUNDS],
    pub(crate) seeds: [SeedTrace; SEEDERS],
}

/// What one round's requests did at one node, and what its client knows of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Trace {
    /// The count that `take` answered; 0: not carried out yet.
    pub(crate) count: u8,
    /// A second copy of the take was carried out, too.
    pub(crate) copied: bool,
    /// One of the majority that the token was taken from.
    pub(crate) chosen: bool,
    /// The write-back was confirmed.
    pub(crate) confirmed: bool,
    /// A seeder raised the node's epoch since the take.
    pub(crate) fenced: bool,
    /// The undo was carried out.
    pub(crate) undone: bool,
    /// The undo's floor stands: a late take is refused.
    pub(crate) floor: bool,
    /// The attempt has left here.
    pub(crate) left: bool,
    /// The take does not come, or is barred for the connection that it comes by.
    pub(crate) barred: bool,
}

/// What one seeder's requests did at one node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct SeedTrace {
    pub(crate) target: bool,
    pub(crate) fenced: bool,
}

/// A client that re-seeds a wiped node.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Seeder {
    pub(crate) started: bool,
    /// The wipe that it answers to.
    pub(crate) nonce: u8,
    /// The highest count that it read.
    pub(crate) best: u8,
}

/// One contention of one client, under a value of its own.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Round {
    pub(crate) phase: Phase,
    /// From the second phase on.
    pub(crate) token: u8,
    /// The highest token granted before the round was requested.
    pub(crate) above: u8,
    /// Its validity is over, by its own clock.
    pub(crate) late: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Phase {
    #[default]
    Idle,
    Taking,
    Confirming,
    /// Believed.
    Held,
    /// Failed, released, lost: its requests may still be under way.
    Over,
}

impl<const N: usize> State<N> {
    pub(crate) fn highest_granted(&self) -> u8 {
        u8::try_from(self.granted.checked_ilog2().unwrap_or(0)).unwrap()
    }

    pub(crate) fn nodes_where(&self, fits: impl Fn(&Node) -> bool) -> u32 {
        self.nodes.iter().map(|node| u32::from(fits(node))).sum()
    }

    /// Forgets what no later step asks for, so that states that cannot be told apart are one.
    pub(crate) fn tidy(&mut self, late_confirms: bool) {
        for (round, at) in self.rounds.iter_mut().zip(0_u8..) {
            let (mut confirming, mut over) =
                (round.phase == Phase::Confirming, round.phase >= Phase::Held);
            if over {
                round.above = 0;
                let confirms = |node: &Node| {
                    let trace = node.traces[usize::from(at)];
                    trace.chosen && !trace.confirmed && node.key == Some(at)
                };
                confirming = late_confirms && self.nodes.iter().any(confirms);
                over = !confirming;
            }
            if over {
                round.token = 0;
            }
            for node in &mut self.nodes {
                let trace = &mut node.traces[usize::from(at)];
                if over {
                    (trace.chosen, trace.confirmed) = (false, false);
                }
                let spent = over || (confirming && !trace.chosen) || trace.confirmed;
                if spent {
                    trace.count = trace.count.min(1);
                    trace.fenced = false;
                }
                if spent && node.key == Some(at) {
                    node.stamp = 0;
                }
            }
        }
    }

    /// The one state that stands for all that differ in the names of nodes, seeders and attempts.
    pub(crate) fn canonical(&self, renamings: &[[u8; ROUNDS]]) -> Self {
        let swaps: &[_] = if self.seeders[0].started { &[[0, 1], [1, 0]] } else { &[[0, 1]] };
        let mut least: Option<(Self, [u128; N])> = None;
        for (order, swap) in
            renamings.iter().flat_map(|order| swaps.iter().map(move |s| (order, s)))
        {
            let (rounds, seeders) = self.renamed_clients(order, swap);
            let best = least.as_ref().map(|(best, _)| (best.rounds, best.seeders));
            if best.is_some_and(|best| best < (rounds, seeders)) {
                continue;
            }
            let mut nodes = self.nodes.map(|node| {
                let node = node.renamed(order, swap);
                (node.packed(), node)
            });
            nodes.sort_unstable_by_key(|(packed, _)| *packed);
            let packed = nodes.map(|(packed, _)| packed);
            let found = (rounds, seeders, packed);
            if least.as_ref().is_none_or(|(s, p)| found < (s.rounds, s.seeders, *p)) {
                let nodes = nodes.map(|(_, node)| node);
                least = Some((Self { nodes, rounds, seeders, ..*self }, packed));
            }
        }
        least.map_or(*self, |(state, _)| state)
    }

    /// Round `r` becomes round `order[r]`, seeder `s` seeder `swap[s]`.
    fn renamed_clients(
        &self,
        order: &[u8; ROUNDS],
        swap: &[usize; SEEDERS],
    ) -> ([Round; ROUNDS], [Seeder; SEEDERS]) {
        let (mut rounds, mut seeders) = (self.rounds, self.seeders);
        for (from, to) in order.iter().enumerate() {
            rounds[usize::from(*to)] = self.rounds[from];
        }
        for (from, to) in swap.iter().enumerate() {
            seeders[*to] = self.seeders[from];
        }
        (rounds, seeders)
    }
}

impl Node {
    fn renamed(&self, order: &[u8; ROUNDS], swap: &[usize; SEEDERS]) -> Self {
        let mut node = *self;
        node.key = self.key.map(|holder| order[usize::from(holder)]);
        for (from, to) in order.iter().enumerate() {
            node.traces[usize::from(*to)] = self.traces[from];
        }
        for (from, to) in swap.iter().enumerate() {
            node.seeds[*to] = self.seeds[from];
        }
        node
    }

    /// All of it in one number.
    fn packed(&self) -> u128 {
        let mut all = u128::from(self.key.map_or(0, |holder| holder + 1));
        for small in [self.stamp, self.counter, self.wipes, u8::from(self.unseeded)] {
            all = all << 4 | u128::from(small);
        }
        for t in &self.traces {
            let flags = [t.copied, t.chosen, t.confirmed, t.fenced, t.undone, t.floor];
            let late = [t.left, t.barred];
            all = all << 4 | u128::from(t.count);
            for flag in flags.into_iter().chain(late) {
                all = all << 1 | u128::from(flag);
            }
        }
        for seed in &self.seeds {
            all = all << 2 | u128::from(seed.target) << 1 | u128::from(seed.fenced);
        }
        all
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.packed());
    }
}
