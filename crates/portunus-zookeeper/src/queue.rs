//! From a node's children to the place in the queue.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portunus_core::backend::{Attempt, Entry, EntryId, Expires, Turn};
use portunus_core::error::Result;
use portunus_core::queue::{self, Place};

use crate::layout::{mode, position};
use crate::slots::Own;

/// The entries of one lock among the children of its node.
pub(crate) struct Queue<'a> {
    parent: &'a str,
    strangers: &'a Strangers,
}

impl<'a> Queue<'a> {
    pub(crate) fn new(parent: &'a str, strangers: &'a Strangers) -> Self {
        Self { parent, strangers }
    }

    /// Reads the entries in their order. Children without a number cannot stand in a queue: they
    /// are told of, once for each lock, and left out.
    pub(crate) fn entries(&self, children: &[String]) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(children.len());
        for child in children {
            match position(child) {
                Some(position) => entries.push(Entry {
                    id: EntryId { key: format!("{}/{child}", self.parent).into(), position },
                    mode: mode(child),
                }),
                None => self.strangers.ignored(self.parent, child),
            }
        }
        entries.sort_by_key(|entry| entry.id.position);
        entries
    }

    /// Says whom an attempt would wait for if it entered now; nobody if it would hold.
    pub(crate) fn blockers(&self, mut entries: Vec<Entry>, attempt: &Attempt) -> Result<Place> {
        let position = entries.last().map_or(0, |last| last.id.position + 1);
        let next = EntryId { key: self.parent.into(), position };
        entries.push(Entry { id: next.clone(), mode: attempt.mode });
        queue::turn(&entries, &next)
    }

    /// Decides where an attempt's node stands.
    pub(crate) fn turn(&self, children: &[String], own: &Own) -> Result<Turn> {
        turn(&self.entries(children), own)
    }
}

/// Decides where an attempt's node stands among the entries of its queue.
pub(crate) fn turn(entries: &[Entry], own: &Own) -> Result<Turn> {
    Ok(match queue::turn(entries, &own.entry)? {
        Place::First => Turn::Held { token: own.token, expires: Expires::WithSession },
        Place::Absent => Turn::Lost,
        // What went before the watch is found by the watch.
        Place::Behind(blockers) => Turn::Waiting { blockers, as_of: 0 },
    })
}

/// Children that no contender of a lock can have made.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// Locks about which was warned.
    told: Mutex<HashSet<String>>,
    /// Nodes in the way that were seen not to belong to any session.
    suspects: Mutex<HashSet<Arc<str>>>,
}

impl Strangers {
    /// Remembers a node in the way that does not go with a session.
    pub(crate) fn suspect(&self, path: &Arc<str>) {
        let mut suspects = lock(&self.suspects);
        if suspects.len() >= MANY {
            // Who waits for one of these finds it again.
            suspects.clear();
        }
        suspects.insert(Arc::clone(path));
    }

    /// Which of these nodes is to be looked at before it is waited for; each is named once.
    pub(crate) fn suspected(&self, blockers: &[Arc<str>]) -> Option<Arc<str>> {
        let mut suspects = lock(&self.suspects);
        blockers.iter().find_map(|blocker| suspects.take(blocker))
    }

    fn ignored(&self, parent: &str, child: &str) {
        let mut told = lock(&self.told);
        if told.len() < MANY && !told.contains(parent) {
            told.insert(parent.to_owned());
            drop(told);
            tracing::warn!(parent, child, "a child that is no contender is left out of the queue");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many locks or nodes are remembered.
const MANY: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_core::error::ErrorKind;

    const PARENT: &str = "/p/a";

    fn own(child: &str) -> Own {
        Own::new(format!("{PARENT}/{child}"), position(child).unwrap(), 77)
    }

    fn turn(children: &[&str], me: &str) -> Result<Turn> {
        let children: Vec<String> = children.iter().map(|child| (*child).to_owned()).collect();
        Queue::new(PARENT, &Strangers::default()).turn(&children, &own(me))
    }

    #[test]
    fn the_number_decides_whatever_the_name_before_it() {
        let [curator, kazoo, ours] =
            ["_c_z-lock-0000000007", "f00__lock__0000000009", "_c_a-lock-0000000010"];
        let children = [ours, "config", kazoo, curator];
        let behind = |child: &str| Turn::Waiting {
            blockers: vec![format!("{PARENT}/{child}").into()],
            as_of: 0,
        };
        assert_eq!(turn(&children, ours).unwrap(), behind(kazoo));
        assert_eq!(turn(&children, kazoo).unwrap(), behind(curator));
        let held = Turn::Held { token: 77, expires: Expires::WithSession };
        assert_eq!(turn(&children, curator).unwrap(), held);
        assert_eq!(turn(&["config"], ours).unwrap(), Turn::Lost);
    }

    #[test]
    fn the_name_tells_who_holds_together() {
        let [one, two, three] =
            ["_c_a-__READ__0000000001", "f00__rlock__0000000002", "_c_b-__WRIT__0000000003"];
        let held = Turn::Held { token: 77, expires: Expires::WithSession };
        let children = [one, two, three];
        assert_eq!(turn(&children, one).unwrap(), held);
        assert_eq!(turn(&children, two).unwrap(), held);
        assert!(matches!(turn(&children, three).unwrap(), Turn::Waiting { .. }));
        let permits = ["_c_a-permit.1-0000000001", "_c_b-permit.2-0000000002"];
        assert_eq!(turn(&permits, permits[1]).unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn equal_numbers_are_refused() {
        let pair = ["_c_a-lock-2147483647", "_c_b-lock-2147483647"];
        assert_eq!(turn(&pair, pair[0]).unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn a_suspect_is_named_once() {
        let strangers = Strangers::default();
        let path: Arc<str> = "/p/a/lock-0000000001".into();
        strangers.suspect(&path);
        assert_eq!(strangers.suspected(&["/p/a/x".into()]), None);
        assert_eq!(strangers.suspected(&[Arc::clone(&path)]), Some(Arc::clone(&path)));
        assert_eq!(strangers.suspected(&[path]), None);
    }
}
