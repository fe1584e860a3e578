//! Changes to the entry of a grant: a downgrade, a leader's value.

use std::sync::Arc;

use super::hold::Hold;
use crate::clock::limited;
use crate::error::{Error, ErrorKind, Result};
use crate::loss::LossReason;

/// What is to be changed.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// From exclusive to shared.
    Downgrade,
    /// What observers see of the holder.
    Publish(String),
}

/// Asks until the store has answered, or the grant has ended. The request may arrive more than once.
pub(crate) async fn change(hold: Arc<Hold>, change: Change) -> Result<()> {
    let operation = match change {
        Change::Downgrade => "downgrade",
        Change::Publish(_) => "publish",
    };
    let ended = async {
        hold.signal().cancelled().await;
        hold.loss().unwrap_or(LossReason::Expired)
    };
    tokio::select! {
        biased;
        answer = repeat(&hold, operation, &change) => answer.map_err(|error| match error.key() {
            Some(_) => error,
            None => error.with_key(hold.attempt().name.as_str()),
        }),
        reason = ended => Err(lost(&hold, operation, reason)),
    }
}

async fn repeat(hold: &Arc<Hold>, operation: &'static str, change: &Change) -> Result<()> {
    let (context, live) = (hold.context(), hold.session());
    let (session, attempt, entry) = (&live.session, hold.attempt(), &hold.entry);
    let mut backoff = context.backoff(session.granted);
    loop {
        if let Some(reason) = hold.loss() {
            return Err(lost(hold, operation, reason));
        }
        let request = match change {
            Change::Downgrade => context.backend.convert(session, attempt, entry),
            Change::Publish(value) => context.backend.publish(session, attempt, entry, value),
        };
        match limited(&*context.clock, session.request_timeout, request).await {
            Some(Err(error)) if error.kind() == ErrorKind::Lost => {
                hold.evicted();
                return Err(error);
            }
            Some(Err(error)) if error.is_retryable() => {
                tracing::debug!(%error, operation, "tried again");
            }
            Some(answer) => return answer,
            None => tracing::debug!(operation, "went unanswered and is repeated"),
        }
        context.pause(&mut backoff).await;
    }
}

fn lost(hold: &Hold, operation: &'static str, reason: LossReason) -> Error {
    let error = hold.context().error(ErrorKind::Lost, operation);
    let error = error.with_key(hold.attempt().name.as_str());
    error.with_detail(format!("{reason:?}: nothing is held any more"))
}
