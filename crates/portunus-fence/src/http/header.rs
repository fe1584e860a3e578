//! The header: written by a client, read by a service.

use http::{HeaderMap, HeaderName, HeaderValue};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::{FencingToken, SharedToken};

/// A token as it travels, of either kind.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Token {
    /// Of an exclusive grant: becomes the mark.
    Exclusive(FencingToken),
    /// Of a shared grant: is compared with the mark, and never becomes it.
    Shared(SharedToken),
}

/// Sets the header to `token`; one that is there already is replaced.
///
/// For clients without tower, as the headers of a `reqwest::Request`.
///
/// ```
/// use portunus_fence::FencingToken;
/// use portunus_fence::http::{Token, attach, read};
///
/// let token: FencingToken = "42;origin=0178616263".parse()?;
/// let mut headers = http::HeaderMap::new();
/// attach(&mut headers, &token);
/// assert_eq!(headers[FencingToken::HEADER], "42;origin=0178616263");
/// assert_eq!(read(&headers)?, Some(Token::Exclusive(token)));
/// # Ok::<(), portunus_fence::Error>(())
/// ```
pub fn attach(headers: &mut HeaderMap, token: impl Into<Token>) {
    headers.insert(&NAME, token.into().header());
}

/// Returns the token that the headers carry, or `None` without one.
///
/// Read, not compared: a fence has to be asked about it.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] when the header is there more than once, even with one value, or is not a
/// token in the one form that is written. The error does not repeat what was sent.
pub fn read(headers: &HeaderMap) -> Result<Option<Token>> {
    let mut values = headers.get_all(&NAME).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("given more than once"));
    }
    let token = value.to_str().ok().and_then(Token::parse);
    token.map(Some).ok_or_else(|| {
        invalid(
            "accepted is `<decimal value>;origin=<lower-case hex>`, and after it `;weak`, `;shared`, or \
             both in this order",
        )
    })
}

impl Token {
    /// As [`FencingToken::allow_weak`].
    #[must_use]
    pub fn allow_weak(self) -> Self {
        match self {
            Self::Exclusive(token) => Self::Exclusive(token.allow_weak()),
            Self::Shared(token) => Self::Shared(token.allow_weak()),
        }
    }

    /// As [`FencingToken::may_fence`].
    #[must_use]
    pub fn may_fence(&self) -> bool {
        match self {
            Self::Exclusive(token) => token.may_fence(),
            Self::Shared(token) => token.may_fence(),
        }
    }

    /// The header's value.
    pub(super) fn header(&self) -> HeaderValue {
        let text = match self {
            Self::Exclusive(token) => token.to_string(),
            Self::Shared(token) => token.to_string(),
        };
        HeaderValue::try_from(text).expect("BUG: a token is written in ASCII without controls")
    }

    fn parse(text: &str) -> Option<Self> {
        if text.ends_with(";shared") {
            text.parse().ok().map(Self::Shared)
        } else {
            text.parse().ok().map(Self::Exclusive)
        }
    }
}

impl From<FencingToken> for Token {
    fn from(token: FencingToken) -> Self {
        Self::Exclusive(token)
    }
}

impl From<&FencingToken> for Token {
    fn from(token: &FencingToken) -> Self {
        Self::Exclusive(token.clone())
    }
}

impl From<SharedToken> for Token {
    fn from(token: SharedToken) -> Self {
        Self::Shared(token)
    }
}

impl From<&SharedToken> for Token {
    fn from(token: &SharedToken) -> Self {
        Self::Shared(token.clone())
    }
}

/// [`FencingToken::HEADER`], in the lower case in which header maps keep it.
pub(super) static NAME: HeaderName = HeaderName::from_static("fencing-token");

fn invalid(detail: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, "http", "read")
        .with_key(FencingToken::HEADER)
        .with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_one_that_core_gives() {
        assert_eq!(NAME, FencingToken::HEADER);
    }

    #[test]
    fn a_shared_token_is_read_back_as_one() {
        let token: SharedToken = "42;origin=0178616263;shared".parse().unwrap();
        let mut headers = HeaderMap::new();
        attach(&mut headers, &token);
        assert_eq!(read(&headers).unwrap(), Some(Token::Shared(token)));
    }

    #[test]
    fn a_weak_token_is_read_back_as_one_and_its_leave_is_not() {
        for text in ["42;origin=0178616263;weak", "42;origin=0178616263;weak;shared"] {
            let mut headers = HeaderMap::new();
            attach(&mut headers, Token::parse(text).unwrap().allow_weak());
            assert_eq!(headers[&NAME], text);
            let read = read(&headers).unwrap().unwrap();
            assert!(!read.may_fence() && read.allow_weak().may_fence(), "{text}");
        }
    }

    #[test]
    fn the_longest_token_fits() {
        let origin = format!("40{}{}", "ff".repeat(64), "61".repeat(512));
        let token: FencingToken = format!("{};origin={origin};weak", u64::MAX).parse().unwrap();
        let mut headers = HeaderMap::new();
        attach(&mut headers, &token);
        assert_eq!(read(&headers).unwrap(), Some(Token::Exclusive(token)));
    }
}
