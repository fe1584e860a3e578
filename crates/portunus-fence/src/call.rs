//! One call on a fence: its input is checked here, the rule is here, and its errors say where they
//! come from.

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::token::{FencingToken, Origin, SharedToken};

use crate::fence::MAX_VALUE_BYTES;

/// What is asked of which resource.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    fence: &'static str,
    operation: &'static str,
    /// Resources are named as locks are.
    resource: LockName,
}

impl Call {
    /// Begins a call; `fence` and `operation` are words for people.
    pub(crate) fn new(
        fence: &'static str,
        operation: &'static str,
        resource: &str,
    ) -> Result<Self> {
        let resource = LockName::new(resource).map_err(|error| {
            Error::new(ErrorKind::Invalid, fence, operation)
                .with_detail("the resource's name")
                .with_source(error)
        })?;
        Ok(Self { fence, operation, resource })
    }

    pub(crate) fn resource(&self) -> &LockName {
        &self.resource
    }

    pub(crate) fn error(&self, kind: ErrorKind) -> Error {
        Error::new(kind, self.fence, self.operation).with_key(self.resource.as_str())
    }

    /// Checks an exclusive token by itself, before anything is asked of the store: `max` is the largest
    /// number that the fence can keep.
    pub(crate) fn exclusive(&self, token: &FencingToken, max: u64) -> Result<()> {
        self.in_range(token.value(), max)?;
        self.trusted(token.may_fence())
    }

    /// Checks a shared token by itself.
    pub(crate) fn shared(&self, token: &SharedToken, max: u64) -> Result<()> {
        self.in_range(token.value(), max)?;
        self.trusted(token.may_fence())
    }

    /// Checks the length of a value.
    pub(crate) fn value(&self, value: &[u8]) -> Result<()> {
        if value.len() <= MAX_VALUE_BYTES {
            return Ok(());
        }
        let length = value.len();
        Err(self.invalid(format!("the value has {length} bytes; accepted are {MAX_VALUE_BYTES}")))
    }

    /// The rule for an exclusive token. What passes becomes the mark.
    pub(crate) fn pass(&self, mark: Option<&FencingToken>, token: &FencingToken) -> Result<()> {
        mark.map_or(Ok(()), |mark| self.compare(mark, token.value(), token.origin()))
    }

    /// The rule for a shared token, which becomes nothing.
    pub(crate) fn pass_shared(
        &self,
        mark: Option<&FencingToken>,
        token: &SharedToken,
    ) -> Result<()> {
        mark.map_or(Ok(()), |mark| self.compare(mark, token.value(), token.origin()))
    }

    /// What is stored is no mark.
    #[cfg(any(
        feature = "etcd",
        feature = "file",
        feature = "mysql",
        feature = "postgres",
        feature = "redis",
        feature = "sqlite",
        feature = "zookeeper"
    ))]
    pub(crate) fn garbled(&self, what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        self.error(ErrorKind::Protocol).with_detail(what)
    }

    fn compare(&self, mark: &FencingToken, value: u64, origin: &Origin) -> Result<()> {
        if mark.origin() != origin {
            let (here, there) = (mark.origin(), origin);
            let detail = if here.name() == there.name() {
                format!(
                    "the token comes from another life of the lock's store ({}) than the mark ({})",
                    there.incarnation(),
                    here.incarnation()
                )
            } else {
                format!(
                    "the token is of the lock `{}`, the mark of `{}`",
                    there.name().as_str().escape_debug(),
                    here.name().as_str().escape_debug()
                )
            };
            return Err(self.error(ErrorKind::Conflict).with_detail(detail));
        }
        if value < mark.value() {
            let detail = format!("the token {value} is below the mark {}", mark.value());
            return Err(self.error(ErrorKind::Stale).with_detail(detail));
        }
        Ok(())
    }

    fn trusted(&self, may_fence: bool) -> Result<()> {
        if may_fence {
            return Ok(());
        }
        Err(self.invalid(
            "the token is weak: after a fail-over its lock's store may give it again, or a lower one, and \
             two holders pass; accepted are tokens of other stores, or this one after `allow_weak`; \
             the mark and the resource are as they were"
                .to_owned(),
        ))
    }

    fn in_range(&self, value: u64, max: u64) -> Result<()> {
        if (1..=max).contains(&value) {
            return Ok(());
        }
        Err(self.invalid(format!("the token is {value}; accepted are 1 to {max}")))
    }

    fn invalid(&self, detail: String) -> Error {
        self.error(ErrorKind::Invalid).with_detail(detail)
    }
}

/// The mark that a token becomes: a position and no more. Most stores have no place for what the token is
/// worth, and a mark that says so must not read otherwise in those that have.
pub(crate) fn mark_of(token: &FencingToken) -> FencingToken {
    FencingToken::new(token.value(), token.origin().clone())
}

/// Whether a request can change anything: a lost answer to a read leaves no doubt behind.
#[cfg(any(feature = "etcd", feature = "redis", feature = "zookeeper"))]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effect {
    Read,
    Write,
}

#[cfg(any(feature = "etcd", feature = "redis", feature = "zookeeper"))]
impl Effect {
    /// What a failure of such a request means, where `kind` is that of one that can change something.
    pub(crate) fn kind(self, kind: ErrorKind) -> ErrorKind {
        match (self, kind) {
            (Self::Read, ErrorKind::Unconfirmed) => ErrorKind::Unavailable,
            _ => kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use portunus_core::token::Incarnation;

    use super::*;

    fn token(value: u64, life: &[u8], name: &str) -> FencingToken {
        let origin = Origin::new(Incarnation::new(life).unwrap(), LockName::new(name).unwrap());
        FencingToken::new(value, origin)
    }

    fn weak(value: u64) -> FencingToken {
        FencingToken::new_weak(value, token(value, b"x", "stock").origin().clone())
    }

    fn kind(result: Result<()>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn what_is_not_below_the_mark_passes() {
        let call = Call::new("memory", "admit", "stock/42").unwrap();
        let mark = token(7, b"x", "stock");
        assert_eq!(kind(call.pass(None, &token(1, b"x", "stock"))), None);
        for (value, refused) in [(6, Some(ErrorKind::Stale)), (7, None), (8, None)] {
            let given = token(value, b"x", "stock");
            assert_eq!(kind(call.pass(Some(&mark), &given)), refused, "{value}");
            let given = format!("{given};shared").parse().unwrap();
            assert_eq!(kind(call.pass_shared(Some(&mark), &given)), refused, "{value}");
        }
    }

    #[test]
    fn an_origin_is_a_lock_in_one_life_of_its_store() {
        let call = Call::new("memory", "admit", "stock/42").unwrap();
        let mark = token(7, b"x", "stock");
        for (other, said) in [
            (token(8, b"y", "stock"), "another life of the lock's store (79)"),
            (token(8, b"x", "stack"), "of the lock `stack`, the mark of `stock`"),
        ] {
            let error = call.pass(Some(&mark), &other).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.to_string().starts_with("memory admit stock/42: conflict: "), "{error}");
        }
    }

    #[test]
    fn a_weak_token_is_refused_unless_it_was_allowed() {
        let call = Call::new("memory", "admit", "stock/42").unwrap();
        let error = call.exclusive(&weak(7), u64::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        for said in ["the token is weak", "after `allow_weak`", "the mark and the resource are as"]
        {
            assert!(error.to_string().contains(said), "{error}");
        }
        let shared: SharedToken = format!("{};shared", weak(7)).parse().unwrap();
        assert_eq!(kind(call.shared(&shared, u64::MAX)), Some(ErrorKind::Invalid));
        assert_eq!(kind(call.exclusive(&weak(7).allow_weak(), u64::MAX)), None);
        assert_eq!(kind(call.shared(&shared.allow_weak(), u64::MAX)), None);
        // What the number itself must not be it must not be here, either.
        assert_eq!(kind(call.exclusive(&weak(9).allow_weak(), 8)), Some(ErrorKind::Invalid));
    }

    #[test]
    fn a_mark_says_nothing_of_who_raised_it() {
        let kept = mark_of(&weak(7).allow_weak());
        assert!(kept == weak(7) && !kept.is_weak());
        assert_eq!(kept.to_string(), token(7, b"x", "stock").to_string());
    }

    #[test]
    fn input_out_of_range_is_told() {
        for name in ["", "a\0b", &"a".repeat(513)] {
            let error = Call::new("memory", "open", name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(format!("{error:#}").contains("1 to 512 bytes"), "{error:#}");
        }
        let call = Call::new("memory", "open", &"a".repeat(512)).unwrap();
        assert_eq!(kind(call.exclusive(&token(0, b"x", "a"), u64::MAX)), Some(ErrorKind::Invalid));
        assert_eq!(kind(call.exclusive(&token(9, b"x", "a"), 8)), Some(ErrorKind::Invalid));
        assert_eq!(kind(call.exclusive(&token(8, b"x", "a"), 8)), None);
        assert_eq!(kind(call.value(&[0; MAX_VALUE_BYTES])), None);
        assert_eq!(kind(call.value(&[0; MAX_VALUE_BYTES + 1])), Some(ErrorKind::Invalid));
    }
}
