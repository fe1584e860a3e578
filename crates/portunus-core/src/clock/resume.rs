//! Tells who sleeps that the machine slept: timers stop in a suspend, and the time since boot goes on.
//!
//! One thread looks for the whole process, and only while somebody sleeps. Ten thousand who wait, each
//! waking to look for itself, would keep a core busy.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use super::Moment;

/// Sleeps until the clock, which goes on in a suspend, shows `moment`. It is noticed at most 100 ms after
/// the end of a suspend if it came meanwhile.
pub(super) async fn sleep_until(now: impl Fn() -> Moment, moment: Moment) {
    let sleeper = Sleeper::new();
    loop {
        // Hears of what comes after this line.
        let resumed = RESUMED.notified();
        let left = moment.since(now());
        if left.is_zero() {
            return;
        }
        let nap = if sleeper.is_some() { left } else { left.min(TICK) };
        tokio::select! {
            () = tokio::time::sleep(nap) => {}
            () = resumed => {}
        }
    }
}

/// Somebody who sleeps: the process watches for suspends as long as there is one.
struct Sleeper(());

impl Sleeper {
    /// `None` if the process can start no thread.
    fn new() -> Option<Self> {
        let mut watch = watch();
        let process = Some(std::process::id());
        if watch.process != process {
            let thread = std::thread::Builder::new().name("portunus-clock".into());
            let suspended = suspended();
            let started = thread.spawn(move || run(suspended));
            watch.process = if started.is_ok() { process } else { None };
        }
        watch.process?;
        watch.sleepers += 1;
        Some(Self(()))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        watch().sleepers -= 1;
    }
}

struct Watch {
    sleepers: usize,
    /// The one in which the thread runs: the child of a fork has none.
    process: Option<u32>,
}

static WATCH: Mutex<Watch> = Mutex::new(Watch { sleepers: 0, process: None });
static RESUMED: Notify = Notify::const_new();

fn watch() -> std::sync::MutexGuard<'static, Watch> {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(mut suspended: Duration) {
    loop {
        std::thread::sleep(TICK);
        let mut watch = watch();
        if watch.sleepers == 0 {
            watch.process = None;
            return;
        }
        drop(watch);
        let now = self::suspended();
        // Between the two readings the thread may stand still: who wakes for nothing sleeps on.
        if now.abs_diff(suspended) > SLACK {
            suspended = now;
            RESUMED.notify_waiters();
        }
    }
}

/// How long the machine has been suspended since it booted, but for a constant.
fn suspended() -> Duration {
    let read = |id| {
        let time = clock_gettime(id);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
    };
    let awake = read(ClockId::Monotonic);
    read(ClockId::Boottime).abs_diff(awake)
}

/// How long a suspend may be unnoticed after its end.
const TICK: Duration = Duration::from_millis(100);
/// What the two clocks differ by more is a suspend.
const SLACK: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn who_slept_through_a_suspend_wakes() {
        let clock = Arc::new(AtomicU64::new(0));
        let now = {
            let clock = Arc::clone(&clock);
            move || Moment::from_nanos(clock.load(Ordering::SeqCst))
        };
        let hour = 3_600_000_000_000;
        let mut sleeping = Box::pin(sleep_until(now, Moment::from_nanos(hour)));
        assert!(!is_over(&mut sleeping).await);
        RESUMED.notify_waiters();
        assert!(!is_over(&mut sleeping).await, "it was no long one");
        clock.store(hour, Ordering::SeqCst);
        RESUMED.notify_waiters();
        assert!(is_over(&mut sleeping).await);
    }

    async fn is_over(sleeping: &mut Pin<Box<impl Future<Output = ()>>>) -> bool {
        poll_fn(|context| Poll::Ready(sleeping.as_mut().poll(context).is_ready())).await
    }

    #[test]
    fn a_process_in_which_nobody_sleeps_has_no_thread_for_it() {
        let sleepers: Vec<_> = (0..3).map(|_| Sleeper::new().unwrap()).collect();
        assert_eq!(watch().process, Some(std::process::id()));
        drop(sleepers);
        // Other tests of the process may sleep; they end.
        while watch().process.is_some() {
            std::thread::yield_now();
        }
    }
}
