//! Where things are kept: keys, and reading them back.

use etcd_client::KeyValue;
use portunus_core::backend::{AttemptId, Record, SessionId};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;

use crate::error::STORE;

/// How the names of locks become keys.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Layout {
    /// `<namespace>/<escaped name>/<lease>-<number>`: no two names ever meet.
    #[default]
    Portunus,
    /// `<name>/<lease>-<number>`, the name as it is: excludes `etcdctl lock`, Go's
    /// `concurrency.Mutex` and `v3lock` from the same name, and is excluded by them. For those
    /// clients a name also waits for the names below it (`a` for `a/b`); for ours it does not.
    Verbatim,
}

/// The keys of one layout in one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    layout: Layout,
    /// What every key begins with: empty, or ending in `/`.
    root: String,
}

/// What a key below a lock's prefix is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Member {
    /// An entry of the lock's queue, of this or another client.
    Contender,
    /// Something of another lock.
    Elsewhere,
    /// Something that would block the queue and never go by itself.
    Foreign(&'static str),
}

impl Keys {
    pub(crate) fn new(layout: Layout, namespace: Option<&str>) -> Self {
        let root = match (layout, namespace) {
            (_, Some(namespace)) => format!("{namespace}/"),
            (Layout::Portunus, None) => "portunus/".to_owned(),
            (Layout::Verbatim, None) => String::new(),
        };
        Self { layout, root }
    }

    /// Returns what the keys of a lock's entries begin with.
    pub(crate) fn queue(&self, name: &LockName) -> Result<String> {
        match self.layout {
            Layout::Portunus => Ok(format!("{}{}/", self.root, name.escaped())),
            Layout::Verbatim if name.as_str().starts_with(RESERVED) => {
                Err(Error::new(ErrorKind::Invalid, STORE, "name")
                    .with_key(name.as_str())
                    .with_detail("names below `.portunus/` are kept for this library's own keys"))
            }
            Layout::Verbatim => Ok(format!("{}{name}/", self.root)),
        }
    }

    /// Returns the key of a session's entry with this number.
    pub(crate) fn entry(&self, session: SessionId, name: &LockName, slot: u32) -> Result<String> {
        Ok(format!("{}{slot}", self.entries(session, name)?))
    }

    /// Returns what the keys of a session's entries begin with.
    pub(crate) fn entries(&self, session: SessionId, name: &LockName) -> Result<String> {
        Ok(format!("{}{session}-", self.queue(name)?))
    }

    /// Returns the key whose presence says that the attempt was withdrawn.
    pub(crate) fn tombstone(&self, session: SessionId, attempt: AttemptId) -> String {
        match self.layout {
            Layout::Portunus => format!("{}.ended/{session}/{attempt}", self.root),
            Layout::Verbatim => format!("{}{RESERVED}ended/{session}/{attempt}", self.root),
        }
    }

    /// Returns the key of the random id that the store's life is known by.
    pub(crate) fn incarnation(&self) -> String {
        match self.layout {
            Layout::Portunus => format!("{}.incarnation", self.root),
            Layout::Verbatim => format!("{}{RESERVED}incarnation", self.root),
        }
    }

    /// Whether everything below a lock's prefix belongs to that lock.
    pub(crate) fn is_exact(&self) -> bool {
        self.layout == Layout::Portunus
    }

    /// Says what `kv`, found below the prefix `queue`, is.
    pub(crate) fn member(&self, queue: &str, kv: &KeyValue) -> Member {
        self.classify(&kv.key()[queue.len().min(kv.key().len())..], kv.lease())
    }

    fn classify(&self, tail: &[u8], lease: i64) -> Member {
        if !self.is_exact() && tail.contains(&b'/') {
            return Member::Elsewhere;
        }
        if !is_entry(tail) {
            return Member::Foreign("its name is not that of a contender");
        }
        match lease {
            0 => Member::Foreign("it has no lease"),
            _ => Member::Contender,
        }
    }

    /// Returns what the keys begin with of all locks whose names begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<String> {
        if prefix.is_empty() {
            return Ok(self.root.clone());
        }
        let name = LockName::new(prefix)?;
        Ok(match self.layout {
            Layout::Portunus => format!("{}{}", self.root, name.escaped()),
            Layout::Verbatim => format!("{}{name}", self.root),
        })
    }

    /// Reads the lock's name from the key of an entry.
    pub(crate) fn name_of(&self, key: &[u8]) -> Option<LockName> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&self.root)?;
        let (name, entry) = key.rsplit_once('/')?;
        match self.layout {
            Layout::Portunus => LockName::unescape(name),
            Layout::Verbatim if key.starts_with(RESERVED) => None,
            Layout::Verbatim => LockName::new(name).ok().filter(|_| is_entry(entry.as_bytes())),
        }
    }
}

/// Writes the value of an attempt's entry: the record, and whose it is.
pub(crate) fn value(attempt: AttemptId, record: &Record) -> String {
    let mut json = record.to_json();
    json.truncate(json.len() - 1);
    json + &mark(attempt)
}

/// Whether this attempt wrote `kv`. The mark holds quotes that are nowhere else unescaped.
pub(crate) fn is_by(attempt: AttemptId, kv: &KeyValue) -> bool {
    kv.value().ends_with(mark(attempt).as_bytes())
}

fn mark(attempt: AttemptId) -> String {
    format!(",\"attempt\":\"{attempt}\"}}")
}

/// The end of the range of all keys that begin with `prefix`.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// A key in the form in which the engine knows it.
pub(crate) fn text(key: &[u8]) -> std::sync::Arc<str> {
    String::from_utf8_lossy(key).into()
}

/// `<hex>` as Go's clients write it, or `<hex>-<anything>`.
fn is_entry(tail: &[u8]) -> bool {
    let hex = tail.split(|&byte| byte == b'-').next().unwrap_or_default();
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    !hex.is_empty() && hex.iter().all(is_hex) && !tail.contains(&b'/')
}

const RESERVED: &str = ".portunus/";

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> LockName {
        LockName::new(name).unwrap()
    }

    #[test]
    fn the_value_is_a_record_that_says_whose_it_is() {
        let record = Record { value: "\"attempt\"".into(), ..Record::default() };
        let json = value(AttemptId(0xab), &record);
        assert!(json.ends_with(r#","attempt":"000000000000000000000000000000ab"}"#), "{json}");
        assert_eq!(Record::read(json.as_bytes()), record);
    }

    #[test]
    fn keys_read_as_documented() {
        let session = SessionId(0x1f);
        let id = "000000000000000000000000000000ab";
        let ours = Keys::new(Layout::Portunus, None);
        let entry = ours.entry(session, &name("a/b"), 3).unwrap();
        assert_eq!(entry, "portunus/a%2Fb/1f-3");
        assert_eq!(ours.name_of(entry.as_bytes()), Some(LockName::new("a/b").unwrap()));
        assert_eq!(ours.tombstone(session, AttemptId(0xab)), format!("portunus/.ended/1f/{id}"));
        assert_eq!(ours.name_of(ours.tombstone(session, AttemptId(1)).as_bytes()), None);
        assert_eq!(ours.name_of(ours.incarnation().as_bytes()), None);

        let plain = Keys::new(Layout::Verbatim, None);
        assert_eq!(plain.entry(session, &name("a/b"), 3).unwrap(), "a/b/1f-3");
        assert_eq!(plain.tombstone(session, AttemptId(0xab)), format!(".portunus/ended/1f/{id}"));
        assert_eq!(plain.name_of(b"a/b/1f"), Some(LockName::new("a/b").unwrap()));
        assert_eq!(plain.name_of(plain.tombstone(session, AttemptId(1)).as_bytes()), None);
        let error = plain.queue(&LockName::new(".portunus/x").unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let spaced = Keys::new(Layout::Verbatim, Some("ns"));
        assert_eq!(spaced.entry(session, &name("a"), 0).unwrap(), "ns/a/1f-0");
    }

    #[test]
    fn contenders_are_told_from_strangers_and_neighbours() {
        let (ours, plain) = (Keys::new(Layout::Portunus, None), Keys::new(Layout::Verbatim, None));
        for keys in [&ours, &plain] {
            assert_eq!(keys.classify(b"694d8e", 1), Member::Contender);
            assert_eq!(keys.classify(b"694d8e-x", 1), Member::Contender);
            assert!(matches!(keys.classify(b"694d8e", 0), Member::Foreign(_)));
            assert!(matches!(keys.classify(b"config", 1), Member::Foreign(_)));
            assert!(matches!(keys.classify(b"", 1), Member::Foreign(_)));
        }
        assert_eq!(plain.classify(b"b/694d8e", 1), Member::Elsewhere);
        assert!(matches!(ours.classify(b"b/694d8e", 1), Member::Foreign(_)));
    }

    #[test]
    fn ranges_end_after_their_prefix() {
        assert_eq!(prefix_end(b"a/"), b"a0");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b""), b"\0");
    }
}
