//! What the watch hub is told, and tells.

use std::sync::Arc;

use portunus_core::error::Error;

/// Why a wait ends.
#[derive(Clone, Debug)]
pub(crate) enum Wake {
    /// One of the keys went (or changed, where changes are watched).
    Gone,
    /// Something may have happened unseen: look.
    Stale,
    /// The store can't be watched.
    Broken(Error),
}

/// What to tell the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    /// Watch all keys below `prefix` from now, also their changes if `puts`, and no longer by the
    /// watch that is replaced.
    Open { watch: i64, prefix: Arc<str>, puts: bool, replaces: Option<i64> },
    /// Stop watching.
    Close { watch: i64 },
}

/// What a wait has to do with changes of entries that stand: marks of permits, downgrades.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Changes {
    /// They need not be watched.
    Unwatched,
    /// Others on this lock wait for them; this one does not.
    Ignored,
    /// They end the wait as the going of a key does.
    Awaited,
}

/// What became of a key.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) key: Arc<str>,
    pub(crate) revision: u64,
    /// It stands, and changed.
    pub(crate) stands: bool,
}

impl News {
    pub(crate) fn concerns(&self, as_of: u64, changes: Changes) -> bool {
        self.revision > as_of && (!self.stands || changes == Changes::Awaited)
    }
}
