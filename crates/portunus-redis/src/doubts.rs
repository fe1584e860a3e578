//! What was sent for an attempt and is not answered, server by server: it may arrive there late.
//!
//! A server carries out what comes by one connection in its order. Connections are numbered, a session
//! keeps the highest number that it was asked by, and what comes by a lower one does nothing
//! (`is_late` in `scripts/records.lua`). So what went unanswered needs a tombstone only while it is under way,
//! or was sent by a newer connection than the request that ends the attempt.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The unanswered requests of one attempt.
#[derive(Debug)]
pub(crate) struct Doubts {
    by_node: Mutex<Vec<Doubt>>,
    landed: Notify,
}

/// A request from before it is sent until it is answered; dropped without an answer, it is in doubt.
#[derive(Debug)]
pub(crate) struct Sent {
    doubts: Arc<Doubts>,
    at: usize,
    /// The connection that it went by, as soon as there is one.
    by: Option<u64>,
    is_answered: bool,
}

#[derive(Clone, Debug, Default)]
struct Doubt {
    under_way: usize,
    /// The newest connection on which an answer was lost; 0 for none.
    lost: u64,
    has_lost: bool,
}

impl Doubts {
    pub(crate) fn new(nodes: usize) -> Arc<Self> {
        let by_node = Mutex::new(vec![Doubt::default(); nodes]);
        Arc::new(Self { by_node, landed: Notify::new() })
    }

    /// Notes a request before it leaves.
    pub(crate) fn send(self: &Arc<Self>, at: usize) -> Sent {
        if let Some(doubt) = self.by_node().get_mut(at) {
            doubt.under_way += 1;
        }
        Sent { doubts: Arc::clone(self), at, by: None, is_answered: false }
    }

    /// The newest connection to a server that may still bring a request; 0 for none.
    pub(crate) fn newest(&self, at: usize) -> u64 {
        match self.by_node().get(at) {
            Some(doubt) if doubt.under_way > 0 => UNKNOWN,
            Some(doubt) => doubt.lost,
            None => 0,
        }
    }

    /// Whether each request to a server so far was answered.
    pub(crate) fn is_spotless(&self, at: usize) -> bool {
        self.by_node().get(at).is_some_and(|doubt| doubt.under_way == 0 && !doubt.has_lost)
    }

    /// Waits until nothing is under way to a server; what was lost stays lost.
    pub(crate) async fn landed(&self, at: usize) {
        loop {
            let mut landed = std::pin::pin!(self.landed.notified());
            landed.as_mut().enable();
            if self.by_node().get(at).is_none_or(|doubt| doubt.under_way == 0) {
                return;
            }
            landed.await;
        }
    }

    fn by_node(&self) -> MutexGuard<'_, Vec<Doubt>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sent {
    /// It leaves now, by this connection.
    pub(crate) fn leaves(&mut self, by: u64) {
        self.by = Some(by);
    }

    /// The server said what it did with it.
    pub(crate) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(doubt) = self.doubts.by_node().get_mut(self.at) {
            doubt.under_way -= 1;
            match self.by {
                // The session has heard of this connection, and bars those before it.
                Some(by) if self.is_answered && by > doubt.lost => doubt.lost = 0,
                Some(by) if !self.is_answered => {
                    doubt.lost = doubt.lost.max(by);
                    doubt.has_lost = true;
                }
                _ => {}
            }
        }
        self.doubts.landed.notify_waiters();
    }
}

/// The number of a first connection.
pub(crate) const OLDEST: u64 = 1;
/// A number above every connection's.
pub(crate) const UNKNOWN: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_is_of_one_server_and_ends_with_an_answer_by_a_later_connection() {
        let doubts = Doubts::new(2);
        // Never sent, for there was no connection.
        drop(doubts.send(0));
        assert_eq!(doubts.newest(0), 0);
        assert!(doubts.is_spotless(0));
        let mut first = doubts.send(0);
        assert_eq!((doubts.newest(0), doubts.newest(1)), (UNKNOWN, 0));
        first.leaves(3);
        drop(first);
        assert_eq!((doubts.newest(0), doubts.newest(1)), (3, 0));
        for (by, newest) in [(3, 3), (4, 0)] {
            let mut next = doubts.send(0);
            next.leaves(by);
            next.answered();
            assert_eq!(doubts.newest(0), newest, "answered by {by}");
        }
        assert!(!doubts.is_spotless(0) && doubts.is_spotless(1));
    }
}
