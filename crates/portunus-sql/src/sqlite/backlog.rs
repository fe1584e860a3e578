//! Requests that wait for their turn, but for those whose callers have gone: while a disk hangs, callers
//! give up and ask again, and what they gave up must not pile up.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Something that waits.
pub(super) trait Wanted {
    /// Whether somebody still waits for it.
    fn is_wanted(&self) -> bool;
}

/// The requests of one line, in the order in which they came.
#[derive(Debug)]
pub(super) struct Backlog<R> {
    state: Mutex<State<R>>,
    came: Condvar,
    /// How many may be wanted at a time.
    limit: usize,
}

#[derive(Debug)]
struct State<R> {
    waiting: VecDeque<R>,
    /// At how many to look for those that are not wanted: at twice as many as there were after the last
    /// look, so that a request costs the same however many wait.
    sweep_at: usize,
    is_served: bool,
    is_over: bool,
}

/// How a request was taken.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Taken {
    /// Somebody serves.
    Queued,
    /// Nobody serves yet: the caller is to see to it.
    Unserved,
    /// Too many are wanted.
    Full,
}

impl<R: Wanted> Backlog<R> {
    pub(super) fn new(limit: usize) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            sweep_at: FEW.min(limit),
            is_served: false,
            is_over: false,
        };
        Self { state: Mutex::new(state), came: Condvar::new(), limit }
    }

    pub(super) fn push(&self, request: R) -> Taken {
        let mut unwanted = VecDeque::new();
        let mut state = self.state();
        if state.waiting.len() >= state.sweep_at {
            let all = std::mem::take(&mut state.waiting);
            (state.waiting, unwanted) = all.into_iter().partition(Wanted::is_wanted);
            state.sweep_at = (2 * state.waiting.len()).max(FEW).min(self.limit);
        }
        let taken = if state.waiting.len() >= self.limit {
            Taken::Full
        } else {
            state.waiting.push_back(request);
            if state.is_served { Taken::Queued } else { Taken::Unserved }
        };
        drop(state);
        self.came.notify_one();
        // What they hold is nothing to be dropped under a lock.
        drop(unwanted);
        taken
    }

    /// Serves until [`end`](Self::end), one after the other; what nobody wants is not begun. A panic in
    /// `serve` takes along those that wait: their callers are told that it is unknown what became of them.
    pub(super) fn serve(&self, mut serve: impl FnMut(R)) {
        let _serving = Serving(self);
        while let Some(request) = self.next() {
            if request.is_wanted() {
                serve(request);
            }
        }
    }

    /// Says that somebody will serve, if nobody does.
    pub(super) fn begin(&self) -> bool {
        !std::mem::replace(&mut self.state().is_served, true)
    }

    /// Nobody serves any more: those that wait are dropped.
    pub(super) fn fail(&self) {
        let mut state = self.state();
        state.is_served = false;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        self.state().is_over = true;
        self.came.notify_all();
    }

    fn next(&self) -> Option<R> {
        let mut state = self.state();
        loop {
            if let Some(request) = state.waiting.pop_front() {
                return Some(request);
            }
            if state.is_over {
                return None;
            }
            state = self.came.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That somebody serves.
struct Serving<'a, R: Wanted>(&'a Backlog<R>);

impl<R: Wanted> Drop for Serving<'_, R> {
    fn drop(&mut self) {
        self.0.fail();
    }
}

/// Fewer than these are not worth a look.
const FEW: usize = 64;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Debug)]
    struct Numbered(u32, Arc<AtomicBool>);

    impl Wanted for Numbered {
        fn is_wanted(&self) -> bool {
            self.1.load(Ordering::SeqCst)
        }
    }

    fn wanted(is: bool) -> Arc<AtomicBool> {
        Arc::new(AtomicBool::new(is))
    }

    #[test]
    fn what_nobody_wants_is_not_kept() {
        let backlog = Backlog::new(1 << 16);
        let kept = wanted(true);
        let mut most = 0;
        for number in 0..100_000 {
            // One in a thousand has a caller who stays.
            let request = if number % 1000 == 0 { Arc::clone(&kept) } else { wanted(false) };
            assert_ne!(backlog.push(Numbered(number, request)), Taken::Full);
            most = most.max(backlog.state().waiting.len());
        }
        assert!(most <= 4 * 100, "{most} were kept at a time");
        backlog.end();
        let mut served = Vec::new();
        backlog.serve(|Numbered(number, _)| served.push(number));
        assert_eq!(served, (0..100_000).step_by(1000).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_are_taken_than_the_limit_until_one_is_given_up() {
        let backlog = Backlog::new(100);
        let callers: Vec<_> = (0..100).map(|_| wanted(true)).collect();
        for (number, caller) in (0..).zip(&callers) {
            assert_eq!(backlog.push(Numbered(number, Arc::clone(caller))), Taken::Unserved);
        }
        assert_eq!(backlog.push(Numbered(100, wanted(true))), Taken::Full);
        callers[7].store(false, Ordering::SeqCst);
        assert_eq!(backlog.push(Numbered(101, wanted(true))), Taken::Unserved);
        assert_eq!(backlog.push(Numbered(102, wanted(true))), Taken::Full);
    }
}
