//! What was seen of a lock, and whether it could be right: beliefs that do not overlap, tokens that
//! grow, losses that last.
//!
//! The check sorts once and sweeps, O(n log n): a million grants take well under a second.

use portunus_core::backend::Mode;
use portunus_core::clock::Moment;
use portunus_core::guard::{LossReason, Status};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Records grants from many tasks; all times are of one clock.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Vec<Grant>>>);

/// One grant as its holder believed in it: from `granted` until, and without, `ended`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The lock.
    pub lock: String,
    /// Who held it.
    pub holder: String,
    /// How it was held. A grant that was downgraded is two, the second one shared.
    pub mode: Mode,
    /// The number of its fencing token; of no meaning for a permit.
    pub token: u64,
    /// When it was asked for.
    pub asked: Moment,
    /// When `acquire` returned.
    pub granted: Moment,
    /// When the belief ended: release called, loss shown or deadline passed, whichever was first.
    pub ended: Moment,
}

/// A grant whose belief has not ended yet.
#[derive(Debug)]
#[must_use = "a belief that never ends overlaps every later one"]
pub struct Believing {
    history: History,
    grant: Grant,
    lost: bool,
}

/// What can't be right.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Violation {
    /// Two holders believed in one lock at a time whose modes conflict (S4).
    Overlap(Box<Grant>, Box<Grant>),
    /// Two grants of one lock have one token (S1).
    DuplicateToken(Box<Grant>),
    /// A grant that was asked for after another was made has no larger token (S1).
    TokenOrder(Box<Grant>, Box<Grant>),
    /// As many as the limit says believed in permits of one semaphore, and this one as well (S4).
    TooMany(Box<Grant>),
    /// A lock that was seen lost was seen held again (S10).
    Revived(Box<Grant>),
}

impl History {
    /// Begins a belief, an exclusive one.
    pub fn granted(
        &self,
        lock: &str,
        holder: &str,
        token: u64,
        asked: Moment,
        granted: Moment,
    ) -> Believing {
        let (lock, holder) = (lock.to_owned(), holder.to_owned());
        let (mode, ended) = (Mode::Exclusive, Moment::NEVER);
        let grant = Grant { lock, holder, mode, token, asked, granted, ended };
        Believing { history: self.clone(), grant, lost: false }
    }

    /// Returns the grants whose belief has ended.
    #[must_use]
    pub fn grants(&self) -> Vec<Grant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Judges what was recorded; the number of grants when all is well.
    ///
    /// # Errors
    ///
    /// The first violation found.
    pub fn check(&self) -> Result<usize, Violation> {
        check(&self.grants())
    }

    /// Judges the tokens alone: for stores that end a session before its time, or operators who
    /// evict a holder, so that beliefs may overlap.
    ///
    /// # Errors
    ///
    /// The first violation found.
    pub fn check_tokens(&self) -> Result<usize, Violation> {
        judge(&self.grants(), check_tokens)
    }
}

impl Believing {
    /// Makes it a belief in a grant of another mode.
    pub fn held_as(mut self, mode: Mode) -> Self {
        self.grant.mode = mode;
        self
    }

    /// Notes a look at a leadership by the work of its term, which ends the belief if it is lost. One
    /// that was released goes on for the work's part: nobody else's may run until this has ended.
    ///
    /// # Errors
    ///
    /// As for [`looked`](Self::looked).
    pub fn worked(&mut self, status: Status, now: Moment) -> Result<(), Violation> {
        let lost = matches!(status, Status::Lost(reason) if reason != LossReason::Released);
        self.looked(!lost, now)
    }

    /// Notes a look at the lock: the first that is `false` ends the belief.
    ///
    /// # Errors
    ///
    /// [`Violation::Revived`] when it was lost before and is held now.
    pub fn looked(&mut self, held: bool, now: Moment) -> Result<(), Violation> {
        if held && self.lost {
            return Err(Violation::Revived(Box::new(self.grant.clone())));
        }
        if !held {
            self.lost = true;
            self.grant.ended = self.grant.ended.min(now);
        }
        Ok(())
    }

    /// Ends the belief, at the latest now.
    pub fn ended(mut self, now: Moment) {
        self.grant.ended = self.grant.ended.min(now);
        self.history.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.grant);
    }
}

/// Judges grants; their number when all is well.
///
/// # Errors
///
/// The first violation found.
pub fn check(grants: &[Grant]) -> Result<usize, Violation> {
    judge(grants, check_beliefs)?;
    judge(grants, check_tokens)
}

fn judge(
    grants: &[Grant],
    check: fn(&mut [&Grant]) -> Result<(), Violation>,
) -> Result<usize, Violation> {
    let mut locks: HashMap<&str, Vec<&Grant>> = HashMap::new();
    for grant in grants {
        locks.entry(&grant.lock).or_default().push(grant);
    }
    for grants in locks.values_mut() {
        check(grants)?;
    }
    Ok(grants.len())
}

fn check_beliefs(grants: &mut [&Grant]) -> Result<(), Violation> {
    grants.sort_by_key(|grant| grant.granted);
    // Of each mode the belief that lasts longest so far; of permits all that last.
    let (mut writer, mut reader): (Option<&Grant>, Option<&Grant>) = (None, None);
    let mut permits: Vec<&Grant> = Vec::new();
    for &grant in grants.iter().filter(|grant| grant.ended > grant.granted) {
        permits.retain(|permit| permit.ended > grant.granted);
        let another = permits.iter().find(|permit| permit.mode != grant.mode).copied();
        let conflicting = [writer, another, reader.filter(|_| grant.mode != Mode::Shared)];
        let lasts = |before: &&Grant| before.ended > grant.granted;
        if let Some(before) = conflicting.into_iter().flatten().find(lasts) {
            return Err(Violation::Overlap(Box::new(before.clone()), Box::new(grant.clone())));
        }
        let longest =
            |before: Option<_>| before.filter(|before: &&Grant| before.ended > grant.ended);
        match grant.mode {
            Mode::Exclusive => writer = longest(writer).or(Some(grant)),
            Mode::Shared => reader = longest(reader).or(Some(grant)),
            Mode::Permit { limit } => {
                permits.push(grant);
                if u32::try_from(permits.len()).is_ok_and(|holders| holders > limit) {
                    return Err(Violation::TooMany(Box::new(grant.clone())));
                }
            }
        }
    }
    Ok(())
}

fn check_tokens(grants: &mut [&Grant]) -> Result<(), Violation> {
    // Permits have no tokens.
    let mut grants: Vec<&Grant> =
        grants.iter().copied().filter(|grant| !matches!(grant.mode, Mode::Permit { .. })).collect();
    let mut seen = HashSet::new();
    if let Some(twice) = grants.iter().find(|grant| !seen.insert((grant.token, grant.mode))) {
        return Err(Violation::DuplicateToken(Box::new((*twice).clone())));
    }
    // Sweep over two orders at once: requests, and the grants that were made before each.
    let mut made = grants.clone();
    made.sort_by_key(|grant| grant.granted);
    grants.sort_by_key(|grant| grant.asked);
    let mut made = made.into_iter().peekable();
    let mut highest: Option<&Grant> = None;
    for grant in grants {
        while let Some(before) = made.next_if(|before| before.granted < grant.asked) {
            if highest.is_none_or(|highest| highest.token < before.token) {
                highest = Some(before);
            }
        }
        if let Some(before) = highest.filter(|before| before.token >= grant.token) {
            return Err(Violation::TokenOrder(Box::new(before.clone()), Box::new(grant.clone())));
        }
    }
    Ok(())
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap(a, b) => write!(f, "beliefs overlap: {a} and {b}"),
            Self::DuplicateToken(a) => write!(f, "the token was given before: {a}"),
            Self::TokenOrder(a, b) => write!(f, "{b} was asked for after {a} was made"),
            Self::TooMany(a) => write!(f, "more hold than the limit says, the last one is {a}"),
            Self::Revived(a) => write!(f, "seen lost, then held again: {a}"),
        }
    }
}

impl std::error::Error for Violation {}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lock, holder, mode, token, asked, granted, ended } = self;
        let ms = |moment: &Moment| moment.nanos() / 1_000_000;
        let (asked, granted) = (ms(asked), ms(granted));
        let ended = ms(ended);
        write!(
            f,
            "{lock}@{token} of {holder} ({mode:?}, asked {asked}, held {granted}..{ended} ms)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(token: u64, asked: u64, granted: u64, ended: u64) -> Grant {
        let at = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        let (asked, granted, ended) = (at(asked), at(granted), at(ended));
        let (lock, holder, mode) = ("l".into(), token.to_string(), Mode::Exclusive);
        Grant { lock, holder, mode, token, asked, granted, ended }
    }

    fn shared(token: u64, asked: u64, granted: u64, ended: u64) -> Grant {
        Grant { mode: Mode::Shared, ..grant(token, asked, granted, ended) }
    }

    fn permit(limit: u32, granted: u64, ended: u64) -> Grant {
        Grant { mode: Mode::Permit { limit }, ..grant(0, 0, granted, ended) }
    }

    #[test]
    fn readers_and_permits_may_hold_together() {
        // The second reader was a writer before.
        let readers = [
            shared(2, 0, 10, 90),
            shared(4, 11, 20, 30),
            grant(6, 31, 90, 100),
            shared(6, 31, 100, 120),
            shared(7, 95, 101, 110),
        ];
        assert_eq!(check(&readers), Ok(5));
        let permits = [permit(2, 0, 20), permit(2, 5, 10), permit(2, 10, 30), permit(2, 20, 40)];
        assert_eq!(check(&permits), Ok(4));
    }

    #[test]
    fn each_seeded_violation_of_readers_and_permits_is_found() {
        let overlapping = [
            [shared(1, 0, 10, 20), grant(2, 5, 19, 30)],
            [grant(1, 0, 10, 20), shared(2, 5, 19, 30)],
            [permit(2, 10, 20), permit(3, 19, 30)],
            [permit(2, 10, 20), grant(1, 5, 19, 30)],
            [shared(1, 0, 10, 20), permit(2, 19, 30)],
        ];
        for grants in overlapping {
            assert!(matches!(check(&grants), Err(Violation::Overlap(..))), "{grants:?}");
        }
        // A long reader, hidden behind a shorter one.
        let hidden = [shared(1, 0, 10, 90), shared(2, 11, 20, 30), grant(3, 31, 40, 50)];
        assert!(matches!(check(&hidden), Err(Violation::Overlap(..))));
        let three = [permit(2, 0, 20), permit(2, 5, 15), permit(2, 14, 30)];
        assert!(matches!(check(&three), Err(Violation::TooMany(..))));
        let below = [grant(5, 0, 10, 20), shared(4, 25, 30, 40)];
        assert!(matches!(check(&below), Err(Violation::TokenOrder(..))));
        let twice = [shared(5, 0, 10, 20), shared(5, 0, 10, 40)];
        assert!(matches!(check(&twice), Err(Violation::DuplicateToken(..))));
    }

    #[test]
    fn work_ends_with_a_loss_and_not_with_a_release() {
        let at = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        for (reason, found) in [(LossReason::Released, true), (LossReason::Expired, false)] {
            let history = History::default();
            let mut work = history.granted("l", "h", 1, at(0), at(10));
            work.worked(Status::Held, at(15)).unwrap();
            work.worked(Status::Lost(reason), at(20)).unwrap();
            history.granted("l", "i", 2, at(0), at(25)).ended(at(40));
            work.ended(at(30));
            let overlap = matches!(history.check(), Err(Violation::Overlap(..)));
            assert_eq!(overlap, found, "{reason:?}");
        }
    }

    #[test]
    fn a_right_history_passes() {
        // The second was asked for before the first was granted: any order of tokens would do.
        let grants = [grant(1, 0, 10, 20), grant(2, 5, 20, 30), grant(3, 25, 31, 32)];
        assert_eq!(check(&grants), Ok(3));
    }

    #[test]
    fn each_seeded_violation_is_found() {
        let overlap = check(&[grant(1, 0, 10, 21), grant(2, 5, 20, 30)]);
        assert!(matches!(overlap, Err(Violation::Overlap(..))));
        // A long belief overlaps one that is not its neighbour.
        let hidden = check(&[grant(1, 0, 10, 90), grant(2, 0, 95, 96), grant(3, 0, 12, 13)]);
        assert!(matches!(hidden, Err(Violation::Overlap(..))));
        let twice = check(&[grant(1, 0, 10, 20), grant(1, 25, 30, 40)]);
        assert!(matches!(twice, Err(Violation::DuplicateToken(..))));
        let order = check(&[grant(5, 0, 10, 20), grant(4, 25, 30, 40)]);
        assert!(matches!(order, Err(Violation::TokenOrder(..))));
        let history = History::default();
        let mut belief = history.granted("l", "h", 1, Moment::default(), Moment::default());
        belief.looked(false, Moment::from_nanos(5)).unwrap();
        let revived = belief.looked(true, Moment::from_nanos(6));
        assert!(matches!(revived, Err(Violation::Revived(..))));
        belief.ended(Moment::from_nanos(9));
        assert_eq!(history.grants()[0].ended, Moment::from_nanos(5));
    }

    #[test]
    fn a_million_grants_are_judged_without_pairing_them() {
        let grants: Vec<_> =
            (0..1_000_000).map(|at| grant(at, at * 10, at * 10 + 1, at * 10 + 9)).collect();
        assert_eq!(check(&grants), Ok(1_000_000));
    }
}
