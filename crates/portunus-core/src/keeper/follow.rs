//! The head of a queue, followed across broken connections.
//!
//! What the store pushes is trusted for speed, never for liveness: after min(TTL, 10 s) of silence
//! the store is asked anew, from the last position that was seen.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::{StreamExt, stream};
use tokio::sync::watch::{self, Sender};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::engine::Engine;
use super::waiters::interval;
use crate::backend::{BoxStream, Observation};
use crate::clock::limited;
use crate::error::{Error, ErrorKind, Result};
use crate::name::LockName;

/// Observations of one lock, at positions that never go back: the newest each time, however seldom
/// it is polled. Ends after an error, and with the manager.
pub(crate) struct Following {
    seen: BoxStream<Result<Observation>>,
    task: JoinHandle<()>,
}

/// The newest observation; none before the first.
type Newest = Option<Result<Observation>>;

impl Following {
    pub(crate) fn start(engine: &Engine, name: LockName) -> Self {
        let (tell, seen) = watch::channel(None);
        let (context, closing) = (Arc::clone(&engine.context), engine.closing.clone());
        let task = engine.context.threads.on_herald(follow(context, closing, name, tell));
        let seen = stream::unfold(seen, |mut seen| async move {
            seen.changed().await.ok()?;
            let newest: Newest = seen.borrow_and_update().clone();
            Some((newest?, seen))
        });
        Self { seen: Box::pin(seen), task }
    }

    pub(crate) fn poll_next(
        &mut self,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Observation>>> {
        self.seen.poll_next_unpin(cx)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    context: Arc<Context>,
    closing: CancellationToken,
    name: LockName,
    tell: Sender<Newest>,
) {
    let error = tokio::select! {
        biased;
        () = closing.cancelled() => return,
        error = observe(&context, &name, &tell) => error,
    };
    tell.send_replace(Some(Err(error)));
}

/// Tells each observation until an error that no repetition mends.
async fn observe(context: &Context, name: &LockName, tell: &Sender<Newest>) -> Error {
    let silence = interval(context);
    let mut since = 0;
    let mut backoff = context.backoff(context.options.ttl);
    'anew: loop {
        let opening = context.backend.follow(name, since);
        match limited(&*context.clock, context.options.connect_timeout, opening).await {
            Some(Ok(mut heads)) => {
                let mut first = true;
                loop {
                    match limited(&*context.clock, silence, heads.next()).await {
                        Some(Some(Ok(head))) => {
                            since = since.max(head.as_of);
                            tell.send_replace(Some(Ok(head)));
                            if !first {
                                // It pushes, so it may be followed anew at once.
                                backoff = context.backoff(context.options.ttl);
                            }
                            first = false;
                        }
                        Some(Some(Err(error))) if !passes(&error) => return error,
                        Some(_) => break,
                        // It says nothing: perhaps because there is nothing to say.
                        None => continue 'anew,
                    }
                }
            }
            Some(Err(error)) if !passes(&error) => return error,
            Some(Err(_)) | None => {}
        }
        context.pause(&mut backoff).await;
    }
}

/// Whether a failure may be over by itself: also that of a session that served to look.
fn passes(error: &Error) -> bool {
    error.is_retryable() || error.kind() == ErrorKind::Lost
}
