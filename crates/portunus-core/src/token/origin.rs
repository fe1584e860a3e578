//! Where a token comes from; only tokens of one origin are compared.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::name::LockName;

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
    pub(super) fn from_hex(hex: &str) -> Option<Self> {
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
