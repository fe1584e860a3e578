//! A job that runs once in each period, whichever hosts try, however their clocks differ.

use std::fmt;
use std::time::{Duration, SystemTime};

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::guard::{Guard, Ran};
use portunus_core::lock::Lock;
use portunus_core::token::FencingToken;

use crate::fence::Fence;

/// Begins a job that runs once in `period`, on one of all hosts that try: `lock` lets one at a time
/// try, and `fence` remembers which period is done: as its value under the lock's name, which nothing
/// else may write.
///
/// With a lock alone a host whose clock is late comes after the work is done, finds the lock free,
/// and does it again. Here each reads what is done under its own fencing token, and the record is
/// written in the fenced step: a host that was taken for dead can't put an old record over a newer
/// one.
///
/// ```
/// # use portunus_fence::{Error, MemoryFence, Outcome, Period, Result, once};
/// # async fn nightly(lock: &portunus_core::lock::Lock, fence: &MemoryFence) -> Result<()> {
/// let night = Period::number(20_778);
/// match once(lock, fence, night).run(async |_guard| Ok::<_, Error>(send_invoices().await)).await? {
///     Outcome::Ran(sent) => println!("{sent} invoices sent"),
///     Outcome::Done => println!("another host has done it"),
/// }
/// # Ok(())
/// # }
/// # async fn send_invoices() -> u32 { 3 }
/// ```
pub fn once<'a>(lock: &'a Lock, fence: &'a dyn Fence, period: Period) -> Once<'a> {
    Once { lock, fence, period }
}

/// A job that runs once in a period; made by [`once`].
#[must_use = "nothing happens until `run`"]
pub struct Once<'a> {
    lock: &'a Lock,
    fence: &'a dyn Fence,
    period: Period,
}

/// What became of a job in its period.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome<T> {
    /// This call did the work, and the period is recorded as done.
    Ran(T),
    /// It had been done before.
    Done,
}

/// One turn of a job that repeats, as a number that grows: the night, the hour, the invoice run.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Period(u64);

impl Once<'_> {
    /// Waits for the lock, and does `work` unless the period is done; then records that it is. A record
    /// that is not confirmed is written again, until it is or the lock is lost.
    ///
    /// The work is done *at least* once: a host that dies, or loses the lock, between the work and the
    /// record leaves the period open, and the next one does it again. What must not happen twice is
    /// fenced by the guard's token, and recognised by a key such as the period.
    ///
    /// It waits for as long as another host works, however long that hangs: bound it by a time-out of
    /// your own. All runs have to agree on the length of a period: where it grows, the numbers fall, and
    /// every run is told that its period is past.
    ///
    /// # Errors
    ///
    /// - Those of [`Lock::acquire`] and [`Fence::open`], and those of `work`: the period stays open. The
    ///   lock's token is weak: nothing was done. A manager that was opened with `allow_weak` has it done.
    /// - [`ErrorKind::Stale`]: a later period was done already, so that this host's clock is late, and
    ///   nothing was done; or another opened the record while this host worked, and decides about it.
    /// - [`ErrorKind::Lost`]: the lock was lost under the work, which was dropped where it stood. The
    ///   period stays open.
    /// - Any other of [`Fence::admit`]: the work is done, and could not be recorded before the lock was
    ///   lost; with `Unconfirmed` it may be.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the work where it stands, and releases the lock in the background. The
    /// period stays open unless it was being recorded.
    pub async fn run<T, E: From<Error>>(
        self,
        work: impl AsyncFnOnce(&Guard) -> Result<T, E>,
    ) -> Result<Outcome<T>, E> {
        let guard = self.lock.acquire().await?;
        let token = guard.token();
        let done = self.fence.open(guard.name().as_str(), &token).await?;
        match done.map(|value| self.read(&value)).transpose()? {
            Some(done) if done == self.period => {
                self.release(guard).await;
                return Ok(Outcome::Done);
            }
            Some(done) if done > self.period => return Err(self.late(done).into()),
            _ => {}
        }
        let output = match guard.run(work(&guard)).await {
            Ran::Finished(output) => output?,
            // What was done is done; the fence decides whether it may still be recorded.
            Ran::FinishedAfterLoss(output, _) => output?,
            Ran::Lost(_) => {
                return Err(self.error(ErrorKind::Lost, "the period stays open").into());
            }
        };
        self.record(&guard, &token).await?;
        self.release(guard).await;
        Ok(Outcome::Ran(output))
    }

    /// The same bytes with the same token: to repeat it is safe, whatever became of it.
    async fn record(&self, guard: &Guard, token: &FencingToken) -> Result<()> {
        let period = self.period.to_string();
        let mut pause = Duration::from_millis(20);
        loop {
            let recorded = self.fence.admit(guard.name().as_str(), token, period.as_bytes()).await;
            match recorded {
                Err(error) if error.is_retryable() && guard.is_held() => {
                    futures_timer::Delay::new(pause).await;
                    pause = (2 * pause).min(Duration::from_secs(1));
                }
                recorded => return recorded,
            }
        }
    }

    /// What was recorded stays so, however this ends; the engine goes on with it.
    async fn release(&self, guard: Guard) {
        drop(guard.release().await);
    }

    fn read(&self, value: &[u8]) -> Result<Period> {
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        number.map(Period).ok_or_else(|| {
            self.error(ErrorKind::Protocol, "what is recorded as done is no number of a period")
        })
    }

    fn late(&self, done: Period) -> Error {
        let detail = format!("period {done} is done, so {} is past; nothing was done", self.period);
        self.error(ErrorKind::Stale, detail)
    }

    fn error(&self, kind: ErrorKind, detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        Error::new(kind, "fence", "once").with_key(self.lock.name().as_str()).with_detail(detail)
    }
}

impl fmt::Debug for Once<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("period", &self.period).finish_non_exhaustive()
    }
}

impl Period {
    /// Takes a number that the program counts itself.
    #[must_use]
    pub fn number(number: u64) -> Self {
        Self(number)
    }

    /// The period around `now`: they are `length` long, at least 1 s, and one of them begins `offset`
    /// after midnight UTC of 1 January 1970. A job that is due at 02:00 UTC each night has a length of
    /// 24 h and an offset of 2 h.
    ///
    /// Hosts whose clocks differ agree but around a border; there the first one that comes decides, and
    /// those behind it are told that the period is done. A clock that is far ahead closes all periods
    /// up to its own: jobs on hosts with the right time are refused as late until then.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when `length` is below 1 s, or `now` before the first period.
    pub fn at(now: SystemTime, length: Duration, offset: Duration) -> Result<Self> {
        let invalid =
            |detail| Error::new(ErrorKind::Invalid, "fence", "period").with_detail(detail);
        if length < Duration::from_secs(1) {
            return Err(invalid("a period is at least 1 s long"));
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH).ok();
        let since = since.and_then(|since| since.checked_sub(offset));
        let since = since.ok_or_else(|| invalid("the time is before the first period"))?;
        u64::try_from(since.as_nanos() / length.as_nanos())
            .map(Self)
            .map_err(|_| invalid("the time is too far ahead"))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
