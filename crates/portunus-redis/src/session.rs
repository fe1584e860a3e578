//! Sessions on all servers: opened and renewed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Attempt, AttemptId, Renewal, Session, SessionId};
use portunus_core::error::{ErrorKind, Result};
use portunus_core::token::Incarnation;

use crate::backend::Redis;
use crate::error::error;
use crate::node::Lane;
use crate::script::{Call, OPEN, RENEW};
use crate::seeding::{hex, parse};

impl Redis {
    pub(crate) async fn open(&self, ttl: Duration) -> Result<Session> {
        const OPERATION: &str = "open_session";
        let id = SessionId(rand::random());
        let is_one = self.nodes.is_one();
        let life = if is_one { rand::random() } else { self.seeding().life(OPERATION).await? };
        let args = [hex(life), millis(ttl), u8::from(is_one).to_string()];
        let keys = [self.keys.node(), self.keys.session(id)];
        let call = Call::new(OPERATION, &OPEN, keys, args);
        let opened = self
            .nodes
            .ask(
                Lane::Renewals,
                LIMIT,
                OPERATION,
                |_| Some(call.clone()),
                |replies| replies.is_majority(&["open"]),
            )
            .await;
        if !opened.is_majority(&["open"]) {
            return Err(opened.failure());
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
        for (attempt, round) in renewed.into_iter().flatten() {
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
    ) -> Result<Vec<(AttemptId, u64)>> {
        let keys = std::iter::once(self.keys.session(session.id))
            .chain(locks.iter().map(|(_, key, _)| key.clone()));
        let args = std::iter::once(millis(session.granted))
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
                |_| Some(call.clone()),
                |replies| replies.bars_majority(&["ended"]),
            )
            .await;
        if renewed.bars_majority(&["ended"]) {
            return Err(error(ErrorKind::Lost, "renew").with_detail("the session is gone"));
        }
        if !renewed.is_majority(&["ok"]) {
            return Err(renewed.failure());
        }
        if renewed.count(&["ended"]) > 0 {
            // It may have been wiped, and is to have a vote again some time.
            let seeding = self.seeding();
            tokio::spawn(async move { seeding.life("renew").await });
        }
        let mut missing: HashMap<usize, usize> = HashMap::new();
        for (_, reply) in renewed.definite().filter(|(_, reply)| reply.word() == "ok") {
            for at in 1..reply.len() {
                let number = usize::try_from(reply.number(at)?).unwrap_or_default();
                *missing.entry(number).or_default() += 1;
            }
        }
        let confirmed = renewed.count(&["ok"]);
        let quorum = self.nodes.quorum();
        let is_lost =
            |at: usize| confirmed - missing.get(&at).copied().unwrap_or_default() < quorum;
        let lost = (1..).zip(locks).filter(|(at, _)| is_lost(*at));
        Ok(lost.map(|(_, (attempt, _, round))| (*attempt, *round)).collect())
    }
}

fn millis(span: Duration) -> String {
    span.as_millis().to_string()
}

/// How many locks one script renews.
const CHUNK: usize = 100;
/// How long one of several servers may take outside a session.
pub(crate) const LIMIT: Duration = Duration::from_millis(500);
