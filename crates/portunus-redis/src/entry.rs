//! What the values in the store say: holders and waiters, ours and other clients'.

use std::sync::Arc;

use portunus_core::backend::{AttemptId, Contender, EntryId, Record};

/// What the key of a lock says of its holder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Lock {
    pub(crate) attempt: AttemptId,
    pub(crate) round: u64,
    pub(crate) position: u64,
    pub(crate) token: u64,
    /// How many values were published before this one.
    pub(crate) serial: u64,
    pub(crate) record: Vec<u8>,
}

/// What a line says of one who waits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) attempt: AttemptId,
    pub(crate) position: u64,
    pub(crate) record: Vec<u8>,
}

impl Lock {
    /// Reads `<attempt>:<round>:<session>:<position>:<number>:<token>:<serial>:<record>`; `None` for another
    /// client's.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let mut parts = value.splitn(8, |byte| *byte == b':');
        let attempt = attempt(parts.next()?)?;
        let round = number(parts.next()?)?;
        let _session = parts.next()?;
        let position = number(parts.next()?)?;
        let _number = number(parts.next()?)?;
        let token = number(parts.next()?)?;
        let serial = number(parts.next()?)?;
        Some(Self { attempt, round, position, token, serial, record: parts.next()?.to_vec() })
    }

    /// The part of a value that is the same on all servers that gave the lock for one round: attempt
    /// and round, or all of another client's.
    pub(crate) fn grant(value: &[u8]) -> &[u8] {
        let end = |_| value.iter().enumerate().filter(|(_, byte)| **byte == b':').nth(1);
        Self::read(value).and_then(end).map_or(value, |(at, _)| &value[..at])
    }

    pub(crate) fn contender(&self) -> Contender {
        Contender {
            entry: EntryId { key: key(self.attempt), position: self.position },
            holds: true,
            token: Some(self.token),
            record: Record::read(&self.record),
        }
    }
}

impl Place {
    /// Reads `<session>:<position>:<floor>:<record>`.
    pub(crate) fn read(field: &[u8], value: &[u8]) -> Option<Self> {
        let mut parts = value.splitn(4, |byte| *byte == b':');
        let _session = parts.next()?;
        let position = number(parts.next()?)?;
        let _floor = number(parts.next()?)?;
        Some(Self { attempt: attempt(field)?, position, record: parts.next()?.to_vec() })
    }

    pub(crate) fn contender(&self) -> Contender {
        Contender {
            entry: EntryId { key: key(self.attempt), position: self.position },
            holds: false,
            token: None,
            record: Record::read(&self.record),
        }
    }
}

/// What an entry is called: its attempt.
pub(crate) fn key(attempt: AttemptId) -> Arc<str> {
    attempt.to_string().into()
}

/// What the holder of a lock is called, also if it is another client.
pub(crate) fn holder_key(value: &[u8]) -> Arc<str> {
    match Lock::read(value) {
        Some(lock) => key(lock.attempt),
        None => String::from_utf8_lossy(value).into(),
    }
}

/// A holder that is no client of this library.
pub(crate) fn foreign(value: &[u8]) -> Contender {
    Contender {
        entry: EntryId { key: holder_key(value), position: 0 },
        holds: true,
        token: None,
        record: Record::read(value),
    }
}

fn attempt(hex: &[u8]) -> Option<AttemptId> {
    let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.len() == 32)?;
    u128::from_str_radix(hex, 16).ok().map(AttemptId)
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_told_from_another_clients() {
        let hex = "0123456789abcdef0123456789abcdef";
        let value = format!("{hex}:2:ff:7:8:9:0:{{\"mode\":\"exclusive\",\"value\":\"a:b\"}}");
        let lock = Lock::read(value.as_bytes()).unwrap();
        assert_eq!((lock.round, lock.position, lock.token), (2, 7, 9));
        assert_eq!(lock.contender().record.value, "a:b");
        assert_eq!(&*holder_key(value.as_bytes()), hex);
        for other in [hex, "", "7e8f1c:1:2", &format!("x{}", &value[1..])] {
            assert_eq!(Lock::read(other.as_bytes()), None, "{other}");
        }
        let place = Place::read(hex.as_bytes(), b"ff:7:0:{}").unwrap();
        assert_eq!((place.position, &*place.contender().entry.key), (7, hex));
    }
}
