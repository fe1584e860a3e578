//! An election as a service lives through it, term after term.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Election, Leadership};
use crate::chance::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Released;
use crate::token::FencingToken;

/// A service's part in an election; from [`Election::run`]. Await it.
///
/// - `stop_grace`: a tenth of the time to live
/// - `exit_process_on_overrun`: no
/// - `on_transition`: nothing
/// - `until`: for ever
#[must_use = "it does nothing unless it is awaited"]
pub struct Run<'a, F> {
    election: Election,
    value: String,
    work: F,
    stop_grace: Option<Duration>,
    overrun: Option<i32>,
    on_transition: Box<dyn FnMut(Transition) + Send + 'a>,
    shutdown: CancellationToken,
}

/// What happens to a candidate, as [`Run::on_transition`] tells it.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum Transition {
    /// It leads; its work begins.
    Elected(FencingToken),
    /// Its work has ended, and with it the term.
    Resigned {
        /// The term that ended.
        term: FencingToken,
        /// Whether it led until then; an error when the store did not confirm the end, and the next
        /// is elected later.
        released: Result<Released>,
    },
    /// A campaign failed; the next one follows.
    Failed(Error),
}

impl<'a, F> Run<'a, F> {
    pub(super) fn new(election: Election, value: String, work: F) -> Self {
        Self {
            election,
            value,
            work,
            stop_grace: None,
            overrun: None,
            on_transition: Box::new(|_| {}),
            shutdown: CancellationToken::new(),
        }
    }

    /// How long work that is told to stop may take. If renewals fail it is told that long before the
    /// leadership is lost; at most what is then left of it, which differs between stores.
    pub fn stop_grace(mut self, span: Duration) -> Self {
        self.stop_grace = Some(span);
        self
    }

    /// Ends the process with this code when work could not be dropped in time, because it blocks its
    /// thread. Another may lead by then.
    pub fn exit_process_on_overrun(mut self, code: i32) -> Self {
        self.overrun = Some(code);
        self
    }

    /// Calls `tell` at each change, on the task that awaits this.
    pub fn on_transition(mut self, tell: impl FnMut(Transition) + Send + 'a) -> Self {
        self.on_transition = Box::new(tell);
        self
    }

    /// Ends when `shutdown` is cancelled: work is told to stop, then the leadership is given up.
    pub fn until(mut self, shutdown: CancellationToken) -> Self {
        self.shutdown = shutdown;
        self
    }
}

/// # Errors
///
/// - [`ErrorKind::Invalid`]: the value is too long, or `stop_grace` is longer than what is left of
///   the validity when one renewal has failed; the error says how long that is.
/// - [`ErrorKind::Unavailable`]: the manager was shut down.
/// - [`ErrorKind::Conflict`], [`ErrorKind::Denied`], [`ErrorKind::Protocol`],
///   [`ErrorKind::Regression`], [`ErrorKind::Unsupported`]: what no repetition mends.
///
/// In each case no work runs, and nothing is led.
///
/// # Cancel safety
///
/// Dropping the future drops the work where it stands, then resigns in the background.
impl<'a, F, Fut> IntoFuture for Run<'a, F>
where
    F: FnMut(Arc<Leadership>) -> Fut + Send + 'a,
    Fut: Future<Output = ()> + Send + 'a,
{
    type Output = Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.terms())
    }
}

impl<F, Fut> Run<'_, F>
where
    F: FnMut(Arc<Leadership>) -> Fut + Send,
    Fut: Future<Output = ()> + Send,
{
    async fn terms(mut self) -> Result<()> {
        let election = self.election.clone();
        let context = election.0.context();
        let mut backoff = context.backoff(context.options.ttl);
        self.check()?;
        loop {
            let shutdown = self.shutdown.clone();
            let won = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                won = election.campaign(&*self.value) => won,
            };
            match won {
                Ok(leadership) => {
                    let leadership = Arc::new(leadership);
                    if self.term(&leadership).await {
                        backoff = context.backoff(context.options.ttl);
                    }
                }
                Err(error) if self.passes(&error) => {
                    (self.on_transition)(Transition::Failed(error))
                }
                Err(error) => return Err(error),
            }
            rest(&election, &mut backoff, &shutdown).await?;
        }
    }

    /// Leads for one term; whether it was a long one.
    async fn term(&mut self, leadership: &Arc<Leadership>) -> bool {
        let (term, hold) = (leadership.watched(), leadership.hold());
        let context = hold.context();
        let grace = self.stop_grace.unwrap_or(context.options.ttl / 10);
        // Another session than the one that was checked may be worth less.
        let grace = grace.min(hold.session().spare(context));
        (self.on_transition)(Transition::Elected(leadership.term()));
        let (shutdown, closing) = (self.shutdown.clone(), leadership.engine().closing.clone());
        let unwanted = async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = closing.cancelled() => {}
            }
        };
        // However the work ends, also by a panic or with the whole future, then the term does.
        let ending = Ending(leadership);
        // Dropped after the work and before that.
        let done = term.done.clone().drop_guard();
        let watch = term.clone().watch(Arc::clone(hold), grace, self.overrun, unwanted);
        context.threads.on_herald(watch);
        if hold.loss().is_none() {
            let work = pin!((self.work)(Arc::clone(leadership)));
            tokio::select! {
                biased;
                () = term.abort.cancelled() => {}
                () = work => {}
            }
        }
        drop(done);
        // What the work has handed its token to has to stop as well, before another may lead.
        term.stop.cancel();
        let long = hold.age() >= context.options.ttl;
        // Whoever shares the leadership is told as soon as it is given up.
        let told = async { hold.tell() };
        let (released, ()) = tokio::join!(biased; leadership.guard().end(), told);
        drop(ending);
        (self.on_transition)(Transition::Resigned { term: leadership.term(), released });
        long
    }

    /// Refuses a grace that each late renewal would use up.
    fn check(&self) -> Result<()> {
        let engine = &self.election.0.engine;
        let (Some(grace), Some(session)) = (self.stop_grace, engine.sessions.present()) else {
            return Ok(());
        };
        let longest = session.spare(&engine.context);
        if grace <= longest {
            return Ok(());
        }
        let error = engine.context.error(ErrorKind::Invalid, "run");
        Err(error.with_key(self.election.name().as_str()).with_detail(format!(
            "a stop_grace of {grace:?} is longer than what is left when one renewal has failed; \
             accepted is up to {longest:?} with this store and ttl; nobody was asked"
        )))
    }

    /// Whether the next campaign may succeed although this one failed.
    fn passes(&self, error: &Error) -> bool {
        let closing = &self.election.0.engine.closing;
        !closing.is_cancelled() && (error.is_retryable() || error.kind() == ErrorKind::Lost)
    }
}

/// Ends a term, whoever shares the leadership.
struct Ending<'a>(&'a Leadership);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.watched().stop.cancel();
        self.0.guard().give_up();
    }
}

/// Waits a little, so that a store in trouble is not asked without a pause.
async fn rest(
    election: &Election,
    backoff: &mut Backoff,
    shutdown: &CancellationToken,
) -> Result<()> {
    let engine = &election.0.engine;
    let context = Arc::clone(&engine.context);
    let span = backoff.next(&context.chance);
    let rest = engine.run("run", async move {
        context.sleep(span).await;
        Ok(())
    });
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        rested = rest => rested,
    }
}

impl<F> fmt::Debug for Run<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("election", &self.election.name())
            .field("value", &self.value)
            .field("stop_grace", &self.stop_grace)
            .finish_non_exhaustive()
    }
}
