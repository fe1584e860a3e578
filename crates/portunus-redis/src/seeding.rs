//! Seeding: the incarnation and the counter of a server that has none, because it is new or was wiped.
//!
//! A server without a counter has no vote. It gets one above those of a majority of the others, which
//! begin another epoch first: a token that is confirmed there later was not counted, and its round
//! fails.

use std::collections::HashMap;
use std::sync::Arc;

use portunus_core::error::{Error, ErrorKind, Result};

use crate::error::error;
use crate::keys::Keys;
use crate::node::Lane;
use crate::nodes::{Nodes, Replies, UNSEEDED};
use crate::script::{Call, Reply, SEED};
use crate::session::LIMIT;

/// What seeding needs.
#[derive(Clone, Debug)]
pub(crate) struct Seeding {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) keys: Keys,
    /// By which requests go: those of sessions are not to wait for others.
    pub(crate) lane: Lane,
}

impl Seeding {
    /// The life of the store that a majority of several servers is in; seeds those that have none.
    pub(crate) async fn life(&self, operation: &'static str) -> Result<u128> {
        match self.look(operation).await {
            // The servers answer at different moments, and another client may begin in between. What is
            // read after that fits.
            Err(error) if error.kind() == ErrorKind::Regression => self.look(operation).await,
            looked => looked,
        }
    }

    async fn look(&self, operation: &'static str) -> Result<u128> {
        let read = self.state(operation, None, "read").await;
        let of = |word| read.definite().filter(move |(_, reply)| reply.word() == word);
        let (mut lives, mut garbled) = (HashMap::<&str, Votes>::new(), None);
        for (_, reply) in of("state") {
            match State::read(reply) {
                Ok(state) => lives.entry(state.life).or_default().count(&state),
                Err(error) => garbled = Some(error),
            }
        }
        let majority = lives.iter().find(|(_, votes)| votes.count >= self.nodes.quorum());
        if let Some((life, votes)) = majority {
            let longest = votes.longest;
            for (at, reply) in of("unseeded") {
                // While it keeps out nobody is disturbed. One that can't be seeded now has no vote, which
                // is safe.
                if reply.number(3)? >= keeps_out(longest) {
                    let _ = self.reseed(operation, at, reply.text(1)?, life).await;
                }
            }
            return parse(life).ok_or_else(|| regression(operation));
        }
        let answered = read.definite().count();
        if let Some(garbled) = garbled.filter(|_| answered >= self.nodes.quorum()) {
            return Err(garbled);
        }
        if answered < self.nodes.all().len() {
            // Nobody knows what the others have seen.
            return Err(read.failure());
        }
        self.first(operation, &read).await
    }

    /// Begins the life of a store of which no server ever had a vote: proposed to all, then begun.
    async fn first(&self, operation: &'static str, read: &Replies) -> Result<u128> {
        let mut order: Vec<(String, usize, &Reply)> = Vec::new();
        let mut life = None;
        for (at, reply) in read.definite() {
            match (reply.word(), reply.text(1)?) {
                ("unseeded", _) => {
                    let identity = self.nodes.all().get(at).and_then(|node| node.identity());
                    order.push((identity.map(|is| is.run_id).unwrap_or_default(), at, reply));
                }
                // It was begun, and broken off before a majority had a vote.
                (_, begun) if life.as_deref().is_none_or(|life| life == begun) => {
                    life = Some(begun.to_owned());
                }
                _ => return Err(regression(operation)),
            }
        }
        order.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        if let Some(life) = &life {
            // One without the proposal lost what it had.
            for (.., reply) in &order {
                if reply.text(2)? != life {
                    return Err(regression(operation));
                }
            }
        }
        let mut life = life.unwrap_or_else(|| hex(rand::random()));
        for (number, (_, at, reply)) in order.iter().enumerate() {
            let nonce = reply.text(1)?;
            let proposed = self.step(operation, *at, "propose", nonce, &[&life]).await?;
            // One that has a vote meanwhile, or was wiped again, may have given locks already: what was
            // read is no ground to begin on.
            if proposed.word() != "unseeded" || proposed.text(1)? != nonce {
                return Err(self.under_way(operation));
            }
            // The first one decides between two who begin at once.
            match proposed.text(2)? {
                "" => return Err(self.under_way(operation)),
                theirs if number == 0 => theirs.clone_into(&mut life),
                theirs if theirs != life => return Err(self.under_way(operation)),
                _ => {}
            }
        }
        for (_, at, reply) in &order {
            let begun =
                self.step(operation, *at, "begin", reply.text(1)?, &[&life, &epoch()]).await?;
            if begun.word() != "state" || begun.text(1)? != life {
                // Somebody else is at it, or it was wiped just now.
                return Err(self.under_way(operation));
            }
        }
        parse(&life).ok_or_else(|| regression(operation))
    }

    fn under_way(&self, operation: &'static str) -> Error {
        error(ErrorKind::Unavailable, operation).with_detail(format!(
            "the servers are being seeded; if that does not end, two began at once and both stopped: \
             delete `{}` on all of them",
            self.keys.wiped()
        ))
    }

    async fn reseed(
        &self,
        operation: &'static str,
        at: usize,
        nonce: &str,
        life: &str,
    ) -> Result<()> {
        let others = self.state(operation, Some(at), "fence").await;
        let votes = Votes::of(&others, life);
        if votes.count < self.nodes.quorum() {
            return Err(others.failure());
        }
        let (counter, keeps_out) =
            (votes.highest.to_string(), keeps_out(votes.longest).to_string());
        // That of the others, not this client's: it may be the one that is refused for its own.
        let layout = votes.layout(self.nodes.quorum());
        let seed = [life, &epoch(), &counter, &keeps_out, layout];
        self.step(operation, at, "seed", nonce, &seed).await.map(drop)
    }

    /// One step on one server.
    async fn step(
        &self,
        operation: &'static str,
        at: usize,
        step: &str,
        nonce: &str,
        more: &[&str],
    ) -> Result<Reply> {
        let args = [step, nonce].into_iter().chain(more.iter().copied()).map(str::to_owned);
        let call = Call::new(operation, &SEED, self.of_node(), args);
        let Some(node) = self.nodes.all().get(at) else { return Err(regression(operation)) };
        let over = self.nodes.sleep(LIMIT);
        node.run(self.lane, call, None, over).await
    }

    async fn state(&self, operation: &'static str, but: Option<usize>, step: &str) -> Replies {
        let args = [step.to_owned(), hex(rand::random())];
        let call = Call::new(operation, &SEED, self.of_node(), args);
        let all = self.nodes.all().len() - usize::from(but.is_some());
        let calls = |at: usize| (but != Some(at)).then(|| call.clone());
        let answered = |replies: &Replies| replies.by_node.iter().flatten().count() == all;
        self.nodes.ask(self.lane, LIMIT, operation, None, calls, answered).await
    }

    fn of_node(&self) -> [String; 2] {
        [self.keys.node(), self.keys.wiped()]
    }
}

/// What the servers of one life have seen.
#[derive(Default)]
struct Votes {
    count: usize,
    highest: u64,
    /// The longest time to live, in milliseconds.
    longest: u64,
    /// How the keys of locks are called, and how many say so.
    layouts: HashMap<String, usize>,
}

impl Votes {
    fn of(replies: &Replies, life: &str) -> Self {
        let mut votes = Self::default();
        let states = replies.definite().filter(|(_, reply)| reply.word() == "state");
        let states = states.filter_map(|(_, reply)| State::read(reply).ok());
        states.filter(|state| state.life == life).for_each(|state| votes.count(&state));
        votes
    }

    fn count(&mut self, state: &State<'_>) {
        self.count += 1;
        self.highest = self.highest.max(state.counter);
        self.longest = self.longest.max(state.longest);
        *self.layouts.entry(state.layout.to_owned()).or_default() += 1;
    }

    /// What a majority says; empty if none does.
    fn layout(&self, quorum: usize) -> &str {
        let known = self.layouts.iter().find(|(_, count)| **count >= quorum);
        known.map_or("", |(layout, _)| layout)
    }
}

/// What a server that was seeded says of itself. One that says what makes no sense has no vote.
struct State<'a> {
    life: &'a str,
    counter: u64,
    longest: u64,
    layout: &'a str,
}

impl<'a> State<'a> {
    fn read(reply: &'a Reply) -> Result<Self> {
        let (counter, longest) = (reply.number(2)?, reply.number(4)?);
        Ok(Self { life: reply.text(1)?, counter, longest, layout: reply.text(5)? })
    }
}

/// For how long, in milliseconds, a server that forgot stays out after it was noticed: what it had granted may
/// be believed for so long, by a clock that is slower by 1 %.
fn keeps_out(longest: u64) -> u64 {
    // It may be garbled.
    longest.saturating_add(longest / 100).saturating_add(2)
}

fn regression(operation: &'static str) -> Error {
    error(ErrorKind::Regression, operation).with_detail(UNSEEDED)
}

/// No round of a life before fits this one's epochs.
fn epoch() -> String {
    rand::random::<u32>().to_string()
}

pub(crate) fn hex(life: u128) -> String {
    format!("{life:032x}")
}

pub(crate) fn parse(life: &str) -> Option<u128> {
    u128::from_str_radix(life, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_out_for_longer_than_the_longest_time_to_live() {
        for (longest, out) in [(0, 2), (6_000, 6_062), (u64::MAX, u64::MAX)] {
            assert_eq!(keeps_out(longest), out, "{longest}");
        }
    }
}
