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
}

impl Seeding {
    /// The life of the store that a majority of several servers is in; seeds those that have none.
    pub(crate) async fn life(&self, operation: &'static str) -> Result<u128> {
        let read = self.state(operation, None, "read").await;
        self.check_servers(operation)?;
        let of = |word| read.definite().filter(move |(_, reply)| reply.word() == word);
        let mut lives: HashMap<&str, usize> = HashMap::new();
        for (_, reply) in of("state") {
            *lives.entry(reply.text(1)?).or_default() += 1;
        }
        let majority = lives.iter().find(|(_, count)| **count >= self.nodes.quorum());
        if let Some((life, _)) = majority {
            for (at, reply) in of("unseeded") {
                // One that can't be seeded now has no vote, which is safe.
                let _ = self.reseed(operation, at, reply.text(1)?, life).await;
            }
            return parse(life).ok_or_else(|| regression(operation));
        }
        if read.definite().count() < self.nodes.all().len() {
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
        for (_, at, reply) in &order {
            // The first one decides between two who begin at once.
            let proposed = self.step(operation, *at, "propose", reply.text(1)?, &[&life]).await?;
            match proposed.word() {
                "unseeded" => life = proposed.text(2)?.to_owned(),
                _ => life = proposed.text(1)?.to_owned(),
            }
        }
        for (_, at, reply) in &order {
            let begun = self
                .step(operation, *at, "seed", reply.text(1)?, &[&life, "0", "0", &epoch()])
                .await?;
            if begun.word() != "state" || begun.text(1)? != life {
                // Somebody else is at it, or it was wiped just now.
                return Err(error(ErrorKind::Unavailable, operation)
                    .with_detail("the servers are being seeded"));
            }
        }
        parse(&life).ok_or_else(|| regression(operation))
    }

    async fn reseed(
        &self,
        operation: &'static str,
        at: usize,
        nonce: &str,
        life: &str,
    ) -> Result<()> {
        let others = self.state(operation, Some(at), "fence").await;
        let (mut votes, mut highest, mut longest) = (0, 0, 0);
        for (_, reply) in others.definite().filter(|(_, reply)| reply.word() == "state") {
            if reply.text(1)? == life {
                votes += 1;
                highest = highest.max(reply.number(2)?);
                longest = longest.max(reply.number(4)?);
            }
        }
        if votes < self.nodes.quorum() {
            return Err(others.failure());
        }
        let (counter, keeps_out) = (highest.to_string(), longest.to_string());
        self.step(operation, at, "seed", nonce, &[life, &counter, &keeps_out, &epoch()])
            .await
            .map(drop)
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
        node.run(Lane::Renewals, call).await
    }

    async fn state(&self, operation: &'static str, but: Option<usize>, step: &str) -> Replies {
        let args = [step.to_owned(), hex(rand::random())];
        let call = Call::new(operation, &SEED, self.of_node(), args);
        let all = self.nodes.all().len() - usize::from(but.is_some());
        let calls = |at: usize| (but != Some(at)).then(|| call.clone());
        let answered = |replies: &Replies| replies.by_node.iter().flatten().count() == all;
        self.nodes.ask(Lane::Renewals, LIMIT, operation, calls, answered).await
    }

    fn of_node(&self) -> [String; 2] {
        [self.keys.node(), self.keys.wiped()]
    }

    /// Refuses two names of one server, which would have two votes.
    fn check_servers(&self, operation: &'static str) -> Result<()> {
        let mut seen: HashMap<String, &str> = HashMap::new();
        for node in self.nodes.all() {
            let Some(is) = node.identity() else { continue };
            if let Some(other) = seen.insert(is.run_id, node.host()) {
                return Err(error(ErrorKind::Invalid, operation).with_detail(format!(
                    "{other} and {} are the same server; accepted are independent masters",
                    node.host()
                )));
            }
        }
        Ok(())
    }
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
