//! The threads of a manager, so that a blocked or ended executor of the user's starves nothing.
//!
//! - The *keeper* opens sessions, renews them and ends them at their deadlines. No code of the
//!   user's runs there: what it has to say goes to the herald.
//! - The *herald* carries all other requests, watches and clean-up, fires loss signals, speaks to
//!   `tracing`, and wakes the user's tasks. A waker or subscriber that blocks delays these, never a
//!   renewal.
//!
//! To some stores a session is a connection, and its socket belongs to the runtime that opened it.
//! That is why the keeper opens as well.

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

    pub(crate) fn on_keeper<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.keeper.spawn(work)
    }

    pub(crate) fn on_herald<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.herald.spawn(work)
    }

    /// Begins `work` on the caller's thread and leaves what has to wait to the herald, so that
    /// work without waiting costs no hop. Dropping the answer does not end the work.
    pub(crate) fn begin<T: Send + 'static>(
        &self,
        mut work: Pin<Box<impl Future<Output = T> + Send + 'static>>,
    ) -> Begun<T> {
        let first = match Handle::try_current() {
            // A guard in a thread-local is dropped at the end of its thread: no place for a poll.
            Err(error) if error.is_thread_local_destroyed() => Poll::Pending,
            _ => {
                let _context = self.herald.enter();
                // The real waker is given by the poll on the herald.
                work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            }
        };
        match first {
            Poll::Ready(output) => Begun::Done(Some(output)),
            Poll::Pending => Begun::Running(self.herald.spawn(work)),
        }
    }

    /// Like [`begin`](Self::begin) for a caller who awaits it: dropping this future drops `work`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: Pin<Box<impl Future<Output = T> + Send + 'static>>,
    ) -> Option<T> {
        let mut begun = AbortOnDrop(self.begin(work));
        std::future::poll_fn(|cx| Pin::new(&mut begun.0).poll(cx)).await
    }
}

/// Work that was begun; a future of its output, `None` when the thread is gone.
#[derive(Debug)]
pub(crate) enum Begun<T> {
    Done(Option<T>),
    Running(JoinHandle<T>),
}

/// The output is moved out, never pinned.
impl<T> Unpin for Begun<T> {}

impl<T> Future for Begun<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Done(output) => Poll::Ready(output.take()),
            Self::Running(task) => Pin::new(task).poll(cx).map(|joined| match joined {
                Ok(output) => Some(output),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => None,
                },
            }),
        }
    }
}

struct AbortOnDrop<T>(Begun<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        if let Begun::Running(task) = &self.0 {
            task.abort();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
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
