//! A real fork: the child's guards are lost, and nothing that it does touches the parent's locks.

#![cfg(unix)]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use portunus::{ErrorKind, Guard, Lock, LossReason, Status, connect};

#[tokio::test(flavor = "current_thread")]
async fn a_forked_child_holds_nothing_and_frees_nothing() {
    let manager = connect("memory:").await.unwrap();
    let (a, b) = (manager.lock("a").unwrap(), manager.lock("b").unwrap());
    let guard = a.acquire().await.unwrap();
    let in_child = b.acquire().await.unwrap();
    #[allow(
        unsafe_code,
        reason = "the child only runs `child` and exits; its allocator is glibc's, \
                                   which a fork leaves usable"
    )]
    // SAFETY: see the reason.
    let forked = unsafe { fork() }.unwrap();
    match forked {
        ForkResult::Child => exit(child(&guard, in_child, &a)),
        ForkResult::Parent { child } => {
            assert_eq!(wait(child), WaitStatus::Exited(child, 0), "see `child` for the number");
        }
    }
    assert!(guard.is_held() && in_child.is_held());
    assert!(a.try_acquire().await.unwrap().is_none());
    assert!(b.try_acquire().await.unwrap().is_none());
    assert_eq!(in_child.release().await.unwrap(), portunus::Released::Clean);
    guard.release().await.unwrap();
}

/// What the child sees; 0, or the number of what was wrong.
fn child(guard: &Guard, in_child: Guard, lock: &Lock) -> u8 {
    let lost = Status::Lost(LossReason::Forked);
    if guard.is_held() || guard.status() != lost || in_child.status() != lost {
        return 1;
    }
    if guard.remaining() != Duration::ZERO {
        return 2;
    }
    // Must not withdraw the parent's entry.
    drop(in_child);
    let acquired = ready(lock.acquire());
    let tried = ready(lock.try_acquire());
    match (acquired, tried) {
        (Some(Err(acquired)), Some(Err(tried))) => {
            let unsupported = |kind| kind == ErrorKind::Unsupported;
            if unsupported(acquired.kind()) && unsupported(tried.kind()) { 0 } else { 3 }
        }
        _ => 4,
    }
}

/// The output of a future that waits for nothing.
fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Ends the child at once, without the destructors of a test that is the parent's.
#[allow(unsafe_code, reason = "there is no safe name for it")]
fn exit(code: u8) -> ! {
    // SAFETY: it takes a number and does not return.
    unsafe { nix::libc::_exit(code.into()) }
}

/// Waits for the child's end; kills it when it hangs.
fn wait(child: Pid) -> WaitStatus {
    for _ in 0..1000 {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::StillAlive => std::thread::sleep(Duration::from_millis(10)),
            ended => return ended,
        }
    }
    kill(child, Signal::SIGKILL).unwrap();
    waitpid(child, None).unwrap()
}
