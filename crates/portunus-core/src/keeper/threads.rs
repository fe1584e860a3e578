//! The threads of a manager, so that a blocked or ended executor of the user's starves nothing.
//!
//! - The *keeper* renews sessions and ends them at their deadlines. No code of the user's runs
//!   there: what it has to say goes to the herald.
//! - The *herald* carries connections, watches and clean-up, fires loss signals, speaks to
//!   `tracing`, and wakes the user's tasks. A waker or subscriber that blocks delays these, never a
//!   renewal.
//!
//! What a caller awaits is polled by the caller, in the herald's context: a detour over a task of
//! the herald's would cost two changes of thread for each request.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::subscriber::NoSubscriber;

/// Where the engine's work runs. Dropping it ends the threads once their work is done.
#[derive(Debug)]
pub(crate) struct Threads {
    keeper: Handle,
    herald: Handle,
    stop: CancellationToken,
}

impl Threads {
    /// Starts both threads.
    pub(crate) fn start() -> std::io::Result<Self> {
        let stop = CancellationToken::new();
        let keeper = thread("portunus-keeper", stop.clone(), |run| {
            // The libraries below trace as well, and their subscriber would be the user's code.
            tracing::subscriber::with_default(NoSubscriber::new(), run);
        })?;
        let herald = thread("portunus-herald", stop.clone(), |run| run())?;
        Ok(Self { keeper, herald, stop })
    }

    /// Runs everything on the current runtime, for simulation under a paused clock.
    pub(crate) fn inline() -> Self {
        let stop = CancellationToken::new();
        Self { keeper: Handle::current(), herald: Handle::current(), stop }
    }

    pub(crate) fn on_keeper(
        &self,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        self.keeper.spawn(work)
    }

    pub(crate) fn on_herald<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.herald.spawn(work)
    }

    /// Begins `work` that goes on to its end whatever becomes of the answer: the caller's polls
    /// drive it while there are any, then the herald. The first poll is made here.
    pub(crate) fn begin<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Begun<T> {
        let mut begun =
            Begun { state: State::Running(Box::pin(work)), herald: self.herald.clone() };
        // A guard in a thread-local is dropped at the end of its thread: no place for a poll.
        let ended = Handle::try_current().is_err_and(|error| error.is_thread_local_destroyed());
        if !ended
            && let Poll::Ready(output) = begun.advance(&mut Context::from_waker(Waker::noop()))
        {
            begun.state = State::Done(output);
        }
        begun
    }

    /// Does `work` for the caller who polls this; dropping it drops `work`. Timers and connections
    /// are the herald's, so any executor will do, and the reply wakes the caller without a detour.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            let _context = self.herald.enter();
            work.as_mut().poll(cx)
        })
        .await
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Work that was begun; a future of its output. Dropping it leaves the work to the herald.
pub(crate) struct Begun<T: Send + 'static> {
    state: State<T>,
    herald: Handle,
}

enum State<T> {
    Running(Pin<Box<dyn Future<Output = T> + Send>>),
    Done(T),
    Taken,
}

impl<T: Send> Begun<T> {
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let State::Running(work) = &mut self.state else { return Poll::Pending };
        let _context = self.herald.enter();
        work.as_mut().poll(cx)
    }
}

/// The output is moved out, never pinned.
impl<T: Send> Unpin for Begun<T> {}

impl<T: Send> Future for Begun<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let output = match std::mem::replace(&mut self.state, State::Taken) {
            State::Done(output) => Poll::Ready(output),
            state => {
                self.state = state;
                self.advance(cx)
            }
        };
        if output.is_ready() {
            self.state = State::Taken;
        }
        output
    }
}

impl<T: Send + 'static> Drop for Begun<T> {
    fn drop(&mut self) {
        if let State::Running(work) = std::mem::replace(&mut self.state, State::Taken) {
            self.herald.spawn(work);
        }
    }
}

/// Starts a thread with a runtime of its own. The runtime is built and dropped there: to drop one
/// inside the user's runtime would panic.
fn thread(
    name: &str,
    stop: CancellationToken,
    around: impl FnOnce(&mut dyn FnMut()) + Send + 'static,
) -> std::io::Result<Handle> {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let built = Builder::new_current_thread().enable_all().build();
        let runtime = match built {
            Ok(runtime) => runtime,
            Err(error) => return drop(tell.send(Err(error))),
        };
        if tell.send(Ok(runtime.handle().clone())).is_ok() {
            around(&mut || runtime.block_on(stop.cancelled()));
        }
    })?;
    told.recv().unwrap_or_else(|_| Err(std::io::Error::other("the thread ended at its start")))
}
