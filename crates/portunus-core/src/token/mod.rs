//! The fencing token: what the resource compares, and where it came from.

mod origin;

pub use self::origin::{Incarnation, Origin};

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// A number that grows with every grant of one lock; send it with every write to the resource.
///
/// Tokens are ordered only within one [`Origin`]: [`PartialOrd`] answers `None` for tokens of two
/// locks, or of one lock before and after its store was replaced. Over HTTP a token travels as
/// [`FencingToken::HEADER`] in the form that [`Display`](fmt::Display) writes and [`FromStr`] reads.
///
/// # Weak tokens
///
/// The token of a store that is [weak](crate::backend::TokenStrength::Weak) may be given again, or a
/// lower one after it, once the store has failed over. It [says so](Self::is_weak), as text too, and
/// fences refuse it unless somebody said [`allow_weak`](Self::allow_weak): then they compare it like
/// any other. For order, equality and hash it makes no difference: these are about the position, and a
/// mark that was read back from a database does not say who raised it.
#[derive(Clone, Debug)]
pub struct FencingToken {
    value: u64,
    origin: Origin,
    worth: Worth,
}

/// What a fence may make of a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Worth {
    Sound,
    Weak,
    /// Weak, and accepted as that. Whoever accepts it speaks for this process: as text it is weak again.
    Allowed,
}

impl FencingToken {
    /// The name of the HTTP header: `Fencing-Token: <value>;origin=<hex>`, and `;weak` after it if it is.
    pub const HEADER: &'static str = "Fencing-Token";

    /// Creates a token that is not weak; stores and resources do, users read.
    #[must_use]
    pub fn new(value: u64, origin: Origin) -> Self {
        Self { value, origin, worth: Worth::Sound }
    }

    /// Creates the token of a store that is [weak](crate::backend::TokenStrength::Weak).
    #[must_use]
    pub fn new_weak(value: u64, origin: Origin) -> Self {
        Self { value, origin, worth: Worth::Weak }
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

    /// Whether its store may give it again, or a lower one after it, once it has failed over.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        self.worth != Worth::Sound
    }

    /// Accepts the token though it may be weak: two holders may pass a fence with it after the lock's
    /// store has failed over. To one that is not weak it does nothing.
    ///
    /// The tokens of a manager that was opened with
    /// [`allow_weak`](crate::manager::ManagerBuilder::allow_weak) are accepted from the start. In either
    /// case the leave stays in this process: it is no part of the text, so that a service decides for
    /// itself what it takes.
    #[must_use]
    pub fn allow_weak(mut self) -> Self {
        if self.worth == Worth::Weak {
            self.worth = Worth::Allowed;
        }
        self
    }

    /// Whether a fence may take it: it is not weak, or [was accepted](Self::allow_weak) as that. A fence
    /// asks before it compares.
    #[must_use]
    pub fn may_fence(&self) -> bool {
        self.worth != Worth::Weak
    }
}

/// By position: value and origin.
impl PartialEq for FencingToken {
    fn eq(&self, other: &Self) -> bool {
        (self.value, &self.origin) == (other.value, &other.origin)
    }
}

impl Eq for FencingToken {}

impl Hash for FencingToken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.value, &self.origin).hash(state);
    }
}

impl PartialOrd for FencingToken {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.origin == other.origin).then(|| self.value.cmp(&other.value))
    }
}

/// `<value>;origin=<hex>`, and `;weak` after it if it [is](FencingToken::is_weak).
impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weak = if self.is_weak() { WEAK } else { "" };
        write!(f, "{};origin={}{weak}", self.value, self.origin)
    }
}

/// Reads the one form that is written, and nothing else; without `;weak` a token is not weak.
impl FromStr for FencingToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once(";origin=").and_then(|(value, rest)| {
            // `u64::from_str` would also take a sign.
            let value = value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok());
            let (origin, worth) = match rest.strip_suffix(WEAK) {
                Some(origin) => (origin, Worth::Weak),
                None => (rest, Worth::Sound),
            };
            Some(Self { value: value??, origin: Origin::from_hex(origin)?, worth })
        });
        parsed.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "token", "parse").with_detail(
                "accepted is `<decimal value>;origin=<lower-case hex>`, and `;weak` after it",
            )
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

    /// As [`FencingToken::is_weak`].
    #[must_use]
    pub fn is_weak(&self) -> bool {
        self.0.is_weak()
    }

    /// As [`FencingToken::allow_weak`].
    #[must_use]
    pub fn allow_weak(self) -> Self {
        Self(self.0.allow_weak())
    }

    /// As [`FencingToken::may_fence`].
    #[must_use]
    pub fn may_fence(&self) -> bool {
        self.0.may_fence()
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
            Error::new(ErrorKind::Invalid, "token", "parse").with_detail(
                "accepted is `<decimal value>;origin=<lower-case hex>;shared`, and `;weak` \
                     before `;shared`",
            )
        })
    }
}

/// Ends the text of a weak token. A reader that does not know it refuses the whole.
const WEAK: &str = ";weak";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::name::LockName;

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
    fn a_token_says_that_it_is_weak_and_that_travels() {
        let sound = token(42, &[7, 255], "jobs/ü");
        let weak = FencingToken::new_weak(42, sound.origin().clone());
        assert!(weak.is_weak() && !weak.may_fence() && !sound.is_weak() && sound.may_fence());
        assert_eq!(weak.to_string(), "42;origin=0207ff6a6f62732fc3bc;weak");
        let read: FencingToken = weak.to_string().parse().unwrap();
        assert!(read.is_weak() && !read.may_fence());
        let shared = SharedToken::new(weak.clone());
        assert_eq!(shared.to_string(), "42;origin=0207ff6a6f62732fc3bc;weak;shared");
        let read: SharedToken = shared.to_string().parse().unwrap();
        assert!(read.is_weak() && !read.may_fence());
        // As all tokens were written before there was the word.
        let read: FencingToken = "42;origin=0207ff6a6f62732fc3bc".parse().unwrap();
        assert!(!read.is_weak() && read.may_fence());
        let read: SharedToken = "42;origin=0207ff6a6f62732fc3bc;shared".parse().unwrap();
        assert!(!read.is_weak() && read.may_fence());
    }

    #[test]
    fn the_leave_for_a_weak_token_does_not_travel() {
        let weak: FencingToken = "7;origin=017861;weak".parse().unwrap();
        let allowed = weak.clone().allow_weak();
        assert!(allowed.is_weak() && allowed.may_fence() && !weak.may_fence());
        assert_eq!(allowed.to_string(), weak.to_string());
        assert!(!allowed.to_string().parse::<FencingToken>().unwrap().may_fence());
        let shared = SharedToken::new(weak).allow_weak();
        assert!(shared.is_weak() && shared.may_fence());
        assert!(!shared.to_string().parse::<SharedToken>().unwrap().may_fence());
        // Where there is nothing to accept it makes nothing weak.
        assert!(!token(7, b"x", "a").allow_weak().is_weak());
    }

    #[test]
    fn weak_or_not_is_no_part_of_order_equality_and_hash() {
        let sound = |value| token(value, b"x", "a");
        let weak = |value| FencingToken::new_weak(value, sound(value).origin().clone());
        assert_eq!(sound(7), weak(7));
        assert_eq!(weak(7), weak(7).allow_weak());
        assert_eq!(sound(7).partial_cmp(&weak(7)), Some(Ordering::Equal));
        assert!(sound(6) < weak(7) && weak(7) < sound(8));
        assert!(!HashSet::from([sound(7)]).insert(weak(7)));
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
        for bad in [
            "",
            "42",
            "42;origin=",
            "+1;origin=0207ff61",
            ";origin=0207ff61",
            "1;origin=05ff",
            "1;origin=;weak",
            "1;weak",
            "1;weak;origin=017861",
            "1;origin=017861;",
            "1;origin=017861;wea",
            "1;origin=017861;Weak",
            "1;origin=017861; weak",
            "1;origin=017861;weak ",
            "1;origin=017861weak",
            "1;origin=017861;weak=1",
            "1;origin=017861;weak;weak",
            "1;origin=017861;shared;weak",
            "1;origin=017861;strong",
        ] {
            let refused = |error: Error| assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
            refused(bad.parse::<FencingToken>().unwrap_err());
            refused(bad.parse::<SharedToken>().unwrap_err());
            refused(format!("{bad};shared").parse::<SharedToken>().unwrap_err());
        }
    }
}
