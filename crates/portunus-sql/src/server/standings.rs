//! The beginning of one lock's queue, as the watcher read it.

/// Positions with their revisions, in their order, and no more of them than were asked for.
#[derive(Debug)]
pub(super) struct Standings {
    rows: Vec<(u64, u64)>,
    limit: u32,
}

/// What is known of a position.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// It stands, at this revision.
    Standing(u64),
    Gone,
    /// It may stand behind what was read.
    Beyond,
}

impl Standings {
    pub(super) fn new(limit: u32) -> Self {
        Self { rows: Vec::new(), limit }
    }

    pub(super) fn push(&mut self, position: u64, revision: u64) {
        self.rows.push((position, revision));
    }

    pub(super) fn first(&self) -> Option<(u64, u64)> {
        self.rows.first().copied()
    }

    /// The last position of which it knows whether it stands.
    pub(super) fn known_to(&self) -> u64 {
        let is_whole = u32::try_from(self.rows.len()).is_ok_and(|length| length < self.limit);
        if is_whole { u64::MAX } else { self.rows.last().map_or(0, |(last, _)| *last) }
    }

    pub(super) fn at(&self, position: u64) -> Seen {
        match self.rows.binary_search_by_key(&position, |(position, _)| *position) {
            Ok(at) => Seen::Standing(self.rows[at].1),
            Err(_) if position < self.known_to() => Seen::Gone,
            Err(_) => Seen::Beyond,
        }
    }
}
