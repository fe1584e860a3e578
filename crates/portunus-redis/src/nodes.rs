//! All servers: one request to each of them at once, and when enough have answered.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use portunus_core::beat::Beats;
use portunus_core::clock::{Clock, Moment};
use portunus_core::error::{Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::doubts::Doubts;
use crate::error::error;
use crate::node::{Lane, Node};
use crate::script::{Call, Reply};

/// The servers, and how long one of them may take.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: Vec<Arc<Node>>,
    clock: Arc<dyn Clock>,
    beats: Beats,
    chores: Vec<Arc<Semaphore>>,
    mending: Arc<Semaphore>,
}

/// The answers of all servers, by their number; `None` of those that were not waited for.
#[derive(Debug)]
pub(crate) struct Replies {
    operation: &'static str,
    quorum: usize,
    pub(crate) by_node: Vec<Option<Result<Reply>>>,
}

impl Nodes {
    pub(crate) fn new(nodes: Vec<Arc<Node>>, clock: Arc<dyn Clock>) -> Self {
        let chores = nodes.iter().map(|_| Arc::new(Semaphore::new(MAX_CHORES))).collect();
        let mending = Arc::new(Semaphore::new(1));
        Self { nodes, beats: Beats::new(Arc::clone(&clock)), clock, chores, mending }
    }

    pub(crate) fn all(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn is_one(&self) -> bool {
        self.nodes.len() == 1
    }

    /// How many servers are a majority.
    pub(crate) fn quorum(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    /// Leave for one more task in the background with a server. When there are too many, the store's expiry
    /// has to do; a server that is down takes none from the others.
    pub(crate) fn chore(&self, at: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.chores.get(at)?).try_acquire_owned().ok()
    }

    /// Leave to bring a server back that lost its state; one at a time has it.
    pub(crate) fn mending(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.mending).try_acquire_owned().ok()
    }

    /// The present moment of the injected clock.
    pub(crate) fn stamp(&self) -> Moment {
        self.beats.stamp()
    }

    pub(crate) fn is_past(&self, moment: Moment) -> bool {
        self.beats.is_past(moment)
    }

    pub(crate) async fn sleep(&self, span: Duration) {
        self.clock.sleep_until(self.stamp().after(span)).await;
    }

    /// Asks every server at once, and waits until all have answered, `enough` says so, or `limit` is
    /// over. One server alone is given no limit here: the engine has one. `doubts` notes what may make an
    /// entry and is not answered.
    pub(crate) async fn ask(
        &self,
        lane: Lane,
        limit: Duration,
        operation: &'static str,
        doubts: Option<&Arc<Doubts>>,
        call: impl Fn(usize) -> Option<Call> + Sync,
        enough: impl Fn(&Replies) -> bool,
    ) -> Replies {
        let by_node: Vec<_> = self.nodes.iter().map(|_| None).collect();
        let mut replies = Replies { operation, quorum: self.quorum(), by_node };
        if let [node] = &*self.nodes
            && node.place().is_fixed()
            && let Some(call) = call(0)
        {
            let sent = doubts.map(|doubts| doubts.send(0));
            replies.by_node[0] = Some(node.run(lane, call, sent, pending()).await);
            return replies;
        }
        // One that has to be found first takes longer, and no other answers in its place.
        let limit = if self.is_one() { limit.max(TO_FIND) } else { limit };
        let over = self.stamp().after(limit);
        // Tasks of their own: those that are not waited for reach their server all the same, so that a lock
        // stands on more than a bare majority. And a master that is silent is given up some time, though
        // nobody waits that long, so that another one is found.
        let asking = self.nodes.iter().enumerate().filter_map(|(at, node)| {
            let (call, node) = (call(at)?, Arc::clone(node));
            let sent = doubts.map(|doubts| doubts.send(at));
            let until = self.clock.sleep_until(over);
            Some(tokio::spawn(async move { (at, node.run(lane, call, sent, until).await) }))
        });
        let mut asking: FuturesUnordered<_> = asking.collect();
        let mut over = self.clock.sleep_until(over);
        // There may be nobody to wait for.
        while !enough(&replies) {
            let answer = tokio::select! {
                biased;
                answer = asking.next() => answer,
                () = &mut over => None,
            };
            let Some(Ok((at, answer))) = answer else { return replies };
            replies.by_node[at] = Some(answer);
        }
        replies
    }
}

impl Replies {
    /// The definite answers, with the number of the server.
    pub(crate) fn definite(&self) -> impl Iterator<Item = (usize, &Reply)> {
        let answers = self.by_node.iter().enumerate();
        answers.filter_map(|(at, answer)| Some((at, answer.as_ref()?.as_ref().ok()?)))
    }

    /// How many answered with one of these words.
    pub(crate) fn count(&self, words: &[&str]) -> usize {
        self.definite().filter(|(_, reply)| words.contains(&reply.word())).count()
    }

    pub(crate) fn is_majority(&self, words: &[&str]) -> bool {
        self.count(words) >= self.quorum
    }

    /// Whether so many answered with these words that the rest is no majority.
    pub(crate) fn bars_majority(&self, words: &[&str]) -> bool {
        self.count(words) > self.by_node.len() - self.quorum
    }

    /// Whether some server may still do what it was asked, or may have done it.
    pub(crate) fn in_doubt(&self) -> bool {
        self.by_node.iter().any(|answer| match answer {
            None => true,
            Some(Err(error)) => error.kind() != ErrorKind::Unavailable,
            Some(Ok(_)) => false,
        })
    }

    /// Why there was no majority, when those who said one of these words did what they were asked:
    /// then it is done in part, and may be in all.
    pub(crate) fn failure_after(&self, done: &[&str]) -> Error {
        let failure = self.failure();
        if failure.kind() != ErrorKind::Unavailable || self.count(done) == 0 {
            return failure;
        }
        error(ErrorKind::Unconfirmed, self.operation)
            .with_detail("done on a minority of the servers")
            .with_source(failure)
    }

    /// Why there was no majority.
    pub(crate) fn failure(&self) -> Error {
        let (operation, answers) = (self.operation, self.by_node.iter().flatten());
        let failed: Vec<_> = answers.filter_map(|answer| answer.as_ref().err()).collect();
        if let ([error], true) = (&*failed, self.by_node.len() == 1) {
            return (*error).clone();
        }
        if let Some(garbled) =
            self.definite().map(|(_, reply)| reply).find(|reply| matches!(reply.word(), "garbled"))
        {
            return garbled.garbled();
        }
        if let Some(refused) = failed.iter().find(|error| !error.is_retryable()) {
            return (*refused).clone();
        }
        if self.bars_majority(&["unseeded", "foreign"]) {
            return error(ErrorKind::Regression, operation).with_detail(UNSEEDED);
        }
        let kind = if self.in_doubt() { ErrorKind::Unconfirmed } else { ErrorKind::Unavailable };
        let error = error(kind, operation);
        let error = error.with_detail(format!(
            "{} of {} servers answered, and {} are a majority",
            self.definite().count(),
            self.by_node.len(),
            self.quorum
        ));
        match failed.first() {
            Some(cause) => error.with_source((*cause).clone()),
            None => error,
        }
    }
}

/// How many tasks may clean up a server in the background at a time.
const MAX_CHORES: usize = 256;

/// What it means that a counter is gone.
pub(crate) const UNSEEDED: &str = "the counter of the tokens is gone, or of another life of the \
    store: it was wiped, evicted or restored, or failed over; nothing is held";
/// How long a master may take to be found and connected to.
const TO_FIND: Duration = Duration::from_secs(3);
