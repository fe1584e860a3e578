//! Time, injected: one clock that counts while the machine sleeps, one for simulation.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod resume;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

/// A source of time for leases. Every deadline of the engine is read from one of these.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the time that has passed since some fixed point; never goes back.
    fn now(&self) -> Moment;

    /// Completes at or after `moment`. Needs a Tokio runtime with its timer on.
    fn sleep_until(&self, moment: Moment) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// A point on a [`Clock`], in nanoseconds since that clock's fixed point.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Moment(u64);

impl Moment {
    /// Later than any moment that a clock returns.
    pub const NEVER: Self = Self(u64::MAX - 1);

    /// The moment that lies `span` after the clock's fixed point, at most [`Moment::NEVER`].
    #[must_use]
    pub fn since_start(span: Duration) -> Self {
        Self::from_nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The moment with this many nanoseconds, at most [`Moment::NEVER`].
    #[must_use]
    pub fn from_nanos(nanos: u64) -> Self {
        Self(nanos.min(Self::NEVER.0))
    }

    /// Returns the nanoseconds since the clock's fixed point.
    #[must_use]
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// The moment `span` later, at most [`Moment::NEVER`].
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self::from_nanos(self.0.saturating_add(span))
    }

    /// The moment `span` earlier, at the earliest the clock's fixed point.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(span))
    }

    /// The span from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The clock of production: `CLOCK_BOOTTIME`, which goes on while the machine is suspended.
///
/// [`std::time::Instant`] and Tokio's timers stop in a suspend while the store's lease runs on, so
/// while anybody sleeps by this clock a thread of the process looks every 100 ms whether the machine
/// was suspended, and has them look again. Outside Linux it is `CLOCK_MONOTONIC`, and on other systems
/// a monotonic clock that may stop in suspend: there a loss is told late after a suspend, and the fencing
/// token is what protects the resource.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock(());

impl BootClock {
    /// Returns the clock of this machine.
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }
}

impl Clock for BootClock {
    #[cfg(unix)]
    fn now(&self) -> Moment {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        const ID: rustix::time::ClockId = rustix::time::ClockId::Boottime;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        const ID: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(ID);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Moment::since_start(Duration::new(seconds, nanos))
    }

    #[cfg(not(unix))]
    fn now(&self) -> Moment {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        Moment::since_start(START.get_or_init(Instant::now).elapsed())
    }

    fn sleep_until(&self, moment: Moment) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let clock = *self;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let sleeping = resume::sleep_until(move || clock.now(), moment);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let sleeping = async move { tokio::time::sleep(moment.since(clock.now())).await };
        Box::pin(sleeping)
    }
}

/// The clock of simulation: Tokio's, which a test pauses and which then jumps from timer to timer.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock(Instant);

impl TokioClock {
    /// Starts a clock; its fixed point lies one hour back, so that spans can be subtracted.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Moment {
        Moment::since_start(HOUR + self.0.elapsed())
    }

    fn sleep_until(&self, moment: Moment) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let at = Duration::from_nanos(moment.nanos()).saturating_sub(HOUR);
        let far = Instant::now() + 24 * 365 * HOUR;
        Box::pin(tokio::time::sleep_until(self.0.checked_add(at).map_or(far, |at| at.min(far))))
    }
}

/// Awaits `future` for at most `span`; `None` when the time is over first.
pub(crate) async fn limited<F: Future>(
    clock: &dyn Clock,
    span: Duration,
    future: F,
) -> Option<F::Output> {
    limited_until(clock, clock.now().after(span), future).await
}

/// Awaits `future` until `moment`; `None` when it comes first.
pub(crate) async fn limited_until<F: Future>(
    clock: &dyn Clock,
    moment: Moment,
    future: F,
) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    // The first poll often answers; only then is a timer worth its price.
    if let std::task::Poll::Ready(output) =
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await
    {
        return Some(output);
    }
    tokio::select! {
        biased;
        output = future => Some(output),
        () = clock.sleep_until(moment) => None,
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_saturate() {
        let start = Moment::since_start(HOUR);
        assert_eq!(start.after(Duration::MAX), Moment::NEVER);
        assert_eq!(start.since(Moment::NEVER), Duration::ZERO);
        assert_eq!(start.after(HOUR).since(start), HOUR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_jumps() {
        let clock = TokioClock::start();
        let begin = clock.now();
        clock.sleep_until(begin.after(HOUR)).await;
        assert!(clock.now().since(begin) >= HOUR);
        assert_eq!(limited(&clock, HOUR, std::future::pending::<()>()).await, None);
    }

    #[tokio::test]
    async fn the_boot_clock_sleeps() {
        let clock = BootClock::new();
        let until = clock.now().after(Duration::from_millis(5));
        clock.sleep_until(until).await;
        assert!(clock.now() >= until);
    }
}
