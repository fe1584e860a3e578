//! The name of a lock: parsed once, valid for ever after, and escaped so that no two names meet.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::error::{Error, ErrorKind, Result};

/// The name of a lock: 1 to [`LockName::MAX_BYTES`] bytes of UTF-8 without NUL, the same on every
/// store, case-sensitive, compared byte by byte.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LockName(Arc<str>);

impl LockName {
    /// The longest name, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 512;

    /// Parses a name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is empty, longer than [`LockName::MAX_BYTES`] or holds NUL.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        let fault = if name.is_empty() {
            "the name is empty".to_owned()
        } else if name.len() > Self::MAX_BYTES {
            format!("the name has {} bytes", name.len())
        } else if name.contains('\0') {
            "the name holds a NUL".to_owned()
        } else {
            return Ok(Self(name.into()));
        };
        let shown: String = name.chars().take(40).collect();
        Err(Error::new(ErrorKind::Invalid, "lock", "name")
            .with_key(shown)
            .with_detail(format!("{fault}; accepted are 1 to 512 bytes of UTF-8 without NUL")))
    }

    /// Returns the name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name as one path segment of ASCII without `/`, control characters and a leading
    /// dot. The mapping is injective and undone by [`LockName::unescape`]: `a` never meets `a/b`.
    #[must_use]
    pub fn escaped(&self) -> String {
        let escaped = utf8_percent_encode(&self.0, ESCAPED).to_string();
        match escaped.strip_prefix('.') {
            Some(rest) => format!("%2E{rest}"),
            None => escaped,
        }
    }

    /// Reads back what [`LockName::escaped`] wrote; `None` for anything else.
    #[must_use]
    pub fn unescape(escaped: &str) -> Option<Self> {
        let name = percent_decode_str(escaped).decode_utf8().ok()?;
        Self::new(name).ok().filter(|name| name.escaped() == escaped)
    }
}

impl AsRef<str> for LockName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for LockName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is escaped beside all that is not ASCII: `%` keeps the mapping injective.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'/').add(b'%').add(b' ');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_no_store_could_keep() {
        for bad in ["", "a\0b", &"x".repeat(513)] {
            assert_eq!(LockName::new(bad).unwrap_err().kind(), ErrorKind::Invalid);
        }
        assert!(LockName::new("x".repeat(512)).is_ok());
    }

    #[test]
    fn escaping_is_injective_and_undone() {
        let names = ["a", "a/b", "a%2Fb", ".", "..", "%2E", ".ended", "Ä", "a b", "A", "\u{7f}"];
        let escaped: std::collections::HashSet<_> =
            names.iter().map(|name| LockName::new(name).unwrap().escaped()).collect();
        assert_eq!(escaped.len(), names.len());
        for name in names {
            let escaped = LockName::new(name).unwrap().escaped();
            assert!(escaped.is_ascii() && !escaped.contains('/') && !escaped.starts_with('.'));
            assert_eq!(LockName::unescape(&escaped).unwrap().as_str(), name);
        }
        assert_eq!(LockName::unescape("a/b"), None);
        assert_eq!(LockName::unescape("%2f"), None);
    }
}
