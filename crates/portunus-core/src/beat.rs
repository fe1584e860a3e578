//! Who still lives, where a store keeps no leases: told from the beats of sessions.
//!
//! A session's row in the store has a *beat*, a number that each renewal raises. One who waits for
//! others has to say whose session is dead, and may use no clock but its own:
//!
//! - a session of the same kernel kept that kernel's time beside its renewal, which is compared as it
//!   is: [`Beats::told`];
//! - of any other it counts only how long this observer itself saw the beat unchanged: [`Beats::saw`].
//!
//! Either way a verdict of *dead* is of the beat that was read. The statement that acts on it compares
//! that beat, so a session that renews just then survives.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backend::SessionId;
use crate::clock::{Clock, Moment};

/// What one observer saw of others' beats, by its own clock.
pub struct Beats {
    clock: Arc<dyn Clock>,
    seen: Mutex<HashMap<SessionId, Sighting>>,
}

/// A beat, and since when it is known to stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sighting {
    /// The beat.
    pub beat: u64,
    /// A moment at which it was seen, on the observer's clock.
    pub since: Moment,
}

/// Whether a session lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Vital {
    /// As far as can be said; ask again at `until`.
    Alive {
        /// Not before this moment can it be found dead, unless it was renewed.
        until: Moment,
    },
    /// It was not renewed for longer than it may live, so its holder has stopped believing.
    Dead,
}

impl Beats {
    /// An observer that saw nothing so far.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, seen: Mutex::default() }
    }

    /// The moment to keep beside one's own renewal.
    #[must_use]
    pub fn stamp(&self) -> Moment {
        self.clock.now()
    }

    /// Judges a session that says itself when it was renewed, by the same clock as this one's.
    #[must_use]
    pub fn told(&self, renewed: Moment, ttl: Duration) -> Vital {
        self.vital(renewed, ttl)
    }

    /// Judges a session by its beat. Call it after the reading that showed the beat: from one such
    /// call to the next, with the beat unchanged, it was not renewed.
    pub fn saw(&self, session: SessionId, beat: u64, ttl: Duration) -> Vital {
        let now = self.clock.now();
        let mut seen = self.seen();
        let sighting = seen.entry(session).or_insert(Sighting { beat, since: now });
        if sighting.beat != beat {
            *sighting = Sighting { beat, since: now };
        }
        let since = sighting.since;
        drop(seen);
        self.vital(since, ttl)
    }

    /// Takes over what another observer saw whose clock is the same one, if it saw it earlier.
    pub fn recall(&self, session: SessionId, sighting: Sighting) {
        if sighting.since > self.clock.now() {
            return;
        }
        let mut seen = self.seen();
        let known = seen.entry(session).or_insert(sighting);
        if known.beat == sighting.beat {
            known.since = known.since.min(sighting.since);
        }
    }

    /// What was seen of a session, to be kept for other observers with the same clock.
    #[must_use]
    pub fn sighting(&self, session: SessionId) -> Option<Sighting> {
        self.seen().get(&session).copied()
    }

    /// Forgets those sessions that are no more.
    pub fn retain(&self, is_there: impl Fn(SessionId) -> bool) {
        self.seen().retain(|session, _| is_there(*session));
    }

    /// Whether a moment has come.
    #[must_use]
    pub fn is_past(&self, moment: Moment) -> bool {
        self.clock.now() >= moment
    }

    fn vital(&self, since: Moment, ttl: Duration) -> Vital {
        // Its holder's clock may run 1 % slower than this one.
        let until = since.after(ttl + ttl / 100);
        if self.clock.now() > until { Vital::Dead } else { Vital::Alive { until } }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<SessionId, Sighting>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Beats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beats").field("seen", &self.seen().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl Hand {
        fn advance(&self, millis: u64) {
            self.0.fetch_add(millis * 1_000_000, Ordering::SeqCst);
        }
    }

    impl Clock for Hand {
        fn now(&self) -> Moment {
            Moment::from_nanos(self.0.load(Ordering::SeqCst))
        }

        fn sleep_until(&self, _: Moment) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(std::future::pending())
        }
    }

    const TTL: Duration = Duration::from_secs(1);
    const ONE: SessionId = SessionId(1);

    fn beats() -> (Arc<Hand>, Beats) {
        let hand = Arc::new(Hand::default());
        hand.advance(60_000);
        (Arc::clone(&hand), Beats::new(hand))
    }

    fn alive(vital: Vital) -> bool {
        matches!(vital, Vital::Alive { .. })
    }

    #[test]
    fn who_says_when_it_was_renewed_lives_for_its_time_and_a_hundredth() {
        let (hand, beats) = beats();
        let renewed = beats.stamp();
        hand.advance(1010);
        assert_eq!(beats.told(renewed, TTL), Vital::Alive { until: beats.stamp() });
        assert!(beats.is_past(beats.stamp()) && !beats.is_past(beats.stamp().after(TTL)));
        hand.advance(1);
        assert_eq!(beats.told(renewed, TTL), Vital::Dead);
        // Of a time to come nothing can be said.
        assert!(alive(beats.told(beats.stamp().after(TTL), TTL)));
    }

    #[test]
    fn a_beat_counts_from_when_it_was_first_seen_and_anew_when_it_changes() {
        let (hand, beats) = beats();
        assert!(alive(beats.saw(ONE, 7, TTL)));
        hand.advance(1000);
        assert!(alive(beats.saw(ONE, 7, TTL)));
        assert!(alive(beats.saw(ONE, 8, TTL)));
        hand.advance(1010);
        assert!(alive(beats.saw(ONE, 8, TTL)));
        hand.advance(1);
        assert_eq!(beats.saw(ONE, 8, TTL), Vital::Dead);
        // A store that went back to an earlier beat says nothing about the time in between.
        assert!(alive(beats.saw(ONE, 7, TTL)));
    }

    #[test]
    fn what_another_saw_counts_if_it_was_the_same_beat() {
        let (hand, beats) = beats();
        let before = beats.stamp();
        hand.advance(1011);
        beats.recall(ONE, Sighting { beat: 7, since: before });
        assert_eq!(beats.saw(ONE, 7, TTL), Vital::Dead);
        assert!(alive(beats.saw(ONE, 8, TTL)), "it was renewed since");
        beats.recall(ONE, Sighting { beat: 7, since: before });
        assert!(alive(beats.saw(ONE, 8, TTL)));
        let later = Sighting { beat: 8, since: beats.stamp().after(TTL) };
        beats.recall(ONE, later);
        assert_ne!(beats.sighting(ONE), Some(later), "of a time to come");
        beats.retain(|session| session != ONE);
        assert_eq!(beats.sighting(ONE), None);
    }
}
