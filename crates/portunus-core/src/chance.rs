//! Chance, injected: one seeded generator for names of attempts and for the jitter of retries.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::backend::AttemptId;

/// A seeded generator that many tasks share.
#[derive(Debug)]
pub(crate) struct Chance(Mutex<StdRng>);

impl Chance {
    /// Starts from `seed`, or from the system's randomness.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let rng = seed.map_or_else(rand::make_rng, StdRng::seed_from_u64);
        Self(Mutex::new(rng))
    }

    pub(crate) fn attempt_id(&self) -> AttemptId {
        AttemptId(self.draw(|rng| rng.random()))
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Capped exponential delays with jitter: each is drawn from the upper half of a span that doubles.
#[derive(Debug)]
pub(crate) struct Backoff {
    span: Duration,
    cap: Duration,
}

impl Backoff {
    /// Begins at 10 ms and stops growing at `cap`.
    pub(crate) fn new(cap: Duration) -> Self {
        Self { span: Duration::from_millis(10).min(cap), cap }
    }

    /// Returns the next delay.
    pub(crate) fn next(&mut self, chance: &Chance) -> Duration {
        let part = chance.draw(|rng| rng.random_range(0.5..=1.0));
        let delay = self.span.mul_f64(part);
        self.span = (self.span * 2).min(self.cap);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_a_seed_repeats_them() {
        let draw = || {
            let (chance, mut backoff) =
                (Chance::new(Some(7)), Backoff::new(Duration::from_millis(80)));
            (0..8).map(|_| backoff.next(&chance)).collect::<Vec<_>>()
        };
        let delays = draw();
        assert_eq!(delays, draw());
        assert!(delays[0] >= Duration::from_millis(5) && delays[0] <= Duration::from_millis(10));
        assert!(delays[4..].iter().all(|d| (40..=80).contains(&d.as_millis())));
    }
}
