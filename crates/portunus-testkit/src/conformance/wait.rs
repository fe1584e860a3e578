//! Waiting for what has to happen, with a bound and with words for when it does not.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

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
