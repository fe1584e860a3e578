//! The futures of this library need no particular runtime, and a guard no particular thread.

use portunus::{CancellationToken, Ran, Released, connect};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(thread::current())).into();
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_bare_executor_will_do() {
    let manager = block_on(connect("memory:")).unwrap();
    let lock = manager.lock("a").unwrap();
    let guard = block_on(lock.acquire()).unwrap();
    let waiter = thread::spawn({
        let lock = lock.clone();
        move || block_on(lock.acquire_timeout(Duration::from_secs(10))).unwrap().unwrap()
    });
    let brief = Duration::from_millis(20);
    assert!(block_on(lock.acquire_timeout(brief)).unwrap().is_none());
    assert_eq!(block_on(guard.run(async { 7 })), Ran::Finished(7));
    assert_eq!(block_on(guard.release()).unwrap(), Released::Clean);
    let guard = waiter.join().unwrap();
    thread::spawn(move || drop(guard)).join().unwrap();
    assert_eq!(block_on(manager.shutdown(Duration::from_secs(5))).unwrap(), 0);
}

/// The work of a leader runs where it is awaited: nothing is spawned on a runtime.
#[test]
fn an_election_runs_on_a_bare_executor() {
    let election = block_on(connect("memory:")).unwrap().election("a").unwrap();
    let shutdown = CancellationToken::new();
    let own = thread::current().id();
    let run = election.run("here", |leadership| {
        let shutdown = shutdown.clone();
        async move {
            assert_eq!(thread::current().id(), own);
            shutdown.cancel();
            leadership.cancellation_token().cancelled().await;
            assert!(leadership.is_held());
        }
    });
    block_on(run.until(shutdown.clone()).into_future()).unwrap();
    assert!(block_on(election.leader()).unwrap().is_none());
}
