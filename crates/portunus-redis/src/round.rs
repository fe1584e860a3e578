//! A round of an attempt: the request to all servers that takes the lock on a majority of them, or is taken
//! back everywhere.
//!
//! Over one server this is `SET NX PX`. Over several it is Redlock (<https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/>)
//! with a second phase, in which a majority confirms the token while it still holds the lock for this
//! round. No round's value is ever used again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Attempt, Session};
use portunus_core::clock::Moment;
use portunus_core::error::{Error, ErrorKind, Result};

use crate::attempts::{Attempts, Own};
use crate::doubts::Doubts;
use crate::entry::Lock;
use crate::error::error;
use crate::keys::Keys;
use crate::leaving::Parting;
use crate::node::Lane;
use crate::nodes::{Nodes, Replies, UNSEEDED};
use crate::script::{CONFIRM, Call, PLACE, Reply, TAKE, UNDO};

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
        let own = self.attempts.begin(session.id, attempt, nodes.all().len());
        let mut round = Round { rounds: self, session, attempt, own, operation };
        let taken = round.take(manner).await;
        if taken.bars_majority(&["ended"]) {
            return Err(error(ErrorKind::Lost, operation).with_detail("the session is gone"));
        }
        if taken.bars_majority(&["left", "absent"]) {
            return Ok(Ended::Gone);
        }
        if manner == Manner::Look && taken.count(&["left"]) > 0 {
            // Of its newest round, which nobody has taken back: a server barred the attempt itself.
            self.attempts.change(attempt.id, |own| own.is_barred = true);
            round.own.is_barred = true;
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
            return round.alone(&taken, manner);
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
        let doubts = Some(&self.own.doubts);
        self.ask(doubts, |_| Some(call.clone()), enough).await
    }

    fn alone(&self, taken: &Replies, manner: Manner) -> Result<Ended> {
        let Some((_, reply)) = taken.definite().next() else { return Err(taken.failure()) };
        let attempts = &self.rounds.attempts;
        match reply.word() {
            "held" => {
                let (token, position) = (reply.number(1)?, reply.number(2)?);
                match attempts.grant(self.attempt.id, self.own.round, token, position) {
                    true => Ok(Ended::Held { token, position }),
                    false => Ok(Ended::Gone),
                }
            }
            "taken" if manner == Manner::Try => Ok(Ended::Refused),
            "taken" => {
                let position = reply.number(1)?;
                attempts.wait(self.attempt.id, position);
                Ok(Ended::Waits { position, holder: holder(reply)? })
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
        let confirmed = self.ask(None, call, |replies| replies.is_majority(&["ok"])).await;
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
        // Nothing was taken there, and nothing that was sent can still arrive. Where the session was opened
        // again an entry that stands on others is not known: unless it is evicted, its next round stands there, too.
        let doubts = &self.own.doubts;
        let clean: HashSet<_> = taken
            .definite()
            .filter(|(at, reply)| {
                let is_free = match reply.word() {
                    "held" => false,
                    "taken" => waits || !enters,
                    "absent" => manner != Manner::Look || self.own.is_barred,
                    _ => true,
                };
                is_free && doubts.newest(*at) == 0
            })
            .map(|(at, _)| at)
            .collect();
        let asked = |at: usize| !clean.contains(&at);
        // Who did not answer in time is not waited for again; it is asked until it answers.
        let answered = |replies: &Replies| {
            taken.definite().all(|(at, _)| !asked(at) || replies.by_node[at].is_some())
        };
        if manner == Manner::Try && taken.count(&["taken"]) > 0 {
            // Only who was refused is sure to have no later round, which this would end.
            let parting = Parting::new(&self.rounds.keys, self.session, self.attempt)
                .known(Some(Arc::clone(doubts)), false);
            let limit = self.limit();
            self.rounds.part(&parting, limit, asked, answered, |_| true, self.session).await;
        } else {
            let [_, session, lock, line] = self.keys();
            let undo = |waits: bool| {
                let args = [
                    id.to_string(),
                    self.own.round.to_string(),
                    self.session.id.to_string(),
                    self.own.position.to_string(),
                    self.attempt.record().to_json(),
                    u8::from(waits).to_string(),
                    self.ttl(),
                ];
                let keys = [session.clone(), lock.clone(), line.clone()];
                Call::new(self.operation, &UNDO, keys, args)
            };
            let now = undo(waits);
            let call = |at: usize| asked(at).then(|| now.clone());
            let undone = self.ask(Some(doubts), call, answered).await;
            for at in (0..taken.by_node.len()).filter(|at| asked(*at)) {
                if !matches!(undone.by_node[at], Some(Ok(_))) {
                    let of = Some((id, Arc::clone(doubts)));
                    self.rounds.repeat(at, undo(false), of, self.session.granted);
                }
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
        let (holder, is_split) = match self.holder(&taken)? {
            Some((value, count)) => {
                // As far as is known it has no majority either, and has not been told of one.
                let is_open = Lock::read(&value).is_some_and(|lock| lock.token == 0);
                (Some(value), is_open && count < self.rounds.nodes.quorum())
            }
            None => (None, true),
        };
        attempts.change(id, |own| own.is_split = is_split && manner != Manner::Stand);
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
        let placed =
            self.ask(None, |_| Some(call.clone()), |replies| replies.is_majority(&["ok"])).await;
        if placed.is_majority(&["ok"]) { Ok(position) } else { Err(no_majority(&placed)) }
    }

    /// Who may hold the lock on a majority of the servers, and how many of them said so.
    fn holder(&self, taken: &Replies) -> Result<Option<(Vec<u8>, usize)>> {
        let mut values: Vec<(&[u8], usize)> = Vec::new();
        let token = |value| Lock::read(value).map_or(0, |lock| lock.token);
        for (_, reply) in taken.definite().filter(|(_, reply)| reply.word() == "taken") {
            let Some((value, _)) = reply.holder(2)? else { continue };
            let of = Lock::grant(value);
            match values.iter_mut().find(|(other, _)| Lock::grant(other) == of) {
                Some((other, count)) => {
                    *count += 1;
                    // Who has confirmed it says more.
                    *other = if token(value) > token(other) { value } else { other };
                }
                None => values.push((value, 1)),
            }
        }
        let best = values.into_iter().max_by_key(|(_, count)| *count);
        // What is not known of the others may be of the same holder.
        let unknown = taken.by_node.len() - taken.count(&["taken", "held"]);
        Ok(best
            .filter(|(_, count)| count + unknown >= self.rounds.nodes.quorum())
            .map(|(value, count)| (value.to_vec(), count)))
    }

    async fn ask(
        &self,
        doubts: Option<&Arc<Doubts>>,
        call: impl Fn(usize) -> Option<Call> + Sync,
        enough: impl Fn(&Replies) -> bool,
    ) -> Replies {
        let asked = self.rounds.nodes.ask(
            Lane::Requests,
            self.limit(),
            self.operation,
            doubts,
            call,
            enough,
        );
        asked.await
    }

    /// There are up to four requests in one of the engine's.
    fn limit(&self) -> Duration {
        self.session.request_timeout / 4
    }

    fn keys(&self) -> [String; 4] {
        let (keys, name) = (&self.rounds.keys, &self.attempt.name);
        [keys.node(), keys.session(self.session.id), keys.lock(name), keys.line(name)]
    }

    fn ttl(&self) -> String {
        self.session.granted.as_millis().to_string()
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

/// The holder that a server named.
fn holder(reply: &Reply) -> Result<Option<Vec<u8>>> {
    Ok(reply.holder(2)?.map(|(value, _)| value.to_vec()))
}
