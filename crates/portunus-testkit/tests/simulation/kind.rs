//! What the clients of one schedule contend for.

/// The locks of one schedule: of one kind, so that they meet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Locks,
    Readers,
    Permits,
    Leaders,
    Many,
}

impl Kind {
    pub const ALL: [Self; 5] =
        [Self::Locks, Self::Readers, Self::Permits, Self::Leaders, Self::Many];

    /// Two of three schedules are of plain locks; it says nothing of the other traits of a seed.
    pub fn of(seed: u64) -> Self {
        match (seed / 3 % 3, seed / 9 % 4) {
            (2, 0) => Self::Readers,
            (2, 1) => Self::Permits,
            (2, 2) => Self::Leaders,
            (2, _) => Self::Many,
            _ => Self::Locks,
        }
    }

    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Locks => &["a", "b"],
            Self::Readers => &["read"],
            Self::Permits => &["permit"],
            Self::Leaders => &["leader"],
            Self::Many => &["many/a", "many/b", "many/c"],
        }
    }
}
