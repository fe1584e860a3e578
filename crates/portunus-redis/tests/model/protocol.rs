//! The steps of the protocol, of time and of the faults, as a model for the checker.

use stateright::{Model, Property};

use crate::state::{Node, Phase, ROUNDS, Round, State};

/// What is checked: how many, how far, which faults.
#[derive(Clone, Debug)]
pub(crate) struct Redlock<const N: usize> {
    /// The attempt that each round belongs to.
    pub(crate) attempts: &'static [u8],
    /// Nodes start with any counts from 0 to this.
    pub(crate) skew: u8,
    pub(crate) expiry: Expiry,
    /// Tokens are counted also where belief is looked at.
    pub(crate) is_whole: bool,
    /// Undos and fences arrive again and again, confirms after their client gave up.
    pub(crate) repeats: bool,
    /// Who has let go, or given up, leaves: without a trace where nothing of its attempt may come.
    pub(crate) leaves: bool,
    /// So many copies of takes arrive, too.
    pub(crate) copies: u32,
    pub(crate) wipes: u8,
    pub(crate) seeders: usize,
    pub(crate) mutant: Option<Mutant>,
    /// The renamings of rounds that change nothing; empty: every state for itself.
    pub(crate) renamings: Vec<[u8; ROUNDS]>,
}

/// When a key may go by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Expiry {
    /// Requests are never later than the time to live.
    Never,
    /// Clocks run at the same rate: not while its client may believe.
    AfterValidity,
    /// Clocks are worth nothing. Belief is not looked at, and an undo is an expiry.
    Anytime,
}

/// A mistake in the protocol, or in what it runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mutant {
    /// The highest count is not written back.
    NoWriteBack,
    /// The token is the count of any node of the majority.
    AnyCount,
    /// The write-back compares nothing.
    BlindWriteBack,
    /// The write-back compares the value, not the count it was set with.
    CountNotCompared,
    /// A grant by fewer than a majority.
    Minority,
    /// A grant although its validity is over.
    LateGrant,
    /// The next round takes the value of the last.
    ValueReused,
    /// An undo deletes what it finds.
    BlindUndo,
    /// An undo leaves nothing that a late take meets.
    NoFloor,
    /// Only nodes that answered are undone.
    UndoAnsweredOnly,
    /// Who leaves leaves no trace, whatever is unanswered.
    TracelessLeave,
    /// A node does not keep by which connection it was asked last.
    ForgottenLink,
    /// A wiped node, or one that forgot its last writes, takes part at once.
    UnseededCounts,
    /// A seeder reads fewer than a majority.
    FewRead,
    /// A seeder reads and does not raise the epoch.
    Unfenced,
    /// A seed fits any wipe.
    NoNonce,
    /// A wiped node is seeded before the time to live is over.
    EarlySeed,
}

/// What a client has no answer to when it leaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unanswered {
    /// What was not carried out was refused, or never sent.
    Nothing,
    /// It went by a connection that broke, and the leave goes by a newer one.
    ByOlder,
    ByNewest,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    Take {
        round: u8,
        node: usize,
    },
    /// The client knows of the copy's answer, or of the first one.
    TakeAgain {
        round: u8,
        node: usize,
        answered: bool,
    },
    /// A bit for each node of the majority.
    Choose {
        round: u8,
        nodes: u8,
    },
    Confirm {
        round: u8,
        node: usize,
    },
    Fail {
        round: u8,
    },
    Release {
        round: u8,
    },
    ValidityEnds {
        round: u8,
    },
    Undo {
        round: u8,
        node: usize,
    },
    /// The last that is sent for an attempt. Takes of it may be unanswered.
    Leave {
        round: u8,
        node: usize,
        unanswered: Unanswered,
    },
    Expire {
        node: usize,
    },
    Wipe {
        node: usize,
    },
    /// A client meets an unseeded node, and its nonce.
    Meet {
        seeder: usize,
        node: usize,
    },
    Fence {
        seeder: usize,
        node: usize,
    },
    Seed {
        seeder: usize,
        node: usize,
    },
}

impl<const N: usize> Model for Redlock<N> {
    type State = State<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<State<N>> {
        // Only differences count: the lowest is 0, and nodes have no order.
        let mut counters = vec![[0; N]];
        for node in 1..N {
            let grown = counters.iter().flat_map(|last| {
                (last[node - 1]..=self.skew).map(move |count| {
                    let mut counters = *last;
                    counters[node] = count;
                    counters
                })
            });
            counters = grown.collect();
        }
        let start = |counters: [u8; N]| State {
            nodes: counters.map(|counter| Node { counter, ..Node::default() }),
            rounds: [Round::default(); ROUNDS],
            seeders: Default::default(),
            granted: 0,
            broken: Default::default(),
        };
        counters.into_iter().map(start).collect()
    }

    fn actions(&self, state: &State<N>, actions: &mut Vec<Action>) {
        for round in (0..).take(self.attempts.len()) {
            self.actions_of_round(state, round, actions);
        }
        for node in 0..N {
            if self.expiry == Expiry::AfterValidity {
                actions.push(Action::Expire { node });
            }
            if self.wipes > 0 {
                actions.push(Action::Wipe { node });
            }
            for seeder in 0..self.seeders {
                actions.push(Action::Meet { seeder, node });
                actions.push(Action::Fence { seeder, node });
                actions.push(Action::Seed { seeder, node });
            }
        }
    }

    fn next_state(&self, last: &State<N>, action: Action) -> Option<State<N>> {
        let mut state = *last;
        let happens = match action {
            Action::Take { round, node } => self.take(&mut state, round, node),
            Action::TakeAgain { round, node, answered } => {
                self.take_again(&mut state, round, node, answered)
            }
            Action::Choose { round, nodes } => self.choose(&mut state, round, nodes),
            Action::Confirm { round, node } => self.confirm(&mut state, round, node),
            Action::Fail { round } => {
                // It matters to who undoes, and to who goes on to a next round.
                self.timed() && self.end(&mut state, round)
            }
            Action::Release { round } => self.end(&mut state, round),
            Action::ValidityEnds { round } => self.validity_ends(&mut state, round),
            Action::Undo { round, node } => self.undo(&mut state, round, node),
            Action::Leave { round, node, unanswered } => {
                self.leave(&mut state, round, node, unanswered)
            }
            Action::Expire { node } => self.expire(&mut state, node),
            Action::Wipe { node } => self.wipe(&mut state, node),
            Action::Meet { seeder, node } => self.meet(&mut state, seeder, node),
            Action::Fence { seeder, node } => self.fence(&mut state, seeder, node),
            Action::Seed { seeder, node } => self.seed(&mut state, seeder, node),
        };
        happens.then(|| {
            state.tidy(self.repeats);
            if self.renamings.is_empty() { state } else { state.canonical(&self.renamings) }
        })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("tokens are unique", |_, state: &State<N>| !state.broken.unique),
            Property::always("tokens are ordered", |_, state: &State<N>| !state.broken.ordered),
            Property::always("an undo is exact", |_, state: &State<N>| !state.broken.exact),
            Property::always("one holds", |_, state: &State<N>| {
                state.rounds.iter().filter(|round| round.phase == Phase::Held).count() <= 1
            }),
            Property::always("nothing is forgotten", |model: &Self, state: &State<N>| {
                model.expiry != Expiry::Never || model.wipes > 0 || !model.forgotten(state)
            }),
            // What the bounds reach, lest all of the above hold of nothing.
            Property::sometimes("all attempts are granted", |model: &Self, state: &State<N>| {
                let attempts = model.attempts.last().map_or(0, |last| u32::from(*last) + 1);
                state.granted.count_ones() == attempts
            }),
            Property::sometimes(
                "a seeded node is taken again",
                |model: &Self, state: &State<N>| {
                    let again = |n: &Node| n.wipes > 0 && !n.unseeded && n.key.is_some();
                    model.wipes == 0 || state.nodes.iter().any(again)
                },
            ),
        ]
    }
}

impl<const N: usize> Redlock<N> {
    fn actions_of_round(&self, state: &State<N>, round: u8, actions: &mut Vec<Action>) {
        let phase = state.rounds[usize::from(round)].phase;
        match phase {
            Phase::Taking => {
                let nodes = (1..1 << N).filter(|nodes: &u8| nodes.count_ones() >= self.quorum());
                actions.extend(nodes.map(|nodes| Action::Choose { round, nodes }));
                actions.push(Action::Fail { round });
            }
            Phase::Confirming => actions.push(Action::Fail { round }),
            Phase::Held => actions.push(Action::Release { round }),
            Phase::Idle | Phase::Over => {}
        }
        if self.expiry == Expiry::AfterValidity {
            actions.push(Action::ValidityEnds { round });
        }
        for (node, at) in state.nodes.iter().enumerate() {
            if at.traces[usize::from(round)].count == 0 {
                actions.push(Action::Take { round, node });
            } else if self.copies > 0 {
                actions.push(Action::TakeAgain { round, node, answered: false });
                actions.push(Action::TakeAgain { round, node, answered: true });
            }
            match phase {
                Phase::Confirming => actions.push(Action::Confirm { round, node }),
                Phase::Held if self.repeats => actions.push(Action::Confirm { round, node }),
                Phase::Over if self.timed() => {
                    actions.push(Action::Undo { round, node });
                    if self.repeats {
                        actions.push(Action::Confirm { round, node });
                    }
                    let all = [Unanswered::Nothing, Unanswered::ByOlder, Unanswered::ByNewest];
                    let leave = |unanswered| Action::Leave { round, node, unanswered };
                    actions.extend(all.into_iter().filter(|_| self.leaves).map(leave));
                }
                _ => {}
            }
        }
    }
}
