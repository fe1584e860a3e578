//! Waiting for a change: of the holder before, or of the own entry.

use std::time::Duration;

use portunus_core::backend::{Attempt, Session, Turn};
use portunus_core::error::{ErrorKind, Result};

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
            let Some(known) = attempts.get(attempt.id).filter(|known| !known.is_gone) else {
                return Ok(());
            };
            let is_next = holds || attempts.is_next(session.id, attempt);
            let mut bound = None;
            if is_next || !is_checked {
                is_checked = true;
                let round = if holds { known.granted.map_or(0, |(round, _)| round) } else { 0 };
                let stands = self.stands(session, attempt, round, known.position).await?;
                match self.wait_for(&stands, holds, session.granted)? {
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
                () = bell => {}
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
        let keys = [self.keys.lock(&attempt.name), self.keys.line(&attempt.name)];
        let args = [attempt.id.to_string(), round.to_string(), position.to_string()];
        let call = Call::new("look", &STAND, keys, args);
        let enough = |replies: &Replies| {
            replies.is_majority(&["held"])
                || replies.is_majority(&["waits"])
                || replies.bars_majority(&["absent"])
        };
        let limit = session.request_timeout / 2;
        let replies =
            self.nodes.ask(Lane::Requests, limit, "look", |_| Some(call.clone()), enough).await;
        if enough(&replies) { Ok(replies) } else { Err(replies.failure()) }
    }

    /// How long nothing may happen by itself; `None` when something has.
    fn wait_for(&self, stands: &Replies, holds: bool, ttl: Duration) -> Result<Option<Duration>> {
        if holds {
            return Ok(stands.is_majority(&["held"]).then_some(ttl));
        }
        if !stands.is_majority(&["waits"]) {
            return Ok(None);
        }
        let (mut free, mut wait) = (0, ttl);
        for (_, reply) in stands.definite().filter(|(_, reply)| reply.word() == "waits") {
            let value = reply.bytes(1)?;
            if value.is_empty() {
                free += 1;
                continue;
            }
            let left = reply.millis(2)?.map_or(FOREIGN, Duration::from_millis);
            // Another client tells nobody that it goes.
            let left = if Lock::read(value).is_none() { left.min(FOREIGN) } else { left };
            wait = wait.min(left + ROUNDING);
        }
        Ok((free < self.nodes.quorum()).then_some(wait))
    }
}

/// How often one waits who waits for another kind of client.
const FOREIGN: Duration = Duration::from_millis(250);
/// The server counts in milliseconds, and may be about to delete.
const ROUNDING: Duration = Duration::from_millis(2);
