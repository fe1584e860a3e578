//! Waiting for what has to happen, with a bound and with words for when it does not.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use portunus_core::election::{Leader, Observe};

/// How long anything may take that should take next to no time: a busy machine is no fault.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);

/// Asks again and again until the answer is `Ok`; fails with the last `Err` after `limit`.
pub(super) async fn eventually<T, E: Debug>(
    limit: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let mut last = None;
    let asking = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(answer) => last = Some(answer),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(limit, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within {limit:?}: {what}; last seen: {last:?}"),
    }
}

/// Awaits `future`; fails after `limit`.
pub(super) async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}

/// Polls `future` at most `polls` times, each when it asks for it, and drops it where it then is.
/// `None` when it was dropped; `Err` when it asked for no further poll within `quiet`.
pub(super) async fn poll_times<F: Future>(
    polls: usize,
    quiet: Duration,
    future: F,
) -> Result<Option<F::Output>, ()> {
    let mut future = pin!(future);
    let mut left = polls;
    let polling = poll_fn(|cx| {
        let Some(next) = left.checked_sub(1) else { return Poll::Ready(None) };
        left = next;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    tokio::time::timeout(quiet, polling).await.map_err(drop)
}

/// Waits until an observer sees this value.
pub(super) async fn shown(seen: &mut Observe, value: &str) -> Leader {
    passed(seen, |leader| leader.is_some_and(|leader| leader.value == value)).await.1.unwrap()
}

/// Waits until an observer sees that nobody leads.
pub(super) async fn nobody(seen: &mut Observe) {
    passed(seen, |leader| leader.is_none()).await;
}

/// Waits until an observer sees a state; returns the values seen before it, and it. What lies
/// between two looks may be left out, but terms never go back.
pub(super) async fn passed(
    seen: &mut Observe,
    wanted: impl Fn(Option<&Leader>) -> bool + Send + Sync,
) -> (Vec<String>, Option<Leader>) {
    let (mut values, mut highest) = (Vec::new(), None);
    let looking = async {
        loop {
            let leader = seen.next().await.expect("the stream goes on").unwrap();
            if let Some(leader) = &leader {
                assert!(highest.is_none_or(|before| before <= leader.term), "{leader:?}");
                highest = Some(leader.term.clone());
            }
            if wanted(leader.as_ref()) {
                return leader;
            }
            values.extend(leader.map(|leader| leader.value));
        }
    };
    let found = within(2 * PATIENCE, "the state is seen", looking).await;
    (values, found)
}
