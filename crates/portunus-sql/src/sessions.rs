//! Which sessions are dead, told from their rows.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::SessionId;
use portunus_core::beat::{Beats, Vital};
use portunus_core::clock::{Clock, Moment};

use crate::confirmed::Confirmed;
#[cfg(feature = "sqlite")]
use crate::horizon::Horizon;
use crate::kernel::Kernel;

/// A session of whose clock nothing is known.
#[cfg(any(feature = "mysql", feature = "postgres"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beating {
    pub(crate) id: SessionId,
    /// Raised by each renewal.
    pub(crate) beat: u64,
    pub(crate) ttl: Duration,
}

/// A session as its row says it.
#[cfg(feature = "sqlite")]
#[derive(Clone, Debug)]
pub(crate) struct SessionRow {
    pub(crate) id: SessionId,
    /// Raised by each renewal.
    pub(crate) beat: u64,
    pub(crate) ttl: Duration,
    /// Whose clock the next is of.
    pub(crate) kernel: String,
    /// When it was last renewed.
    pub(crate) renewed: Moment,
}

/// What this process knows about the liveness of others.
#[derive(Debug)]
pub(crate) struct Liveness {
    pub(crate) beats: Beats,
    pub(crate) kernel: Kernel,
    pub(crate) confirmed: Confirmed,
    #[cfg(feature = "sqlite")]
    pub(crate) horizon: Horizon,
}

/// What was found at one reading.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Verdict {
    /// The dead with the beat that each was read with, which the statement that ends it compares.
    pub(crate) dead: Vec<(SessionId, u64)>,
    /// When the next may be found dead.
    pub(crate) look_again: Moment,
}

impl Liveness {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            beats: Beats::new(clock),
            kernel: Kernel::of_this_process(),
            confirmed: Confirmed::default(),
            #[cfg(feature = "sqlite")]
            horizon: Horizon::default(),
        }
    }

    /// Judges all sessions of the store. The rows were read before this is called.
    #[cfg(feature = "sqlite")]
    pub(crate) fn judge(&self, rows: &[SessionRow]) -> Verdict {
        let vital = |row: &SessionRow| match self.is_foreign(row) {
            true => self.beats.saw(row.id, row.beat, row.ttl),
            false => self.beats.told(row.renewed, row.ttl),
        };
        self.verdict(rows.iter().map(|row| (row.id, row.beat, vital(row))).collect())
    }

    /// The same by their beats alone.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(crate) fn judge_by_beats(&self, rows: &[Beating]) -> Verdict {
        let vital = |row: &Beating| self.beats.saw(row.id, row.beat, row.ttl);
        self.verdict(rows.iter().map(|row| (row.id, row.beat, vital(row))).collect())
    }

    fn verdict(&self, vitals: Vec<(SessionId, u64, Vital)>) -> Verdict {
        let mut verdict = Verdict { dead: Vec::new(), look_again: Moment::NEVER };
        for (session, beat, vital) in &vitals {
            match vital {
                Vital::Dead => verdict.dead.push((*session, *beat)),
                Vital::Alive { until } => verdict.look_again = verdict.look_again.min(*until),
            }
        }
        let there: HashSet<SessionId> = vitals.iter().map(|(session, ..)| *session).collect();
        self.beats.retain(|session| there.contains(&session));
        verdict
    }

    /// Whether its times are of another clock than ours. One that is yet to come can't be of ours,
    /// whatever the row says of it.
    #[cfg(feature = "sqlite")]
    pub(crate) fn is_foreign(&self, row: &SessionRow) -> bool {
        !self.kernel.is_same(&row.kernel) || row.renewed > self.beats.stamp()
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicU64, Ordering};

    use portunus_core::clock::BootClock;

    use super::*;

    /// Seconds since boot.
    #[derive(Debug)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> Moment {
            Moment::since_start(Duration::from_secs(self.0.load(Ordering::SeqCst)))
        }

        fn sleep_until(&self, _: Moment) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_session_that_was_renewed_in_a_time_to_come_is_judged_by_its_beat() {
        let hand = Arc::new(Hand(AtomicU64::new(1000)));
        let liveness = Liveness::new(Arc::clone(&hand) as Arc<dyn Clock>);
        let row = SessionRow {
            id: SessionId(1),
            beat: 7,
            ttl: Duration::from_secs(60),
            kernel: liveness.kernel.id().to_owned(),
            renewed: Moment::since_start(Duration::from_secs(1_000_000)),
        };
        assert!(liveness.is_foreign(&row));
        assert_eq!(liveness.judge(std::slice::from_ref(&row)).dead, []);
        hand.0.store(1061, Ordering::SeqCst);
        assert_eq!(liveness.judge(std::slice::from_ref(&row)).dead, [(SessionId(1), 7)]);
        // What is of this very moment is ours.
        let row = SessionRow { renewed: liveness.beats.stamp(), ..row };
        assert!(!liveness.is_foreign(&row));
    }

    #[test]
    fn a_foreign_session_s_times_mean_nothing_here() {
        let liveness = Liveness::new(Arc::new(BootClock::new()));
        let row = |id, kernel: &str| SessionRow {
            id: SessionId(id),
            beat: 7,
            ttl: Duration::from_secs(60),
            kernel: kernel.to_owned(),
            renewed: Moment::default(),
        };
        let own = liveness.kernel.id().to_owned();
        let verdict = liveness.judge(&[row(1, "elsewhere"), row(2, "unknown")]);
        assert_eq!(verdict.dead, []);
        assert!(verdict.look_again < Moment::NEVER);
        if liveness.kernel.is_known() && liveness.beats.stamp() > Moment::since_start(TWO_MINUTES) {
            let verdict = liveness.judge(&[row(1, &own), row(2, "elsewhere")]);
            assert_eq!(verdict.dead, [(SessionId(1), 7)]);
        }
    }

    const TWO_MINUTES: Duration = Duration::from_secs(120);
}
