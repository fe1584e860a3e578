//! What each step does, if it can happen: true.

use super::state::{HOLDS, Phase, Seen, Server, State, majority};
use super::{Mutant, Seeding};

impl<const N: usize> Seeding<N> {
    /// Whoever reads a server without a state names its want, if nobody did.
    pub(super) fn read(&self, state: &mut State<N>, client: usize, server: usize) -> bool {
        let at = &mut state.servers[server];
        let reader = &mut state.clients[client];
        if reader.phase != Phase::Reading || reader.seen[server] != Seen::Nothing {
            return false;
        }
        reader.seen[server] = match at.life {
            0 => {
                at.named(nonce(client));
                Seen::Wants { nonce: at.want, proposal: at.proposal }
            }
            life => Seen::Life(life),
        };
        if self.is(Mutant::LongestBeforeWant) {
            reader.is_long |= at.is_long;
        }
        true
    }

    pub(super) fn read_again(&self, state: &mut State<N>, client: usize, server: usize) -> bool {
        let at = &mut state.servers[server];
        let happens = self.is(Mutant::ReadTwice)
            && state.clients[client].seen[server] != Seen::Nothing
            && (at.life, at.want) == (0, 0);
        if happens {
            at.named(nonce(client));
        }
        happens
    }

    /// No majority has a vote, and all answered: the store is new, or its first seeding was broken off.
    pub(super) fn first(&self, state: &mut State<N>, client: usize) -> bool {
        let seen = state.clients[client].seen;
        let mut life = 0;
        for answer in seen {
            match answer {
                Seen::Life(begun) if life == 0 || life == begun => life = begun,
                Seen::Life(_) => return false,
                Seen::Nothing if !self.is(Mutant::FirstOfSome) => return false,
                _ => {}
            }
        }
        let lost = |answer: &Seen| matches!(answer, Seen::Wants { proposal, .. } if life != 0 && *proposal != life);
        let is_lost = seen.iter().any(lost) && !self.is(Mutant::LostIsNew);
        if is_lost || count(&seen, |answer| matches!(answer, Seen::Life(_))) >= majority::<N>() {
            return false;
        }
        let Some(at) = self.next_wanting(state, client, 0) else { return false };
        let client_life = if life == 0 { nonce(client) } else { life };
        let client = &mut state.clients[client];
        (client.life, client.phase) = (client_life, Phase::Proposing(at));
        true
    }

    pub(super) fn propose(&self, state: &mut State<N>, client: usize) -> bool {
        let Phase::Proposing(at) = state.clients[client].phase else { return false };
        let server = self.orders[client][at];
        let Seen::Wants { nonce, .. } = state.clients[client].seen[server] else { return false };
        let wants = &mut state.servers[server];
        if wants.life == 0 && self.is(Mutant::NonceByAnyStep) {
            wants.named(nonce);
        }
        if wants.life == 0 && wants.want == nonce && wants.proposal == 0 {
            wants.proposal = state.clients[client].life;
        }
        let life = state.clients[client].life;
        let next = self.next_wanting(state, client, at + 1);
        let first = self.next_wanting(state, client, 0);
        // The first one decides between two who begin at once.
        let decides = first == Some(at) || self.is(Mutant::AnyProposal);
        let answer = match state.servers[server] {
            Server { life: 0, want, proposal, .. } if want == nonce => {
                Some(proposal).filter(|theirs| decides || *theirs == life)
            }
            Server { life, .. } if life != 0 && self.is(Mutant::BeginBesideVotes) => Some(life),
            // It has a vote meanwhile, or lost all: what was read is no longer so.
            _ => None,
        };
        let client = &mut state.clients[client];
        client.phase = match (answer, next, first) {
            (None, ..) => Phase::Over,
            (_, Some(next), _) => Phase::Proposing(next),
            (_, None, first) => Phase::Beginning(first.unwrap_or(N)),
        };
        client.life = answer.unwrap_or(0);
        true
    }

    pub(super) fn begin(&self, state: &mut State<N>, client: usize) -> bool {
        let Phase::Beginning(at) = state.clients[client].phase else { return false };
        let server = self.orders[client][at];
        let life = state.clients[client].life;
        let Seen::Wants { nonce, .. } = state.clients[client].seen[server] else { return false };
        let begun = &mut state.servers[server];
        if begun.life == 0 && self.is(Mutant::NonceByAnyStep) {
            begun.named(nonce);
        }
        let any = self.is(Mutant::AnyProposal) || self.is(Mutant::NonceByAnyStep);
        if begun.life == 0 && begun.want == nonce && (any || begun.proposal == life) {
            begun.seeded(life, 0);
        }
        let went_on = begun.life == life;
        let next = self.next_wanting(state, client, at + 1).filter(|_| went_on);
        state.clients[client].phase = next.map_or(Phase::Over, Phase::Beginning);
        true
    }

    pub(super) fn reseed(&self, state: &mut State<N>, client: usize, server: usize) -> bool {
        let client = &mut state.clients[client];
        let wants = matches!(client.seen[server], Seen::Wants { .. });
        let of = |life: u8| count(&client.seen, |answer| *answer == Seen::Life(life));
        let votes = |answer: &Seen| match answer {
            Seen::Life(life) => Some(*life).filter(|life| of(*life) >= majority::<N>()),
            _ => None,
        };
        let life = client.seen.iter().find_map(votes);
        if client.phase != Phase::Reading || !wants {
            return false;
        }
        let Some(life) = life else { return false };
        (client.life, client.phase) = (life, Phase::Fencing(server));
        true
    }

    /// A seeder reads a server's counter and longest time to live.
    pub(super) fn fence(&self, state: &mut State<N>, client: usize, server: usize) -> bool {
        let at = &mut state.servers[server];
        let seeder = &mut state.clients[client];
        let early = seeder.phase == Phase::Reading && self.is(Mutant::FenceBeforeWant);
        let fences = matches!(seeder.phase, Phase::Fencing(target) if target != server);
        if !(early || fences) || seeder.fenced >> server & 1 == 1 {
            return false;
        }
        if at.life == 0 {
            let names = at.want == 0;
            at.named(nonce(client) + FENCE);
            return names;
        }
        if seeder.life != 0 && at.life != seeder.life {
            return false;
        }
        seeder.fenced |= 1 << server;
        seeder.best = seeder.best.max(at.counter);
        seeder.is_long |= at.is_long && !self.is(Mutant::LongestBeforeWant);
        true
    }

    pub(super) fn seed(&self, state: &mut State<N>, client: usize) -> bool {
        let seeder = state.clients[client];
        let Phase::Fencing(server) = seeder.phase else { return false };
        let Seen::Wants { nonce, .. } = seeder.seen[server] else { return false };
        let reads = majority::<N>() - u32::from(self.is(Mutant::FewRead));
        if seeder.fenced.count_ones() < reads {
            return false;
        }
        let seeded = &mut state.servers[server];
        if seeded.life != 0 {
            return false;
        }
        let names = self.is(Mutant::NonceByAnyStep) && seeded.want == 0;
        if names {
            seeded.named(nonce);
        }
        // What it waits for: time passes as holds end.
        let waits = if seeder.is_long { seeded.lost } else { seeded.lost & !state.long };
        let is_over = waits == 0 || self.is(Mutant::EarlySeed);
        if is_over && (seeded.want == nonce || self.is(Mutant::NoNonce)) {
            seeded.seeded(seeder.life, seeder.best);
            state.clients[client].phase = Phase::Over;
            return true;
        }
        names
    }

    pub(super) fn grant(&self, state: &mut State<N>, servers: u8, is_long: bool) -> bool {
        let chosen = |at: usize| servers >> at & 1 == 1;
        let life = state.servers.iter().zip(0..).find(|(_, at)| chosen(*at)).map(|(s, _)| s.life);
        let gives = |s: &Server| s.life != 0 && Some(s.life) == life && s.key.is_none();
        let all = state.servers.iter().zip(0..).all(|(s, at)| !chosen(at) || gives(s));
        let free = (0..HOLDS).find(|hold| state.believed >> hold & 1 == 0);
        let Some(hold) = free else { return false };
        if !all || state.granted == self.grants {
            return false;
        }
        let of = state.servers.iter().zip(0..).filter(|(_, at)| chosen(*at));
        let token = of.map(|(s, _)| s.counter).max().unwrap_or(0) + 1;
        state.is_disordered |= token <= state.highest;
        state.highest = state.highest.max(token);
        state.believed |= 1 << hold;
        state.long |= u8::from(is_long) << hold;
        state.granted += 1;
        for (server, _) in state.servers.iter_mut().zip(0..).filter(|(_, at)| chosen(*at)) {
            (server.counter, server.key) = (token, Some(hold));
            server.is_long |= is_long;
        }
        true
    }

    /// A server loses everything; those that have lost a vote and not got it back stay a minority.
    pub(super) fn wipe(&self, state: &mut State<N>, server: usize) -> bool {
        let without = state.servers.iter().filter(|s| s.was_wiped && s.life == 0).count();
        let wiped = &mut state.servers[server];
        let loses = wiped.life != 0;
        let minority = !loses || without < N - N / 2 - 1;
        if state.wiped == self.wipes || !minority || (!loses && wiped.want == 0) {
            return false;
        }
        state.wiped += 1;
        let lost = wiped.lost | wiped.key.map_or(0, |hold| 1 << hold);
        *wiped = Server { was_wiped: wiped.was_wiped || loses, lost, ..Server::default() };
        true
    }
}

impl Server {
    fn named(&mut self, nonce: u8) {
        if self.want == 0 {
            self.want = nonce;
        }
    }

    fn seeded(&mut self, life: u8, counter: u8) {
        let was_wiped = self.was_wiped;
        *self = Self { life, counter, was_wiped, ..Self::default() };
    }
}

fn count(seen: &[Seen], fits: impl Fn(&Seen) -> bool) -> u32 {
    seen.iter().map(|answer| u32::from(fits(answer))).sum()
}

/// A client reads a server once: its nonce there is its own, and so is the life it proposes.
fn nonce(client: usize) -> u8 {
    u8::try_from(client + 1).unwrap()
}

/// The nonce of a fence is another, which nobody seeds with unless a read tells it.
const FENCE: u8 = 4;
