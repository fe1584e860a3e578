//! The one error type: a kind to branch on, context to read.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed: a [`kind`](Self::kind) to branch on, context to read.
///
/// `{}` prints one line without the cause, `{:#}` appends the chain of causes. The cause is also
/// what [`source`](StdError::source) returns, so it is never printed twice.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    store: &'static str,
    operation: &'static str,
    key: Option<String>,
    detail: Option<Cow<'static, str>>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What the caller can do about an [`Error`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ErrorKind {
    /// Something else uses this key, or a token comes from another origin: look at what is there.
    Conflict,
    /// Credentials or permissions were refused: stop.
    Denied,
    /// The input can never work: fix the call.
    Invalid,
    /// The lock, or the place in the queue, is gone: stop touching the resource.
    Lost,
    /// A limit of this process is reached: shed load, try later.
    Overloaded,
    /// The reply made no sense: report a bug.
    Protocol,
    /// The store went back in time or was replaced: an operator has to look.
    Regression,
    /// The token is older than one that the resource has seen: stop.
    Stale,
    /// The request was not applied: retry.
    Unavailable,
    /// The request may or may not have been applied: retrying is safe, the engine cleans up.
    Unconfirmed,
    /// This store, or this build's features, cannot do it: choose another.
    Unsupported,
}

impl Error {
    /// Creates an error; `store` and `operation` are words for people, such as `"memory"` and
    /// `"acquire"`.
    #[must_use]
    pub fn new(kind: ErrorKind, store: &'static str, operation: &'static str) -> Self {
        Self(Box::new(Inner { kind, store, operation, key: None, detail: None, source: None }))
    }

    /// Names the lock or the key that the operation was about.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// Says what was wrong, what is accepted, and what is left behind.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Names the store, for what was decided without knowing it.
    pub(crate) fn in_store(mut self, store: &'static str) -> Self {
        self.0.store = store;
        self
    }

    /// Returns what the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the name of the lock or key, where one is known.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// Whether the same call may succeed later without any change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        use ErrorKind::{Overloaded, Unavailable, Unconfirmed};
        matches!(self.0.kind, Overloaded | Unavailable | Unconfirmed)
    }
}

impl ErrorKind {
    fn phrase(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Denied => "access denied",
            Self::Invalid => "invalid input",
            Self::Lost => "lost",
            Self::Overloaded => "overloaded",
            Self::Protocol => "unexpected reply",
            Self::Regression => "the store went back in time",
            Self::Stale => "stale token",
            Self::Unavailable => "unavailable",
            Self::Unconfirmed => "outcome unknown",
            Self::Unsupported => "unsupported",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, store, operation, key, detail, .. } = &*self.0;
        write!(f, "{store} {operation}")?;
        if let Some(key) = key {
            write!(f, " {}", key.escape_debug())?;
        }
        write!(f, ": {}", kind.phrase())?;
        if let Some(detail) = detail {
            write!(f, ": {detail}")?;
        }
        if f.alternate() {
            let mut cause = self.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}, \"{self:#}\")", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_and_the_alternate_form_adds_the_chain() {
        let cause = std::io::Error::other("connection reset");
        let error = Error::new(ErrorKind::Unconfirmed, "store", "acquire")
            .with_key("jobs/7")
            .with_detail("the entry is withdrawn in the background")
            .with_source(cause);
        assert_eq!(
            error.to_string(),
            "store acquire jobs/7: outcome unknown: the entry is withdrawn in the background"
        );
        assert!(format!("{error:#}").ends_with("background: connection reset"));
        assert!(error.is_retryable());
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
