//! The end of an attempt, and clean-up that reaches servers which are slow to answer.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Attempt, AttemptId, Session};

use crate::doubts::{Doubts, OLDEST, UNKNOWN};
use crate::keys::Keys;
use crate::node::Lane;
use crate::nodes::Replies;
use crate::round::Rounds;
use crate::script::{Call, LEAVE};

/// An attempt that leaves for good.
#[derive(Clone, Debug)]
pub(crate) struct Parting {
    keys: [String; 3],
    attempt: String,
    doubts: Option<Arc<Doubts>>,
    in_doubt: bool,
}

impl Parting {
    pub(crate) fn new(keys: &Keys, session: &Session, attempt: &Attempt) -> Self {
        let name = &attempt.name;
        Self {
            keys: [keys.session(session.id), keys.lock(name), keys.line(name)],
            attempt: attempt.id.to_string(),
            doubts: None,
            in_doubt: true,
        }
    }

    /// What is known of its unanswered requests; `in_doubt` when there may be others.
    pub(crate) fn known(self, doubts: Option<Arc<Doubts>>, in_doubt: bool) -> Self {
        Self { doubts, in_doubt, ..self }
    }

    /// The newest connection that may still bring a request of it; 0 when each was answered.
    fn newest(&self, at: usize) -> u64 {
        match &self.doubts {
            _ if self.in_doubt => UNKNOWN,
            Some(doubts) if doubts.is_spotless(at) => 0,
            // What was ever lost there is barred by the connection that this goes by, if by nothing else.
            Some(doubts) => doubts.newest(at).max(OLDEST),
            None => OLDEST,
        }
    }

    fn call(&self, newest: u64) -> Call {
        let args = [self.attempt.clone(), newest.to_string()];
        Call::new("leave", &LEAVE, self.keys.clone(), args)
    }
}

impl Rounds {
    /// Withdraws an attempt from the servers that `asked` names. If `is_over` says that this is enough, those
    /// that did not answer are asked again in the background, and a tombstone goes as soon as nothing
    /// can come late any more.
    pub(crate) async fn part(
        &self,
        parting: &Parting,
        limit: Duration,
        asked: impl Fn(usize) -> bool + Sync,
        enough: impl Fn(&Replies) -> bool,
        is_over: impl Fn(&Replies) -> bool,
        session: &Session,
    ) -> Replies {
        let newest: Vec<u64> = (0..self.nodes.all().len()).map(|at| parting.newest(at)).collect();
        let call = |at: usize| asked(at).then(|| parting.call(newest[at]));
        let left = self.nodes.ask(Lane::Requests, limit, "leave", None, call, enough).await;
        if !is_over(&left) {
            return left;
        }
        for (at, newest) in newest.iter().enumerate().filter(|(at, _)| asked(*at)) {
            let is_done = matches!(left.by_node[at], Some(Ok(_)));
            let is_marked = *newest > OLDEST && !parting.in_doubt;
            if !self.nodes.is_one() && (!is_done || is_marked) {
                self.clear(at, parting.clone(), is_done, session.granted);
            }
        }
        left
    }

    /// Asks one server again and again in the background, until it answers or `limit` is over; what is asked for
    /// an attempt, only until that leaves, which does more.
    pub(crate) fn repeat(
        &self,
        at: usize,
        call: Call,
        of: Option<(AttemptId, Arc<Doubts>)>,
        limit: Duration,
    ) {
        let Some(chore) = self.nodes.chore(at) else { return };
        let rounds = self.clone();
        tokio::spawn(async move {
            let _chore = chore;
            let (attempt, doubts) = of.unzip();
            let is_due = || attempt.is_none_or(|attempt| rounds.attempts.stays(attempt));
            let call = || is_due().then(|| call.clone());
            rounds.insist(at, call, doubts.as_ref(), limit).await;
        });
    }

    fn clear(&self, at: usize, parting: Parting, mut is_done: bool, limit: Duration) {
        let Some(chore) = self.nodes.chore(at) else { return };
        let rounds = self.clone();
        tokio::spawn(async move {
            let _chore = chore;
            let call = || Some(parting.call(parting.newest(at)));
            if !is_done {
                is_done = rounds.insist(at, call, None, limit).await;
            }
            let Some(doubts) = parting.doubts.as_ref().filter(|_| is_done && !parting.in_doubt)
            else {
                return;
            };
            let over = rounds.nodes.stamp().after(limit);
            tokio::select! {
                biased;
                () = doubts.landed(at) => {}
                () = rounds.nodes.clock().sleep_until(over) => return,
            }
            rounds.insist(at, call, None, limit).await;
        });
    }

    async fn insist(
        &self,
        at: usize,
        call: impl Fn() -> Option<Call>,
        doubts: Option<&Arc<Doubts>>,
        limit: Duration,
    ) -> bool {
        let nodes = &self.nodes;
        let until = nodes.stamp().after(limit);
        let mut pause = FIRST_PAUSE;
        while !nodes.is_past(until) {
            let (Some(node), Some(call)) = (nodes.all().get(at), call()) else { return false };
            let sent = doubts.map(|doubts| doubts.send(at));
            let over = nodes.clock().sleep_until(until);
            if node.run(Lane::Requests, call, sent, over).await.is_ok() {
                return true;
            }
            nodes.sleep(pause).await;
            pause = (2 * pause).min(limit / 8).min(LAST_PAUSE);
        }
        false
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ever_lost_is_barred_whatever_was_answered_later() {
        let doubts = Doubts::new(1);
        let (keys, attempt) = Default::default();
        let parting = Parting { keys, attempt, doubts: Some(Arc::clone(&doubts)), in_doubt: false };
        assert_eq!(parting.newest(0), 0);
        for (by, is_answered, newest) in [(3, true, 0), (3, false, 3), (4, true, OLDEST)] {
            let mut sent = doubts.send(0);
            assert_eq!(parting.newest(0), UNKNOWN);
            sent.leaves(by);
            if is_answered {
                sent.answered();
            } else {
                drop(sent);
            }
            assert_eq!(parting.newest(0), newest, "by {by}, answered: {is_answered}");
        }
    }
}
