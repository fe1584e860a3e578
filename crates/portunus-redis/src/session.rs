//! Sessions on all servers: opened and renewed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Attempt, AttemptId, Renewal, Session, SessionId};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::Incarnation;

use crate::backend::Redis;
use crate::error::error;
use crate::keys::Keys;
use crate::node::Lane;
use crate::nodes::{Nodes, Replies};
use crate::script::{Call, OPEN, RENEW};
use crate::seeding::{hex, parse};

impl Redis {
    pub(crate) async fn open(&self, ttl: Duration, lane: Lane) -> Result<Session> {
        const OPERATION: &str = "open_session";
        let id = SessionId(rand::random());
        let is_one = self.nodes.is_one();
        let life = if is_one { rand::random() } else { self.seeding(lane).life(OPERATION).await? };
        // Also if the others are a majority: a server that is named twice is missing elsewhere.
        if let Some(twin) = self.nodes.all().iter().find_map(|node| node.twin(lane)) {
            return Err(twin);
        }
        let opening =
            Opening { nodes: Arc::clone(&self.nodes), keys: self.keys.clone(), id, life, ttl };
        let opened = self
            .nodes
            .ask(
                lane,
                LIMIT,
                OPERATION,
                None,
                |at| Some(opening.call(at)),
                |replies| replies.is_majority(&["open"]),
            )
            .await;
        if !opened.is_majority(&["open"]) {
            let told = opened.definite().find(|(_, reply)| reply.word() == "layout");
            if let Some((_, reply)) = told {
                return Err(self.other_clients(reply.text(1)?));
            }
            return Err(opened.failure_after(&["open"]));
        }
        let life = match opened.definite().next() {
            Some((_, reply)) if is_one => parse(reply.text(1)?).ok_or_else(|| reply.garbled())?,
            _ => life,
        };
        let mut session = Session::leased(id, Incarnation::from(life), ttl);
        // What the algorithm takes off for the rounding of the servers.
        session.validity = session.validity.saturating_sub(Duration::from_millis(2));
        Ok(session)
    }

    /// Locks of two layouts, or of two sets of masters, do not exclude each other.
    fn other_clients(&self, theirs: &str) -> Error {
        let (layout, masters) = theirs.split_once('/').unwrap_or((theirs, "?"));
        error(ErrorKind::Conflict, "open_session").with_detail(format!(
            "namespace `{}` is in use with `layout={layout}` on {masters} master(s), and this client has \
             `layout={}` on {}: their locks do not exclude each other; nothing is held",
            self.keys.namespace(),
            self.keys.layout(),
            self.nodes.all().len()
        ))
    }

    pub(crate) async fn renew_all(
        &self,
        session: &Session,
        held: &[Arc<Attempt>],
    ) -> Result<Renewal> {
        let mut locks = Vec::new();
        let mut lost = Vec::new();
        let told: HashSet<AttemptId> = held.iter().map(|attempt| attempt.id).collect();
        for attempt in held {
            match self
                .attempts
                .get(attempt.id)
                .filter(|own| !own.is_gone)
                .and_then(|own| own.granted)
            {
                Some((round, _)) => {
                    locks.push((attempt.id, self.keys.lock(&attempt.name), round));
                }
                None => lost.push(attempt.id),
            }
        }
        // A lock that is taken just now counts from before this renewal, unless it is renewed, too.
        for (attempt, own) in self.attempts.under_way(session.id, &told) {
            locks.push((attempt, self.keys.lock(&own.name), own.round));
        }
        let chunks: Vec<&[(AttemptId, String, u64)]> =
            if locks.is_empty() { vec![&[]] } else { locks.chunks(CHUNK).collect() };
        let renewing = chunks.iter().map(|chunk| self.renew_some(session, chunk));
        let renewed = futures_util::future::try_join_all(renewing).await?;
        let missed: Vec<_> = renewed.into_iter().flatten().collect();
        let unsettled = missed.iter().filter(|missed| !missed.is_sure);
        let unsettled = unsettled.map(|missed| (missed.attempt, missed.round)).collect();
        if self.attempts.unsettle(session.id, &unsettled) {
            // What is sure does not wait for the next renewal.
            let sure = missed.iter().filter(|missed| missed.is_sure);
            sure.filter(|missed| told.contains(&missed.attempt))
                .for_each(|missed| self.attempts.gone(missed.attempt));
            return Err(error(ErrorKind::Unconfirmed, "renew")
                .with_detail("a lock may stand on a server that did not answer in time"));
        }
        for Missed { attempt, round, .. } in missed {
            // One that is confirmed later has stood for longer than the session's deadline says. Over one
            // server nothing is confirmed: what it takes after the renewal lasts longer.
            let is_granted = !self.nodes.is_one() && self.attempts.miss(attempt, round);
            if told.contains(&attempt) || is_granted {
                lost.push(attempt);
            }
        }
        // What was reported is not kept alive.
        lost.iter().for_each(|attempt| self.attempts.gone(*attempt));
        Ok(Renewal { lost })
    }

    /// Renews the session and some locks; returns those that no majority confirmed.
    async fn renew_some(
        &self,
        session: &Session,
        locks: &[(AttemptId, String, u64)],
    ) -> Result<Vec<Missed>> {
        let keys = [self.keys.node(), self.keys.session(session.id)]
            .into_iter()
            .chain(locks.iter().map(|(_, key, _)| key.clone()));
        let args = [session.incarnation.to_string(), millis(session.granted)]
            .into_iter()
            .chain(locks.iter().map(|(attempt, _, round)| format!("{attempt}:{round}:")));
        let call = Call::new("renew", &RENEW, keys, args);
        // All who answer in time are heard: a lock may stand on those who are slower.
        let limit = session.request_timeout * 2 / 3;
        let renewed = self
            .nodes
            .ask(
                Lane::Renewals,
                limit,
                "renew",
                None,
                |_| Some(call.clone()),
                |replies| replies.bars_majority(&["ended"]),
            )
            .await;
        if renewed.bars_majority(&["ended"]) {
            return Err(error(ErrorKind::Lost, "renew").with_detail("the session is gone"));
        }
        if !renewed.is_majority(&["ok"]) {
            return Err(renewed.failure_after(&["ok"]));
        }
        self.bring_back(session, &renewed);
        let mut missing: HashMap<usize, usize> = HashMap::new();
        for (_, reply) in renewed.definite().filter(|(_, reply)| reply.word() == "ok") {
            let mut of_node = BTreeSet::new();
            for at in 1..reply.len() {
                let number = usize::try_from(reply.number(at)?).unwrap_or_default();
                if !(1..=locks.len()).contains(&number) || !of_node.insert(number) {
                    return Err(reply.garbled());
                }
                *missing.entry(number).or_default() += 1;
            }
        }
        let confirmed = renewed.count(&["ok"]);
        let silent = self.nodes.all().len() - renewed.definite().count();
        let quorum = self.nodes.quorum();
        let missed = (1..).zip(locks).filter_map(|(at, (attempt, _, round))| {
            let stands = confirmed - missing.get(&at).copied().unwrap_or_default();
            let is_sure = stands + silent < quorum;
            (stands < quorum).then_some(Missed { attempt: *attempt, round: *round, is_sure })
        });
        Ok(missed.collect())
    }

    /// Opens a session again where it is gone: on a server that was wiped, or away for longer than its
    /// time to live. What was held there stays lost there; who waits stands there again.
    fn bring_back(&self, session: &Session, renewed: &Replies) {
        let ended: Vec<usize> = renewed
            .definite()
            .filter(|(_, reply)| reply.word() == "ended")
            .map(|(at, _)| at)
            .collect();
        if ended.is_empty() {
            return;
        }
        let Some(turn) = self.nodes.mending() else { return };
        let seeding = self.seeding(Lane::Renewals);
        let (id, ttl) = (session.id, session.granted);
        let (nodes, keys) = (Arc::clone(&self.nodes), self.keys.clone());
        let attempts = Arc::clone(&self.attempts);
        let incarnation = session.incarnation.clone();
        tokio::spawn(async move {
            let _turn = turn;
            // It may have to be seeded first; one that can't be has no vote, which is safe.
            let Ok(life) = seeding.life("renew").await else { return };
            if Incarnation::from(life) != incarnation {
                return;
            }
            let opening = Opening { nodes: Arc::clone(&nodes), keys, id, life, ttl };
            let call = |at: usize| ended.contains(&at).then(|| opening.call(at));
            let all = |replies: &Replies| replies.definite().count() == ended.len();
            let opened = nodes.ask(Lane::Renewals, LIMIT, "renew", None, call, all).await;
            let may_be_open = |at: &usize| match opened.by_node.get(*at) {
                Some(Some(Ok(reply))) => reply.word() == "open",
                Some(Some(Err(error))) => error.kind() == ErrorKind::Unconfirmed,
                _ => true,
            };
            if ended.iter().any(may_be_open) {
                attempts.stray(id);
            }
        });
    }
}

/// A lock that no majority extended.
struct Missed {
    attempt: AttemptId,
    round: u64,
    /// Those who did not answer make no majority either.
    is_sure: bool,
}

/// A session to open.
struct Opening {
    nodes: Arc<Nodes>,
    keys: Keys,
    id: SessionId,
    life: u128,
    ttl: Duration,
}

impl Opening {
    fn call(&self, at: usize) -> Call {
        let newest = self.nodes.all().get(at).map_or(0, |node| node.newest());
        let args = [
            hex(self.life),
            millis(self.ttl),
            u8::from(self.nodes.is_one()).to_string(),
            layout(&self.keys, &self.nodes),
            newest.to_string(),
        ];
        let keys = [self.keys.node(), self.keys.session(self.id)];
        Call::new("open_session", &OPEN, keys, args)
    }
}

/// How the keys of locks are called, and on how many masters they are.
pub(crate) fn layout(keys: &Keys, nodes: &Nodes) -> String {
    format!("{}/{}", keys.layout(), nodes.all().len())
}

fn millis(span: Duration) -> String {
    span.as_millis().to_string()
}

/// How many locks one script renews.
const CHUNK: usize = 100;
/// How long one of several servers may take outside a session.
pub(crate) const LIMIT: Duration = Duration::from_millis(500);
