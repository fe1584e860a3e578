//! A round of an attempt: the request to all servers that takes the lock on a majority of them, or is taken
//! back everywhere.
//!
//! Over one server this is `SET NX PX`. Over several it is Redlock (<https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/>)
//! with a second phase, in which a majority confirms the token while it still holds the lock for this
//! round. No round's value is ever used again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Attempt, AttemptId, Session};
use portunus_core::clock::Moment;
use portunus_core::error::{Error, ErrorKind, Result};

use crate::attempts::{Attempts, Own};
use crate::entry::Lock;
use crate::error::error;
use crate::keys::Keys;
use crate::node::Lane;
use crate::nodes::{Nodes, Replies, UNSEEDED};
use crate::script::{CONFIRM, Call, LEAVE, PLACE, TAKE, UNDO};

/// What rounds need.
#[derive(Clone, Debug)]
pub(crate) struct Rounds {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) keys: Keys,
    pub(crate) attempts: Arc<Attempts>,
}

/// How a round is begun.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Manner {
    /// For a new entry, which waits if need be.
    Enter,
    /// For a new entry behind others of this process.
    Stand,
    /// For an entry that holds, or none.
    Try,
    /// For an entry that stands.
    Look,
}

/// How a round ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    Held {
        token: u64,
        position: u64,
    },
    /// It waits, for this holder if there is one.
    Waits {
        position: u64,
        holder: Option<Vec<u8>>,
    },
    Refused,
    /// Its entry is gone, or its attempt is over.
    Gone,
}

impl Rounds {
    pub(crate) async fn run(
        &self,
        session: &Session,
        attempt: &Attempt,
        manner: Manner,
    ) -> Result<Ended> {
        let operation = if manner == Manner::Look { "look" } else { "enter" };
        let nodes = &self.nodes;
        let sent = nodes.stamp();
        let own = self.attempts.begin(session.id, attempt, nodes.is_one(), nodes.connections());
        let round = Round { rounds: self, session, attempt, own, operation };
        // If the caller drops this call, nobody knows what became of it.
        let doubt =
            Doubt { attempts: &self.attempts, attempt: attempt.id, was: round.own.in_doubt };
        let taken = round.take(manner).await;
        if taken.bars_majority(&["ended"]) {
            return Err(error(ErrorKind::Lost, operation).with_detail("the session is gone"));
        }
        if taken.bars_majority(&["left", "absent"]) {
            return Ok(Ended::Gone);
        }
        if let Some((_, reply)) = taken.definite().find(|(_, reply)| {
            !matches!(
                reply.word(),
                "held" | "taken" | "unseeded" | "foreign" | "ended" | "left" | "absent"
            )
        }) {
            return Err(reply.garbled());
        }
        if nodes.is_one() {
            let ended = round.alone(&taken, manner);
            match &ended {
                Err(error) if error.kind() == ErrorKind::Unconfirmed => {}
                _ => doubt.over(),
            }
            return ended;
        }
        // Who has not answered yet does so before it answers what follows on the same connection.
        if !taken.lost_some() {
            doubt.over();
        }
        if taken.is_majority(&["held"])
            && let Some((token, position)) = round.confirm(&taken, sent).await?
            && self.attempts.grant(attempt.id, round.own.round, token, position)
        {
            return Ok(Ended::Held { token, position });
        }
        round.undone(taken, manner).await
    }
}

/// One round.
struct Round<'a> {
    rounds: &'a Rounds,
    session: &'a Session,
    attempt: &'a Attempt,
    own: Own,
    operation: &'static str,
}

impl Round<'_> {
    /// Asks all servers for the lock.
    async fn take(&self, manner: Manner) -> Replies {
        let nodes = &self.rounds.nodes;
        let mode = match manner {
            Manner::Enter => "enter",
            Manner::Stand => "stand",
            Manner::Try => "try",
            Manner::Look => "look",
        };
        let args = [
            self.session.incarnation.to_string(),
            self.attempt.id.to_string(),
            self.own.round.to_string(),
            self.session.id.to_string(),
            self.ttl(),
            self.own.position.to_string(),
            self.attempt.record().to_json(),
            mode.to_owned(),
            u8::from(nodes.is_one()).to_string(),
        ];
        let call = Call::new(self.operation, &TAKE, self.keys(), args);
        let enough = |replies: &Replies| {
            let held = replies.count(&["held"]);
            let left = replies.by_node.iter().filter(|reply| reply.is_none()).count();
            held >= nodes.quorum()
                || (held + left < nodes.quorum() && replies.is_majority(&["held", "taken"]))
        };
        self.ask(|_| Some(call.clone()), enough).await
    }

    fn alone(&self, taken: &Replies, manner: Manner) -> Result<Ended> {
        let Some((_, reply)) = taken.definite().next() else { return Err(taken.failure()) };
        let attempts = &self.rounds.attempts;
        match reply.word() {
            "held" => {
                let (token, position) = (reply.number(1)?, reply.number(2)?);
                attempts.grant(self.attempt.id, self.own.round, token, position);
                Ok(Ended::Held { token, position })
            }
            "taken" if manner == Manner::Try => Ok(Ended::Refused),
            "taken" => {
                let position = reply.number(1)?;
                attempts.wait(self.attempt.id, position);
                Ok(Ended::Waits { position, holder: holder(reply.bytes(2)?) })
            }
            "unseeded" | "foreign" => {
                Err(error(ErrorKind::Regression, self.operation).with_detail(UNSEEDED))
            }
            _ => Err(reply.garbled()),
        }
    }

    /// The second phase: the token is the highest number of those who gave the lock, and each of them
    /// has to confirm it, also the one it came from. `None` when no majority did, or not in time.
    async fn confirm(&self, taken: &Replies, sent: Moment) -> Result<Option<(u64, u64)>> {
        let nodes = &self.rounds.nodes;
        let mut first: Vec<Option<(String, u64)>> = vec![None; nodes.all().len()];
        let mut token = 0;
        for (at, reply) in taken.definite().filter(|(_, reply)| reply.word() == "held") {
            token = token.max(reply.number(1)?);
            first[at] = Some((reply.text(3)?.to_owned(), reply.number(1)?));
        }
        let position = if self.own.position == 0 { token } else { self.own.position };
        let [node, _, lock, _] = self.keys();
        let call = |at: usize| {
            let (epoch, number) = first.get(at)?.clone()?;
            let args = [
                self.attempt.id.to_string(),
                self.own.round.to_string(),
                token.to_string(),
                epoch,
                number.to_string(),
                position.to_string(),
            ];
            Some(Call::new(self.operation, &CONFIRM, [node.clone(), lock.clone()], args))
        };
        let confirmed = self.ask(call, |replies| replies.is_majority(&["ok"])).await;
        // As published: what is left of the time to live, less 1 % for clocks and 2 ms for rounding.
        let ttl = self.session.granted;
        let until = sent.after((ttl - ttl / 100).saturating_sub(Duration::from_millis(2)));
        let is_granted = confirmed.is_majority(&["ok"]) && !nodes.is_past(until);
        Ok(is_granted.then_some((token, position)))
    }

    /// Takes the round back on every server: those that do not answer are asked again in the background,
    /// until they have done it or the lock that they may have given is over.
    async fn undone(&self, taken: Replies, manner: Manner) -> Result<Ended> {
        let (id, attempts) = (self.attempt.id, &self.rounds.attempts);
        let enters = matches!(manner, Manner::Enter | Manner::Stand);
        let stands = taken.is_majority(&["held", "taken"]);
        let waits = manner == Manner::Look || (enters && stands);
        let [_, session, lock, line] = self.keys();
        let keys = [session, lock, line];
        // Only who was refused is sure to have no later round, which a late one of these would end.
        let is_refused = manner == Manner::Try && taken.count(&["taken"]) > 0;
        let undo = if !is_refused || taken.lost_some() {
            let args = |waits: bool| {
                [
                    id.to_string(),
                    self.own.round.to_string(),
                    self.session.id.to_string(),
                    self.own.position.to_string(),
                    self.attempt.record().to_json(),
                    u8::from(waits).to_string(),
                    self.ttl(),
                ]
            };
            let later = Call::new(self.operation, &UNDO, keys.clone(), args(false));
            (Call::new(self.operation, &UNDO, keys, args(waits)), later)
        } else {
            let leave = Call::new(self.operation, &LEAVE, keys, [id.to_string(), "0".to_owned()]);
            (leave.clone(), leave)
        };
        // Nothing was taken there, and nothing that was sent can still arrive.
        let clean: HashSet<_> = taken
            .definite()
            .filter(|(_, reply)| {
                reply.word() != "held" && (waits || reply.word() != "taken" || !enters)
            })
            .map(|(at, _)| at)
            .collect();
        let call = |at: usize| (!clean.contains(&at)).then(|| undo.0.clone());
        let left = taken.by_node.len() - clean.len();
        let undone = self.ask(call, |replies| replies.definite().count() == left).await;
        for at in (0..taken.by_node.len()).filter(|at| !clean.contains(at)) {
            if !matches!(undone.by_node[at], Some(Ok(_))) {
                attempts.change(id, |own| own.in_doubt = true);
                self.rounds.repeat(at, undo.1.clone(), self.session.granted);
            }
        }
        if taken.bars_majority(&["unseeded", "foreign"]) {
            return Err(error(ErrorKind::Regression, self.operation).with_detail(UNSEEDED));
        }
        let taken_by_others = taken.count(&["taken"]);
        if manner == Manner::Try {
            return if taken_by_others > 0 { Ok(Ended::Refused) } else { Err(no_majority(&taken)) };
        }
        if !stands {
            return Err(no_majority(&taken));
        }
        let position = match self.own.position {
            0 => self.place(&taken).await?,
            position => position,
        };
        attempts.wait(id, position);
        let holder = self.holder(&taken)?;
        attempts.change(id, |own| own.is_split = holder.is_none() && manner != Manner::Stand);
        Ok(Ended::Waits { position, holder })
    }

    /// Agrees on a position with those on which the entry stands.
    async fn place(&self, taken: &Replies) -> Result<u64> {
        let mut position = 0;
        for (_, reply) in taken.definite() {
            position = position.max(match reply.word() {
                "held" | "taken" => reply.number(1)?,
                _ => 0,
            });
        }
        let args = [self.attempt.id.to_string(), position.to_string()];
        let call = Call::new(self.operation, &PLACE, self.keys(), args);
        let placed = self.ask(|_| Some(call.clone()), |replies| replies.is_majority(&["ok"])).await;
        if placed.is_majority(&["ok"]) { Ok(position) } else { Err(no_majority(&placed)) }
    }

    /// Who holds the lock on a majority of the servers.
    fn holder(&self, taken: &Replies) -> Result<Option<Vec<u8>>> {
        let mut values: Vec<(&[u8], usize)> = Vec::new();
        for (_, reply) in taken.definite().filter(|(_, reply)| reply.word() == "taken") {
            let value = reply.bytes(2)?;
            let of = Lock::grant(value);
            match values.iter_mut().find(|(other, _)| Lock::grant(other) == of) {
                Some((_, count)) => *count += 1,
                None => values.push((value, 1)),
            }
        }
        let best = values.into_iter().max_by_key(|(_, count)| *count);
        // What is not known of the others may be of the same holder.
        let unknown = taken.by_node.len() - taken.count(&["taken", "held"]);
        Ok(best
            .filter(|(_, count)| count + unknown >= self.rounds.nodes.quorum())
            .and_then(|(value, _)| holder(value)))
    }

    async fn ask(
        &self,
        call: impl Fn(usize) -> Option<Call> + Sync,
        enough: impl Fn(&Replies) -> bool,
    ) -> Replies {
        // There are up to three in one request of the engine.
        let limit = self.session.request_timeout / 3;
        self.rounds.nodes.ask(Lane::Requests, limit, self.operation, call, enough).await
    }

    fn keys(&self) -> [String; 4] {
        let (keys, name) = (&self.rounds.keys, &self.attempt.name);
        [keys.node(), keys.session(self.session.id), keys.lock(name), keys.line(name)]
    }

    fn ttl(&self) -> String {
        self.session.granted.as_millis().to_string()
    }
}

impl Rounds {
    /// Asks one server again and again in the background, until it answers or `limit` is over.
    pub(crate) fn repeat(&self, at: usize, call: Call, limit: Duration) {
        let nodes = Arc::clone(&self.nodes);
        tokio::spawn(async move {
            let until = nodes.stamp().after(limit);
            let mut pause = FIRST_PAUSE;
            while !nodes.is_past(until) {
                let Some(node) = nodes.all().get(at) else { return };
                let asked = node.run(Lane::Requests, call.clone());
                tokio::select! {
                    biased;
                    answer = asked => if answer.is_ok() { return },
                    () = nodes.clock().sleep_until(until) => return,
                }
                nodes.sleep(pause).await;
                pause = (2 * pause).min(limit / 8);
            }
        });
    }
}

/// Marks an attempt as in doubt while a request of it is under way.
struct Doubt<'a> {
    attempts: &'a Attempts,
    attempt: AttemptId,
    was: bool,
}

impl Doubt<'_> {
    /// All that was sent is answered.
    fn over(&self) {
        let was = self.was;
        self.attempts.change(self.attempt, |own| own.in_doubt = was);
    }
}

/// Why there was no majority. It is never sure that nothing is left: the attempt goes on with its next
/// round, or leaves.
fn no_majority(replies: &Replies) -> Error {
    let failure = replies.failure();
    match failure.kind() {
        ErrorKind::Unavailable => {
            error(ErrorKind::Unconfirmed, "enter").with_detail("no majority").with_source(failure)
        }
        _ => failure,
    }
}

/// The holder that a server named; none for an empty text.
fn holder(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
