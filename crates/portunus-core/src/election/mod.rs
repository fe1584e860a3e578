//! Leader election: one leader per term, whose number is the fencing token.

mod leadership;
mod observe;
mod run;

use std::future::Future;
use std::sync::Arc;

use crate::backend::TokenStrength;
use crate::error::{ErrorKind, Result};
use crate::handle::Handle;
use crate::keeper::Request;
use crate::name::LockName;

pub use self::leadership::Leadership;
pub use self::observe::{Leader, Observe};
pub use self::run::{Run, Transition};

/// An election: many campaign, one leads, all may observe. Cheap to clone; holds nothing by itself.
///
/// An election is the exclusive lock of its name, with a value that observers see. Each leadership
/// is a *term*, and its number is the fencing token: send it with every write, for a leader that is
/// paused does not know that it was deposed.
///
/// # Algorithm
///
/// The queue recipe of the store, as for [`Lock`](crate::lock::Lock): one candidate is woken for
/// each change (Hunt et al., USENIX ATC 2010, §2.4). The term is what Burrows,
/// *Chubby* (OSDI 2006), §2.4, calls a sequencer.
#[derive(Clone, Debug)]
pub struct Election(Handle);

impl Election {
    pub(crate) fn new(handle: Handle) -> Result<Self> {
        let context = handle.context();
        if context.capabilities.strength == TokenStrength::Weak && !context.options.allow_weak {
            let error = context.error(ErrorKind::Unsupported, "election");
            return Err(error.with_key(handle.name().as_str()).with_detail(
                "terms of this store may go back when it fails over, and then two lead; \
                 accepted with `allow_weak`, if what they do can bear that",
            ));
        }
        Ok(Self(handle))
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        self.0.name()
    }

    /// Waits until this candidate leads. Observers see `value`: the leader's address, for instance.
    ///
    /// Candidates are elected in the order in which they came, where the store is
    /// [`fifo`](crate::backend::Capabilities::fifo). For a service, [`run`](Self::run) does the
    /// rest.
    ///
    /// # Errors
    ///
    /// As for [`Lock::acquire`](crate::lock::Lock::acquire), and [`ErrorKind::Invalid`] when `value`
    /// is longer than the store takes
    /// ([`Capabilities::max_value`](crate::backend::Capabilities::max_value)); nothing was queued.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future withdraws the candidate in the background.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> portunus_core::error::Result<()> {
    /// use portunus_core::manager::LockManager;
    /// use portunus_core::memory::Memory;
    ///
    /// let manager = LockManager::builder(Memory::new()).open().await?;
    /// let election = manager.election("scheduler")?;
    /// let leadership = election.campaign("10.0.0.7:8080").await?;
    /// let leader = election.leader().await?.expect("it is us");
    /// assert_eq!((leader.value.as_str(), leader.term), ("10.0.0.7:8080", leadership.term()));
    /// leadership.resign().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn campaign(&self, value: impl Into<String>) -> Result<Leadership> {
        let value = value.into();
        leadership::check(self.0.context(), self.name(), &value)?;
        let guard = self.0.acquire(Request { value, ..Request::default() }).await?;
        Ok(Leadership::new(guard))
    }

    /// Asks who leads; `None` when nobody does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when the store gave no answer within `connect_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; changes nothing.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        observe::leader(&self.0).await
    }

    /// Follows who leads: the present leader, then each change, without taking part.
    ///
    /// Terms only grow. Of what happens between two looks at the stream it tells the newest. While the
    /// store can't be reached it says nothing, and goes on by itself.
    #[must_use = "it does nothing unless it is polled"]
    pub fn observe(&self) -> Observe {
        Observe::start(&self.0)
    }

    /// Runs `work` whenever this candidate leads, for as long as the service lives: campaigns, runs
    /// it, has it stop in time, awaits its end *before* it resigns, and campaigns again.
    ///
    /// The future that this returns ends when [`Run::until`]'s token is cancelled, or with an error
    /// that no repetition mends. `work` is called once a term, on the task that awaits, with the
    /// leadership; its [`cancellation_token`](Leadership::cancellation_token) says when to stop:
    ///
    /// - The leadership is lost: somebody else may lead already.
    /// - Renewals fail, and no more than [`Run::stop_grace`] is left until it will be lost.
    /// - The service shuts down.
    ///
    /// Work that has not stopped when its grace, or the leadership's deadline, is over is dropped
    /// where it stands. So no two work at a time in the belief to lead. Two may run at a time when
    /// the loss came without a warning (an eviction, a pause of the process) and the work that was
    /// told winds up, or when it blocks its thread and can't be dropped
    /// ([`Run::exit_process_on_overrun`]): send the term with every write. If `work` ends by itself,
    /// the leadership is given up and campaigned for again.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> portunus_core::error::Result<()> {
    /// # use portunus_core::{manager::LockManager, memory::Memory};
    /// # use tokio_util::sync::CancellationToken;
    /// # let election = LockManager::builder(Memory::new()).open().await?.election("scheduler")?;
    /// let shutdown = CancellationToken::new();
    /// # let quit = shutdown.clone();
    /// election
    ///     .run("10.0.0.7:8080", |leadership| {
    ///         # let quit = quit.clone();
    ///         async move {
    ///             let stop = leadership.cancellation_token();
    ///             while !stop.is_cancelled() {
    ///                 println!("leading term {}", leadership.term().value());
    ///                 # quit.cancel();
    ///                 stop.cancelled().await;
    ///             }
    ///         }
    ///     })
    ///     .until(shutdown)
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn run<'a, F, Fut>(&self, value: impl Into<String>, work: F) -> Run<'a, F>
    where
        F: FnMut(Arc<Leadership>) -> Fut + Send + 'a,
        Fut: Future<Output = ()> + Send + 'a,
    {
        Run::new(self.clone(), value.into(), work)
    }
}
