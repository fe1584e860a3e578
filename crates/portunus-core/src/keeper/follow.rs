//! The head of a queue, followed across broken connections.
//!
//! What the store pushes is trusted for speed, never for liveness: after min(TTL, 10 s) of silence
//! the store is asked anew, from the last position that was seen.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::StreamExt;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::engine::Engine;
use super::waiters::interval;
use crate::backend::Observation;
use crate::clock::limited;
use crate::error::{Error, Result};
use crate::name::LockName;

/// Observations of one lock, at positions that never go back. Ends after an error, and with the
/// manager.
#[derive(Debug)]
pub(crate) struct Following {
    seen: Receiver<Result<Observation>>,
    task: JoinHandle<()>,
}

impl Following {
    pub(crate) fn start(engine: &Engine, name: LockName) -> Self {
        let (tell, seen) = mpsc::channel(1);
        let (context, closing) = (Arc::clone(&engine.context), engine.closing.clone());
        let task = engine.context.threads.on_herald(follow(context, closing, name, tell));
        Self { seen, task }
    }

    pub(crate) fn poll_next(
        &mut self,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Observation>>> {
        self.seen.poll_recv(cx)
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
    tell: Sender<Result<Observation>>,
) {
    let failed = tokio::select! {
        biased;
        () = closing.cancelled() => return,
        failed = observe(&context, &name, &tell) => failed,
    };
    if let Some(error) = failed {
        // Nobody listens any more if this fails.
        let _ = tell.send(Err(error)).await;
    }
}

/// Tells each observation; ends with an error that no repetition mends, or when nobody listens.
async fn observe(
    context: &Context,
    name: &LockName,
    tell: &Sender<Result<Observation>>,
) -> Option<Error> {
    let silence = interval(context);
    let mut since = 0;
    let mut backoff = context.backoff(context.options.ttl);
    loop {
        let opening = context.backend.follow(name, since);
        match limited(&*context.clock, context.options.connect_timeout, opening).await {
            Some(Ok(mut heads)) => loop {
                match limited(&*context.clock, silence, heads.next()).await {
                    Some(Some(Ok(head))) => {
                        since = since.max(head.as_of);
                        backoff = context.backoff(context.options.ttl);
                        if tell.send(Ok(head)).await.is_err() {
                            return None;
                        }
                    }
                    Some(Some(Err(error))) if passes(&error) => break,
                    Some(Some(Err(error))) => return Some(error),
                    // It ended, or says nothing: perhaps because there is nothing to say.
                    Some(None) | None => break,
                }
            },
            Some(Err(error)) if !passes(&error) => return Some(error),
            Some(Err(_)) | None => {}
        }
        context.pause(&mut backoff).await;
    }
}

/// Whether a failure may be over by itself: also that of a session that served to look.
fn passes(error: &Error) -> bool {
    error.is_retryable() || error.kind() == crate::error::ErrorKind::Lost
}
