//! One try to get one lock, and what it tells other contenders about itself.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

use crate::name::LockName;

/// One try to get one lock. It makes at most one entry, in one session, for ever.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Chosen before the first request, never reused.
    pub id: AttemptId,
    /// The lock.
    pub name: LockName,
    /// How it is to be held.
    pub mode: Mode,
    /// Whether to give up at once, without an entry, when it can't be granted at once.
    pub try_only: bool,
    /// What observers see of a leader; empty elsewhere.
    pub value: String,
    /// Who asks.
    pub holder: Arc<Holder>,
}

impl Attempt {
    /// Returns what the store keeps beside the entry.
    #[must_use]
    pub fn record(&self) -> Record {
        Record { mode: self.mode, holder: Some((*self.holder).clone()), value: self.value.clone() }
    }
}

/// The 128-bit name of an [`Attempt`], random and unique; shown as 32 digits of hex.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AttemptId(pub u128);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttemptId({self})")
    }
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By one alone.
    #[default]
    Exclusive,
    /// Together with other shared holders.
    Shared,
    /// Together with up to `limit` − 1 other permits.
    Permit {
        /// How many may hold at a time; every contender of the lock names the same number.
        limit: u32,
    },
}

/// The kind of lock that a name is used as, for people.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive => f.write_str("an exclusive lock"),
            Self::Shared => f.write_str("a shared lock"),
            Self::Permit { limit } => write!(f, "a semaphore of limit {limit}"),
        }
    }
}

/// Who holds or waits, for people who look at the store.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Holder {
    /// The machine's host name.
    pub host: String,
    /// The process id on that machine.
    pub pid: u32,
    /// The application's name for itself; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub app: String,
}

/// What the store keeps beside an entry, as one line of JSON: readable with the store's own tools.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// How the lock is to be held.
    pub mode: Mode,
    /// Who asks; absent for clients other than this library.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// What observers see of a leader.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
}

impl Record {
    /// Writes the line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and numbers always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what some contender wrote. Other clients write other things, or nothing: they hold
    /// the lock exclusively, and their text is the value.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_else(|_| Self {
            mode: Mode::Exclusive,
            holder: None,
            value: String::from_utf8_lossy(bytes).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_readable_line_and_foreign_text_is_kept() {
        let holder = Holder { host: "h1".into(), pid: 7, app: String::new() };
        let record =
            Record { mode: Mode::Permit { limit: 3 }, holder: Some(holder), value: "v".into() };
        let json = record.to_json();
        assert_eq!(
            json,
            r#"{"mode":{"permit":{"limit":3}},"holder":{"host":"h1","pid":7},"value":"v"}"#
        );
        assert_eq!(Record::read(json.as_bytes()), record);
        assert_eq!(Record::read(b"10.0.0.1").value, "10.0.0.1");
        assert_eq!(Record::read(b"").mode, Mode::Exclusive);
    }
}
