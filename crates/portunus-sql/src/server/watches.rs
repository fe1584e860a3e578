//! Those who wait, by the lock that they wait for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use portunus_core::error::Result;
use tokio::sync::oneshot;

use super::standings::{Seen, Standings};

/// What somebody waits for.
#[derive(Debug)]
pub(super) enum Subject {
    /// That it may be an entry's turn, or that the entry is gone.
    Turn {
        own: u64,
        /// Those before it, none for one that holds.
        blockers: Vec<u64>,
        /// The sum of their revisions.
        as_of: u64,
    },
    /// That the first of the queue is no longer this one, at this revision.
    Head { first: Option<(u64, u64)> },
}

#[derive(Debug)]
pub(super) struct Watch {
    pub(super) key: String,
    pub(super) subject: Subject,
    pub(super) tell: oneshot::Sender<Result<()>>,
}

/// All who wait.
#[derive(Debug, Default)]
pub(super) struct Watches {
    by_number: BTreeMap<u64, Watch>,
    /// Each by the [first position](Subject::first_position) that it needs to know of: ten thousand who
    /// wait behind what was read are not asked.
    by_key: HashMap<String, BTreeSet<(u64, u64)>>,
    next: u64,
    /// At least as many as the most blockers of one that waits.
    most_blockers: usize,
    /// Keys with somebody new: what is waited for may have come before.
    fresh: HashSet<String>,
}

impl Subject {
    /// Whether it waits for others: not so one that holds.
    pub(super) fn awaits_others(&self) -> bool {
        !matches!(self, Self::Turn { blockers, .. } if blockers.is_empty())
    }

    fn first_position(&self) -> u64 {
        match self {
            Self::Turn { own, blockers, .. } => {
                blockers.iter().fold(*own, |first, at| first.min(*at))
            }
            Self::Head { .. } => 0,
        }
    }

    fn blockers(&self) -> usize {
        match self {
            Self::Turn { blockers, .. } => blockers.len(),
            Self::Head { .. } => 0,
        }
    }

    fn has_come(&self, standings: &Standings) -> bool {
        match self {
            Self::Head { first } => standings.first() != *first,
            Self::Turn { own, blockers, as_of } => {
                let seen: Vec<Seen> = blockers.iter().map(|at| standings.at(*at)).collect();
                if standings.at(*own) == Seen::Gone || seen.contains(&Seen::Gone) {
                    return true;
                }
                let revisions = seen.iter().map(|seen| match seen {
                    Seen::Standing(revision) => Some(*revision),
                    Seen::Gone | Seen::Beyond => None,
                });
                revisions.sum::<Option<u64>>().is_some_and(|sum| sum != *as_of)
            }
        }
    }
}

impl Watches {
    pub(super) fn insert(&mut self, watch: Watch) {
        let number = self.next;
        self.next += 1;
        self.fresh.insert(watch.key.clone());
        let place = (watch.subject.first_position(), number);
        self.by_key.entry(watch.key.clone()).or_default().insert(place);
        self.most_blockers = self.most_blockers.max(watch.subject.blockers());
        self.by_number.insert(number, watch);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// Whether somebody waits at this key who fits.
    pub(super) fn has(&self, key: &str, fits: impl Fn(&Subject) -> bool) -> bool {
        let numbers = self.by_key.get(key).into_iter().flatten();
        let mut watches = numbers.filter_map(|(_, number)| self.by_number.get(number));
        watches.any(|watch| !watch.tell.is_closed() && fits(&watch.subject))
    }

    pub(super) fn any(&self, fits: impl Fn(&Subject) -> bool) -> bool {
        self.by_number.values().any(|watch| fits(&watch.subject))
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.by_key.keys().cloned().collect()
    }

    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    pub(super) fn take_fresh(&mut self) -> HashSet<String> {
        std::mem::take(&mut self.fresh)
    }

    /// How many rows of a queue decide about one of those who wait, at most.
    pub(super) fn most_blockers(&self) -> usize {
        self.most_blockers
    }

    /// Takes out those at a key whose wait is over.
    pub(super) fn take_come(&mut self, key: &str, standings: &Standings) -> Vec<Watch> {
        let last = standings.known_to();
        let places = self.by_key.get(key).into_iter().flatten();
        let numbers = places.take_while(|(first, _)| *first <= last).map(|(_, number)| *number);
        let has_come = |number: &u64| {
            self.by_number.get(number).is_some_and(|watch| watch.subject.has_come(standings))
        };
        let come: Vec<u64> = numbers.filter(has_come).collect();
        come.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// Forgets those who wait no more.
    pub(super) fn sweep(&mut self) {
        let closed = |(number, watch): (&u64, &Watch)| watch.tell.is_closed().then_some(*number);
        for number in self.by_number.iter().filter_map(closed).collect::<Vec<_>>() {
            self.remove(number);
        }
        let blockers = self.by_number.values().map(|watch| watch.subject.blockers());
        self.most_blockers = blockers.max().unwrap_or(0);
    }

    pub(super) fn clear(&mut self) -> Vec<Watch> {
        self.by_key.clear();
        self.fresh.clear();
        std::mem::take(&mut self.by_number).into_values().collect()
    }

    fn remove(&mut self, number: u64) -> Option<Watch> {
        let watch = self.by_number.remove(&number)?;
        if let Some(numbers) = self.by_key.get_mut(&watch.key) {
            numbers.remove(&(watch.subject.first_position(), number));
            if numbers.is_empty() {
                self.by_key.remove(&watch.key);
                self.fresh.remove(&watch.key);
            }
        }
        Some(watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standings(rows: &[(u64, u64)], limit: u32) -> Standings {
        let mut standings = Standings::new(limit);
        rows.iter().for_each(|(position, revision)| standings.push(*position, *revision));
        standings
    }

    #[test]
    fn a_turn_has_come_when_a_blocker_went_or_changed_or_the_own_row_went() {
        let waits = Subject::Turn { own: 9, blockers: vec![3, 5], as_of: 2 };
        for (rows, has_come) in [
            (&[(3, 1), (5, 1), (9, 0)][..], false),
            (&[(1, 7), (3, 1), (5, 1), (9, 0)], false),
            (&[(3, 1), (9, 0)], true),
            (&[(3, 1), (5, 2), (9, 0)], true),
            (&[(3, 1), (5, 1)], true),
            (&[], true),
        ] {
            assert_eq!(waits.has_come(&standings(rows, 10)), has_come, "{rows:?}");
        }
        // Behind the part that was read nothing is known.
        assert!(!waits.has_come(&standings(&[(1, 0), (3, 1)], 2)));
        assert!(waits.has_come(&standings(&[(1, 0), (4, 1)], 2)));
        let holds = Subject::Turn { own: 3, blockers: vec![], as_of: 0 };
        assert!(!holds.awaits_others() && waits.awaits_others());
        assert!(!holds.has_come(&standings(&[(3, 4)], 10)));
        assert!(holds.has_come(&standings(&[(5, 4)], 10)));
    }

    #[test]
    fn a_head_has_changed_when_it_is_another_or_says_something_else() {
        let head = Subject::Head { first: Some((3, 1)) };
        for (rows, has_come) in
            [(&[(3, 1), (5, 0)][..], false), (&[(3, 2)], true), (&[(5, 0)], true), (&[], true)]
        {
            assert_eq!(head.has_come(&standings(rows, 1)), has_come, "{rows:?}");
        }
        assert!(!Subject::Head { first: None }.has_come(&standings(&[], 1)));
    }
}
