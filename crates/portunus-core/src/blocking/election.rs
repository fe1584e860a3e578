//! Elections that wait where they are asked.

use std::fmt;
use std::future::{IntoFuture, Ready, ready};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use pollster::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::election::{self, Leader, Observe, Transition};
use crate::error::Result;
use crate::guard::{LossReason, Released};
use crate::name::LockName;

/// [`Election`](election::Election) for threads.
#[derive(Clone, Debug)]
pub struct Election(pub(super) election::Election);

impl Election {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        self.0.name()
    }

    /// Waits until this candidate leads: [`campaign`](election::Election::campaign).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn campaign(&self, value: impl Into<String>) -> Result<Leadership> {
        self.0.campaign(value).block_on().map(Leadership)
    }

    /// Asks who leads: [`leader`](election::Election::leader).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn leader(&self) -> Result<Option<Leader>> {
        self.0.leader().block_on()
    }

    /// Follows who leads: [`observe`](election::Election::observe).
    pub fn observe(&self) -> Leaders {
        Leaders(self.0.observe())
    }

    /// Runs `work` on this thread whenever this candidate leads:
    /// [`run`](election::Election::run).
    ///
    /// A thread can't be dropped: work that does not look at the leadership's
    /// [`cancellation_token`](election::Leadership::cancellation_token) goes on while another leads.
    /// [`Run::exit_process_on_overrun`] is there for that.
    pub fn run<'a>(
        &self,
        value: impl Into<String>,
        mut work: impl FnMut(Arc<election::Leadership>) + Send + 'a,
    ) -> Run<'a> {
        let work: Work<'a> = Box::new(move |leadership| {
            work(leadership);
            ready(())
        });
        Run(self.0.run(value, work))
    }
}

/// [`Leadership`](election::Leadership) for threads; what needs no waiting is the async one's.
#[must_use = "if unused, it resigns at once"]
#[derive(Debug)]
pub struct Leadership(election::Leadership);

impl Leadership {
    /// Waits until it is lost: [`lost`](crate::guard::Guard::lost).
    pub fn lost(&self) -> LossReason {
        self.0.lost().block_on()
    }

    /// Replaces the value that observers see: [`publish`](election::Leadership::publish).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn publish(&self, value: impl Into<String>) -> Result<()> {
        self.0.publish(value).block_on()
    }

    /// Ends the term: [`resign`](election::Leadership::resign).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn resign(self) -> Result<Released> {
        self.0.resign().block_on()
    }
}

impl Deref for Leadership {
    type Target = election::Leadership;

    fn deref(&self) -> &election::Leadership {
        &self.0
    }
}

/// Who leads, as an iterator that waits for each change; see [`Observe`].
#[derive(Debug)]
#[must_use = "it does nothing unless it is asked for the next"]
pub struct Leaders(Observe);

impl Iterator for Leaders {
    type Item = Result<Option<Leader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().block_on()
    }
}

/// [`Run`](election::Run) for threads; [`wait`](Self::wait) for it.
#[must_use = "it does nothing unless it is waited for"]
pub struct Run<'a>(election::Run<'a, Work<'a>>);

type Work<'a> = Box<dyn FnMut(Arc<election::Leadership>) -> Ready<()> + Send + 'a>;

impl<'a> Run<'a> {
    /// How long work may take to stop: [`stop_grace`](election::Run::stop_grace).
    pub fn stop_grace(self, span: Duration) -> Self {
        Self(self.0.stop_grace(span))
    }

    /// Ends the process when work does not stop:
    /// [`exit_process_on_overrun`](election::Run::exit_process_on_overrun).
    pub fn exit_process_on_overrun(self, code: i32) -> Self {
        Self(self.0.exit_process_on_overrun(code))
    }

    /// Calls `tell` at each change, on this thread.
    pub fn on_transition(self, tell: impl FnMut(Transition) + Send + 'a) -> Self {
        Self(self.0.on_transition(tell))
    }

    /// Ends when `shutdown` is cancelled.
    pub fn until(self, shutdown: CancellationToken) -> Self {
        Self(self.0.until(shutdown))
    }

    /// Campaigns and works until it is told to end.
    ///
    /// # Errors
    ///
    /// As for [`Run`](election::Run).
    pub fn wait(self) -> Result<()> {
        self.0.into_future().block_on()
    }
}

impl fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
