//! The fencing token: what the resource compares, and where it came from.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::name::LockName;

/// A number that grows with every grant of one lock; send it with every write to the resource.
///
/// Tokens are ordered only within one [`Origin`]: [`PartialOrd`] answers `None` for tokens of two
/// locks, or of one lock before and after its store was replaced. Over HTTP a token travels as
/// [`FencingToken::HEADER`] in the form that [`Display`](fmt::Display) writes and [`FromStr`] reads.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct FencingToken {
    value: u64,
    origin: Origin,
}

impl FencingToken {
    /// The name of the HTTP header: `Fencing-Token: <value>;origin=<hex>`.
    pub const HEADER: &'static str = "Fencing-Token";

    /// Creates a token; stores and resources do, users read.
    #[must_use]
    pub fn new(value: u64, origin: Origin) -> Self {
        Self { value, origin }
    }

    /// Returns the number, which grows with every grant of one origin.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.value
    }

    /// Returns where the number comes from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl PartialOrd for FencingToken {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.origin == other.origin).then(|| self.value.cmp(&other.value))
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};origin={}", self.value, self.origin)
    }
}

impl FromStr for FencingToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once(";origin=").and_then(|(value, origin)| {
            // `u64::from_str` would also take a sign.
            let value = value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok());
            Some(Self::new(value??, Origin::from_hex(origin)?))
        });
        parsed.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "token", "parse")
                .with_detail("accepted is `<decimal value>;origin=<lower-case hex>`")
        })
    }
}

/// The token of a shared grant: a resource may check that it is not below the highest exclusive token
/// that it accepted, and must not keep it. A type of its own, so that nothing takes one for the other.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SharedToken(FencingToken);

impl SharedToken {
    pub(crate) fn new(token: FencingToken) -> Self {
        Self(token)
    }

    /// Returns the number: above that of every exclusive grant before this one.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.value()
    }

    /// Returns where the number comes from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        self.0.origin()
    }
}

/// In a form that nobody reads as a [`FencingToken`].
impl fmt::Display for SharedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};shared", self.0)
    }
}

impl FromStr for SharedToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.strip_suffix(";shared").and_then(|token| token.parse().ok());
        parsed.map(Self).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "token", "parse")
                .with_detail("accepted is `<decimal value>;origin=<lower-case hex>;shared`")
        })
    }
}

/// Where a token comes from: one lock in one [`Incarnation`] of a store.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Origin {
    incarnation: Incarnation,
    name: LockName,
}

impl Origin {
    /// Names an origin.
    #[must_use]
    pub fn new(incarnation: Incarnation, name: LockName) -> Self {
        Self { incarnation, name }
    }

    /// Returns the incarnation of the store.
    #[must_use]
    pub fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    /// Returns the name of the lock.
    #[must_use]
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// The hex holds the incarnation's length, the incarnation and the name, hence is injective.
    fn from_hex(hex: &str) -> Option<Self> {
        let bytes = decode_hex(hex)?;
        let (&length, rest) = bytes.split_first()?;
        let (incarnation, name) = rest.split_at_checked(length.into())?;
        let name = LockName::new(std::str::from_utf8(name).ok()?).ok()?;
        Some(Self::new(Incarnation::new(incarnation).ok()?, name))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{}", self.incarnation.0.len(), self.incarnation)?;
        self.name.as_str().bytes().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One life of a store: another one after it was wiped, restored or replaced.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Incarnation(Arc<[u8]>);

impl Incarnation {
    /// The longest incarnation, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Takes the bytes that a store identifies its life with.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when there are none, or more than [`Incarnation::MAX_BYTES`].
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() || bytes.len() > Self::MAX_BYTES {
            return Err(Error::new(ErrorKind::Invalid, "store", "incarnation")
                .with_detail(format!("it has {} bytes; accepted are 1 to 64", bytes.len())));
        }
        Ok(Self(bytes.into()))
    }
}

impl From<u128> for Incarnation {
    fn from(number: u128) -> Self {
        Self(number.to_be_bytes().as_slice().into())
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incarnation({self})")
    }
}

fn decode_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(value: u64, incarnation: &[u8], name: &str) -> FencingToken {
        let origin =
            Origin::new(Incarnation::new(incarnation).unwrap(), LockName::new(name).unwrap());
        FencingToken::new(value, origin)
    }

    #[test]
    fn tokens_of_two_origins_are_not_ordered() {
        assert!(token(1, b"x", "a") < token(2, b"x", "a"));
        assert_eq!(token(1, b"x", "a").partial_cmp(&token(2, b"y", "a")), None);
        assert_eq!(token(1, b"x", "a").partial_cmp(&token(2, b"x", "b")), None);
    }

    #[test]
    fn the_header_is_read_back_and_nothing_else_is() {
        let original = token(42, &[7, 255], "jobs/ü");
        assert_eq!(original.to_string(), "42;origin=0207ff6a6f62732fc3bc");
        assert_eq!(original.to_string().parse::<FencingToken>().unwrap(), original);
        let shared = SharedToken::new(original.clone()).to_string();
        assert_eq!(shared.parse::<FencingToken>().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(shared.parse::<SharedToken>().unwrap(), SharedToken::new(original.clone()));
        let exclusive = original.to_string();
        assert_eq!(exclusive.parse::<SharedToken>().unwrap_err().kind(), ErrorKind::Invalid);
        // The length keeps (incarnation, name) = ("ab", "c") apart from ("a", "bc").
        assert_ne!(token(1, b"ab", "c").to_string(), token(1, b"a", "bc").to_string());
        for bad in
            ["", "42", "42;origin=", "+1;origin=0207ff61", ";origin=0207ff61", "1;origin=05ff"]
        {
            assert_eq!(
                bad.parse::<FencingToken>().unwrap_err().kind(),
                ErrorKind::Invalid,
                "{bad}"
            );
        }
    }
}
