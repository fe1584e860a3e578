//! One leader's term: when its work has to stop, and what becomes of work that does not.

use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::hold::Hold;
use crate::clock::Moment;
use crate::mutant::Mutant;

/// What the one who leads and the one who watches over it tell each other.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    /// The work has to stop: the grant is lost, is about to be, or is no longer wanted.
    pub(crate) stop: CancellationToken,
    /// The work had its time to stop and is dropped.
    pub(crate) abort: CancellationToken,
    /// The work is gone.
    pub(crate) done: CancellationToken,
}

impl Term {
    /// Begins a term that ends at the latest with `hold`.
    pub(crate) fn new(hold: &Hold) -> Self {
        Self {
            stop: hold.signal().child_token(),
            abort: CancellationToken::new(),
            done: CancellationToken::new(),
        }
    }

    /// Watches over the work of one term until it is gone.
    ///
    /// It is told to stop when `unwanted` completes, when the grant is lost, and, should renewals
    /// fail, `grace` before the deadline, so that it can be over when another begins. It is dropped
    /// at the deadline, or `grace` after it was told when that has passed or is far. If it is not
    /// gone then, for it blocks its thread, the process ends with the code of `overrun`.
    pub(crate) async fn watch(
        self,
        hold: Arc<Hold>,
        grace: Duration,
        overrun: Option<i32>,
        unwanted: impl Future<Output = ()>,
    ) {
        let clock = &hold.context().clock;
        let stop_by = tokio::select! {
            biased;
            () = self.done.cancelled() => return,
            () = hold.signal().cancelled() => clock.now().after(grace),
            deadline = nearly_over(&hold, grace) => deadline,
            () = unwanted => {
                let stop_by = clock.now().after(grace);
                hold.deadline().map_or(stop_by, |deadline| stop_by.min(deadline))
            }
        };
        self.stop.cancel();
        if Mutant::CallbackNotAwaited.is_on() {
            drop(hold.end());
        }
        tokio::select! {
            biased;
            () = self.done.cancelled() => return,
            () = clock.sleep_until(stop_by) => {}
        }
        self.abort.cancel();
        if let Some(code) = overrun {
            let exit = exit(Arc::clone(hold.context()), self.done, code);
            // Not even a subscriber that waits for what the work has locked may hold it up.
            hold.context().threads.on_keeper(exit);
        }
    }
}

/// Ends the process if the work is not gone in time.
async fn exit(context: Arc<Context>, done: CancellationToken, code: i32) {
    tokio::select! {
        biased;
        () = done.cancelled() => {}
        () = context.sleep(TO_DROP) => std::process::exit(code),
    }
}

/// Completes with the deadline when no more than `grace` is left of it.
async fn nearly_over(hold: &Hold, grace: Duration) -> Moment {
    let clock = &hold.context().clock;
    loop {
        let (now, deadline) = (clock.now(), hold.deadline());
        match deadline {
            Some(deadline) if deadline.since(now) > grace => {
                clock.sleep_until(deadline.before(grace)).await;
            }
            Some(deadline) => return deadline,
            None => return now.after(grace),
        }
    }
}

/// How long it may take a task that was told to drop its work to do so.
const TO_DROP: Duration = Duration::from_millis(500);
