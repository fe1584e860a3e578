//! The futures of this library need no particular runtime, and a guard no particular thread.

use portunus::{Ran, Released, connect};
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
