//! Waiting for a change: of the holder before, or of the own entry.

use std::time::Duration;

use portunus_core::backend::{Attempt, AttemptId, Session, Turn};
use portunus_core::error::{ErrorKind, Result};

use crate::attempts::Own;
use crate::backend::Redis;
use crate::entry::Lock;
use crate::error::error;
use crate::node::Lane;
use crate::nodes::Replies;
use crate::script::{Call, STAND};

impl Redis {
    /// Completes when a look may answer otherwise than `turn`.
    pub(crate) async fn watch(
        &self,
        session: &Session,
        attempt: &Attempt,
        turn: &Turn,
    ) -> Result<()> {
        let holds = match turn {
            Turn::Held { .. } => true,
            Turn::Waiting { .. } => false,
            Turn::Lost => return Ok(()),
        };
        let attempts = &self.attempts;
        let was_split = attempts.change(attempt.id, |own| std::mem::take(&mut own.is_split));
        if was_split == Some(true) {
            // The engine pauses by chance, so that one of those who contend comes first.
            return Err(
                error(ErrorKind::Unavailable, "changed").with_detail("the votes were split")
            );
        }
        let own = self.news.listen(self.keys.session(session.id), None);
        let lock = (!holds)
            .then(|| self.news.listen(self.keys.channel(&attempt.name), Some(&attempt.name)));
        own.ready(session.request_timeout).await;
        if let Some(lock) = &lock {
            lock.ready(session.request_timeout).await;
        }
        let mut is_checked = false;
        loop {
            let Some(known) = attempts.get(attempt.id) else { return Ok(()) };
            let mut bell = std::pin::pin!(known.bell.notified());
            bell.as_mut().enable();
            let looks = |known: &Own| known.is_gone || (known.strays > 0 && !holds);
            let Some(known) = attempts.get(attempt.id).filter(|known| !looks(known)) else {
                return Ok(());
            };
            let is_next = holds || attempts.is_next(session.id, attempt);
            let mut bound = None;
            if is_next || !is_checked {
                is_checked = true;
                let round = if holds { known.granted.map_or(0, |(round, _)| round) } else { 0 };
                let stands = self.stands(session, attempt, round, known.position).await?;
                match self.wait_for(attempt.id, &stands, holds, session.granted)? {
                    None => return Ok(()),
                    // Others of this process are woken first.
                    Some(_) if !is_next => {}
                    Some(wait) => bound = (!holds).then_some(wait),
                }
            }
            let Some(bound) = bound else {
                bell.await;
                if holds {
                    return Ok(());
                }
                continue;
            };
            tokio::select! {
                biased;
                () = bell => if !self.nodes.is_one() {
                    // One server let go; who takes it now has to find a majority free.
                    is_checked = false;
                    continue;
                },
                () = self.nodes.sleep(bound) => {}
            }
            return Ok(());
        }
    }

    /// Asks whether an entry stands.
    pub(crate) async fn stands(
        &self,
        session: &Session,
        attempt: &Attempt,
        round: u64,
        position: u64,
    ) -> Result<Replies> {
        let told = self.ask_standing(session, attempt, round, position).await;
        if is_settled(&told) { Ok(told) } else { Err(told.failure()) }
    }

    /// The same as far as servers answer.
    pub(crate) async fn ask_standing(
        &self,
        session: &Session,
        attempt: &Attempt,
        round: u64,
        position: u64,
    ) -> Replies {
        let keys = [self.keys.lock(&attempt.name), self.keys.line(&attempt.name)];
        let args = [attempt.id.to_string(), round.to_string(), position.to_string()];
        let call = Call::new("look", &STAND, keys, args);
        let limit = session.request_timeout / 2;
        let call = |_| Some(call.clone());
        self.nodes.ask(Lane::Requests, limit, "look", None, call, is_settled).await
    }

    /// How long nothing may happen by itself; `None` when something has.
    fn wait_for(
        &self,
        attempt: AttemptId,
        stands: &Replies,
        holds: bool,
        ttl: Duration,
    ) -> Result<Option<Duration>> {
        if holds {
            return Ok(stands.is_majority(&["held"]).then_some(ttl));
        }
        if !stands.is_majority(&["waits"]) {
            return Ok(None);
        }
        let (mut free, mut wait) = (0, ttl);
        for (_, reply) in stands.definite().filter(|(_, reply)| reply.word() == "waits") {
            let holder = reply.holder(1)?.map(|(value, left)| (Lock::read(value), left));
            let left = match holder {
                // What an earlier round of its own left is no hindrance to it.
                Some((Some(lock), _)) if lock.attempt == attempt => {
                    free += 1;
                    continue;
                }
                None => {
                    free += 1;
                    continue;
                }
                Some((Some(_), left)) => left.unwrap_or(FOREIGN),
                // Another client tells nobody that it goes.
                Some((None, left)) => left.unwrap_or(FOREIGN).min(FOREIGN),
            };
            wait = wait.min(left + ROUNDING);
        }
        Ok((free < self.nodes.quorum()).then_some(wait))
    }
}

/// Whether it is decided what became of an entry.
fn is_settled(told: &Replies) -> bool {
    told.is_majority(&["held"]) || told.is_majority(&["waits"]) || told.bars_majority(&["absent"])
}

/// How often one waits who waits for another kind of client.
const FOREIGN: Duration = Duration::from_millis(250);
/// The server counts in milliseconds, and may be about to delete.
const ROUNDING: Duration = Duration::from_millis(2);
