//! What each step does, if it can happen: true.

use crate::protocol::{Expiry, Mutant, Redlock, Unanswered};
use crate::state::{Broken, Node, Phase, ROUNDS, State};

impl<const N: usize> Redlock<N> {
    /// `take` of a round arrives at a node, in time or not.
    pub(crate) fn take(&self, state: &mut State<N>, round: u8, node: usize) -> bool {
        let r = usize::from(round);
        if state.rounds[r].phase == Phase::Idle {
            let before = |other: &u8| *other < round && self.same_attempt(*other, round);
            let mut earlier = (0..round).filter(before);
            if !earlier.all(|other| state.rounds[usize::from(other)].phase == Phase::Over)
                || self.has_left(state, round)
            {
                return false;
            }
        }
        if !self.set(state, round, node) {
            return false;
        }
        state.nodes[node].traces[r].count = state.nodes[node].stamp;
        if state.rounds[r].phase == Phase::Idle {
            // Requested at the last moment before its first effect: an earlier one asks for less.
            state.rounds[r].phase = Phase::Taking;
            state.rounds[r].above = if self.counts() { state.highest_granted() } else { 0 };
        }
        true
    }

    /// A copy of a take that was carried out arrives.
    pub(crate) fn take_again(
        &self,
        state: &mut State<N>,
        round: u8,
        node: usize,
        answered: bool,
    ) -> bool {
        let r = usize::from(round);
        let trace = state.nodes[node].traces[r];
        let phase = state.rounds[r].phase;
        let useless = phase > Phase::Confirming || (answered && phase != Phase::Taking);
        let copies: u32 = (0..ROUNDS).map(|r| state.nodes_where(|n| n.traces[r].copied)).sum();
        if copies == self.copies || trace.count == 0 || trace.copied || useless {
            return false;
        }
        let stood = state.nodes[node].key == Some(round);
        let done = self.set(state, round, node);
        let node = &mut state.nodes[node];
        node.traces[r].copied = true;
        if stood && self.timed() {
            // The value stands: its count is answered again, and the epoch of now.
            node.traces[r].fenced = false;
            return answered && trace.fenced;
        }
        if answered {
            node.traces[r].count = node.stamp;
        } else {
            node.traces[r].fenced = trace.fenced;
        }
        done
    }

    fn set(&self, state: &mut State<N>, round: u8, node: usize) -> bool {
        let node = &mut state.nodes[node];
        let floor = node.traces[usize::from(round)].floor && !self.is(Mutant::ValueReused);
        let trace = node.traces[usize::from(round)];
        if node.unseeded || floor || trace.barred {
            return false;
        }
        match node.key {
            Some(other) if self.timed() && self.same_value(other, round) => {
                // The same request again, as far as the node can tell.
                node.key = Some(round);
                node.stamp = node.stamp.max(1);
                return other != round;
            }
            // Where clocks are worth nothing, what stood may have expired just before.
            Some(_) if !self.timed() => {}
            Some(other) if !self.same_attempt(other, round) || other > round => return false,
            _ => {}
        }
        node.counter += u8::from(self.counts());
        (node.key, node.stamp) = (Some(round), node.counter.max(1));
        node.traces[usize::from(round)].fenced = false;
        for other in (0..).take(self.attempts.len()).filter(|r| self.same_attempt(*r, round)) {
            node.traces[usize::from(other)].floor = false;
        }
        true
    }

    /// The client has the answers of these nodes, and goes on with them.
    pub(crate) fn choose(&self, state: &mut State<N>, round: u8, nodes: u8) -> bool {
        let r = usize::from(round);
        let chosen = |node: usize| nodes >> node & 1 == 1;
        let counts = (0..N).filter(|node| chosen(*node)).map(|n| state.nodes[n].traces[r].count);
        let (low, high) = (counts.clone().min().unwrap_or(0), counts.max().unwrap_or(0));
        if low == 0 {
            return false;
        }
        state.rounds[r].phase = Phase::Confirming;
        state.rounds[r].token = if self.is(Mutant::AnyCount) { low } else { high };
        for (at, node) in state.nodes.iter_mut().enumerate() {
            node.traces[r].chosen = chosen(at);
        }
        if self.is(Mutant::NoWriteBack) {
            self.grant(state, r);
        }
        true
    }

    /// The token is written back on one node of the majority.
    pub(crate) fn confirm(&self, state: &mut State<N>, round: u8, node: usize) -> bool {
        let r = usize::from(round);
        let token = state.rounds[r].token;
        let node = &mut state.nodes[node];
        let trace = node.traces[r];
        let stands = node.key.is_some_and(|key| self.same_value(key, round))
            && (self.is(Mutant::CountNotCompared) || node.stamp == trace.count);
        let taken = self.is(Mutant::BlindWriteBack) || (stands && !trace.fenced);
        if !trace.chosen || trace.confirmed || node.unseeded || !taken {
            return false;
        }
        if self.counts() {
            node.counter = node.counter.max(token);
        }
        node.traces[r].confirmed = true;
        let ok = state.nodes_where(|node| node.traces[r].confirmed) >= self.quorum()
            && state.rounds[r].phase == Phase::Confirming;
        if ok && (!state.rounds[r].late || self.is(Mutant::LateGrant)) {
            // Granted at the first moment: later asks for less of who comes after.
            self.grant(state, r);
        }
        true
    }

    fn grant(&self, state: &mut State<N>, r: usize) {
        let round = &mut state.rounds[r];
        round.phase = if self.timed() { Phase::Held } else { Phase::Over };
        if !self.counts() {
            state.granted |= 1 << r;
            return;
        }
        state.broken.unique |= state.granted >> round.token & 1 == 1;
        state.broken.ordered |= state.granted != 0 && round.token <= round.above;
        state.granted |= 1 << round.token;
    }

    /// The client gives a round up, or lets go.
    pub(crate) fn end(&self, state: &mut State<N>, round: u8) -> bool {
        let r = usize::from(round);
        state.rounds[r].phase = Phase::Over;
        if self.is(Mutant::UndoAnsweredOnly) {
            for node in &mut state.nodes {
                node.traces[r].undone = node.traces[r].count == 0;
            }
        }
        true
    }

    pub(crate) fn validity_ends(&self, state: &mut State<N>, round: u8) -> bool {
        let held = &mut state.rounds[usize::from(round)];
        let ends = self.expiry == Expiry::AfterValidity && held.phase != Phase::Idle && !held.late;
        held.late |= ends;
        if ends && held.phase == Phase::Held && !self.is(Mutant::LateGrant) {
            self.end(state, round);
        }
        ends
    }

    /// The undo of a round, or the release, arrives: for this round and those before it.
    pub(crate) fn undo(&self, state: &mut State<N>, round: u8, node: usize) -> bool {
        let node = &mut state.nodes[node];
        let (r, before) = (usize::from(round), *node);
        if !self.timed() || (before.traces[r].undone && !self.repeats) || node.unseeded {
            return false;
        }
        self.free(node, round, &mut state.broken);
        node.traces[r].undone = true;
        for other in (0..=round).filter(|other| self.same_attempt(*other, round)) {
            node.traces[usize::from(other)].floor = !self.is(Mutant::NoFloor);
        }
        *node != before
    }

    /// An attempt leaves: a trace bars what of it may still come, for good.
    pub(crate) fn leave(
        &self,
        state: &mut State<N>,
        round: u8,
        node: usize,
        unanswered: Unanswered,
    ) -> bool {
        let is_last = self.is_last(state, round);
        let node = &mut state.nodes[node];
        if !self.leaves || !is_last || node.unseeded || node.traces[usize::from(round)].left {
            return false;
        }
        self.free(node, round, &mut state.broken);
        let own = (0..=round).filter(|other| self.same_attempt(*other, round)).map(usize::from);
        let may_come = own.clone().any(|other| node.traces[other].count == 0);
        let traces = unanswered == Unanswered::ByNewest;
        if traces && !may_come {
            return false;
        }
        let bars = match unanswered {
            Unanswered::Nothing => true,
            Unanswered::ByOlder => !self.is(Mutant::ForgottenLink),
            Unanswered::ByNewest => false,
        };
        for other in own {
            let trace = &mut node.traces[other];
            (trace.undone, trace.left) = (true, true);
            trace.floor = traces && !self.is(Mutant::TracelessLeave);
            trace.barred |= bars && trace.count == 0;
        }
        true
    }

    /// The key goes, if it is this round's, or one's before it.
    fn free(&self, node: &mut Node, round: u8, broken: &mut Broken) {
        let own = |key| self.same_value(key, round) || self.same_attempt(key, round) && key < round;
        if let Some(key) = node.key
            && (own(key) || self.is(Mutant::BlindUndo))
        {
            broken.exact |= !self.same_attempt(key, round) || key > round;
            (node.key, node.stamp) = (None, 0);
        }
    }

    /// Its attempt has begun no later round.
    fn is_last(&self, state: &State<N>, round: u8) -> bool {
        let later = (round + 1..).take(self.attempts.len() - usize::from(round) - 1);
        later
            .filter(|other| self.same_attempt(*other, round))
            .all(|other| state.rounds[usize::from(other)].phase == Phase::Idle)
    }

    /// Its attempt has left a node: it begins no round any more.
    fn has_left(&self, state: &State<N>, round: u8) -> bool {
        let before = (0..round).rfind(|other| self.same_attempt(*other, round));
        before.is_some_and(|last| {
            self.leaves && state.nodes.iter().any(|node| node.traces[usize::from(last)].left)
        })
    }

    pub(crate) fn expire(&self, state: &mut State<N>, node: usize) -> bool {
        let node = &mut state.nodes[node];
        let may = |holder: u8| match self.expiry {
            Expiry::AfterValidity => state.rounds[usize::from(holder)].late,
            Expiry::Never | Expiry::Anytime => false,
        };
        let expires = node.key.is_some_and(may);
        if expires {
            (node.key, node.stamp) = (None, 0);
        }
        expires
    }

    pub(crate) fn wipe(&self, state: &mut State<N>, node: usize) -> bool {
        let wiped: u8 = state.nodes.iter().map(|node| node.wipes).sum();
        let node = &mut state.nodes[node];
        if node.unseeded || wiped == self.wipes {
            return false;
        }
        (node.key, node.stamp, node.counter) = (None, 0, 0);
        node.unseeded = !self.is(Mutant::UnseededCounts);
        node.wipes += 1;
        for trace in &mut node.traces {
            trace.floor = false;
        }
        true
    }

    pub(crate) fn meet(&self, state: &mut State<N>, seeder: usize, node: usize) -> bool {
        let met = state.nodes[node].unseeded && !state.seeders[seeder].started;
        if met {
            state.seeders[seeder].started = true;
            state.seeders[seeder].nonce = state.nodes[node].wipes;
            state.nodes[node].seeds[seeder].target = true;
        }
        met
    }

    /// A seeder reads a node's counter, and ends what the rounds have under way there.
    pub(crate) fn fence(&self, state: &mut State<N>, seeder: usize, node: usize) -> bool {
        let enough = self.fenced(state, seeder) == self.reads();
        let node = &mut state.nodes[node];
        let seed = &mut node.seeds[seeder];
        let seeder = &mut state.seeders[seeder];
        let again = seed.fenced && self.repeats;
        if !seeder.started || (enough && !again) || seed.target || node.unseeded {
            return false;
        }
        if seed.fenced && !again {
            return false;
        }
        seed.fenced = true;
        let before = node.traces;
        if !again {
            seeder.best = seeder.best.max(node.counter);
        }
        for trace in &mut node.traces {
            trace.fenced = trace.count != 0 && !self.is(Mutant::Unfenced);
        }
        !again || node.traces != before
    }

    /// The seed arrives, for the first time or again.
    pub(crate) fn seed(&self, state: &mut State<N>, seeder: usize, node: usize) -> bool {
        let enough = self.fenced(state, seeder) == self.reads();
        let rounds = state.rounds;
        let node = &mut state.nodes[node];
        let fits = state.seeders[seeder].nonce == node.wipes || self.is(Mutant::NoNonce);
        if !node.seeds[seeder].target || !node.unseeded || !enough || !fits {
            return false;
        }
        let mut took = rounds.iter().zip(&node.traces).filter(|(_, trace)| trace.count != 0);
        let waited = took.all(|(round, _)| round.late || round.phase == Phase::Over);
        if self.timed() && !waited && !self.is(Mutant::EarlySeed) {
            return false;
        }
        node.unseeded = false;
        node.counter = state.seeders[seeder].best;
        true
    }

    /// A key of a round that is over stands where no undo will come.
    pub(crate) fn forgotten(&self, state: &State<N>) -> bool {
        state.nodes.iter().any(|node| {
            node.key.is_some_and(|key| {
                let mut undoing =
                    (key..).take(self.attempts.len() - usize::from(key)).filter(|r| {
                        let started = state.rounds[usize::from(*r)].phase != Phase::Idle;
                        self.same_attempt(*r, key) && started
                    });
                undoing.all(|r| node.traces[usize::from(r)].undone)
            })
        })
    }

    /// Who believes is looked at.
    pub(crate) fn timed(&self) -> bool {
        self.expiry != Expiry::Anytime
    }

    /// Tokens are looked at.
    fn counts(&self) -> bool {
        self.is_whole || !self.timed()
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(crate) fn quorum(&self) -> u32 {
        majority::<N>() - u32::from(self.is(Mutant::Minority))
    }

    fn reads(&self) -> u32 {
        majority::<N>() - u32::from(self.is(Mutant::FewRead))
    }

    fn fenced(&self, state: &State<N>, seeder: usize) -> u32 {
        state.nodes_where(|node| node.seeds[seeder].fenced)
    }

    fn same_attempt(&self, a: u8, b: u8) -> bool {
        self.attempts[usize::from(a)] == self.attempts[usize::from(b)]
    }

    fn same_value(&self, a: u8, b: u8) -> bool {
        a == b || self.is(Mutant::ValueReused) && self.same_attempt(a, b)
    }
}

fn majority<const N: usize>() -> u32 {
    u32::try_from(N / 2 + 1).unwrap()
}
