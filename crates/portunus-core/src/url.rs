//! The URL that names a store: parsed here once, with the options that every store shares.

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// A parsed store URL, `scheme://user:password@host:port,host:port/path?option=value`, or
/// `scheme:path`. `Debug` and errors never show the password.
///
/// Options are *taken* by those who know them; [`StoreUrl::finish`] refuses what is left.
#[derive(Clone)]
pub struct StoreUrl {
    scheme: String,
    user: Option<String>,
    password: Option<SecretString>,
    hosts: Vec<String>,
    path: String,
    options: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl StoreUrl {
    /// Parses a URL.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a URL without a scheme, with a half-given user, an empty host, a
    /// broken escape or a repeated option. The text of the URL is never in the error.
    pub fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once(':').ok_or_else(|| {
            invalid("the URL has no scheme; accepted is `scheme://host:port`, or `scheme:path`")
        })?;
        if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(invalid("the URL's scheme is not a word"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let place = rest.strip_prefix("//");
        let place = place.map(|place| place.split_at(place.find('/').unwrap_or(place.len())));
        // A bare `/` or `?` in a password would make the rest of it a path or an option, to be shown.
        if place.is_some_and(|(_, path)| path.contains('@') || query.contains('@')) {
            return Err(invalid(
                "an `@` follows the hosts; accepted are escapes: %40 for `@`, and in a password also \
                 %2F for `/` and %3F for `?`",
            ));
        }
        let mut parsed = Self {
            scheme: scheme.to_ascii_lowercase(),
            user: None,
            password: None,
            hosts: Vec::new(),
            path: String::new(),
            options: parse_options(query)?,
            known: Vec::new(),
        };
        match place {
            None => parsed.path = decode(rest)?,
            Some((authority, path)) => {
                parsed.path = decode(path)?;
                parsed.set_authority(authority)?;
            }
        }
        Ok(parsed)
    }

    fn set_authority(&mut self, authority: &str) -> Result<()> {
        let hosts = match authority.rsplit_once('@') {
            None => authority,
            Some((login, hosts)) => {
                let (user, password) = login.split_once(':').ok_or_else(|| {
                    invalid("the URL names a user without a password; accepted is `user:password@`")
                })?;
                self.user = Some(decode(user)?);
                self.password = Some(SecretString::from(decode(password)?));
                hosts
            }
        };
        self.hosts = hosts.split(',').filter(|_| !hosts.is_empty()).map(str::to_owned).collect();
        if self.hosts.iter().any(|host| host.is_empty() || host.contains(char::is_whitespace)) {
            return Err(invalid("a host in the URL is empty; accepted is `host:port,host:port`"));
        }
        Ok(())
    }

    /// Returns the scheme in lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns the user and the password in clear, for the one who sends them to the store.
    #[must_use]
    pub fn login(&self) -> Option<(&str, &str)> {
        self.user.as_deref().zip(self.password.as_ref().map(ExposeSecret::expose_secret))
    }

    /// Returns the hosts as `host` or `host:port`, in the order given; none for `scheme:path`.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Returns the path, decoded, with its leading `/` if there is one.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Takes an option as text; asking makes it known.
    pub fn take(&mut self, option: &'static str) -> Option<String> {
        self.known.push(option);
        let at = self.options.iter().position(|(name, _)| name == option)?;
        Some(self.options.remove(at).1)
    }

    /// Takes an option that is `true` or `false`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for any other text.
    pub fn take_bool(&mut self, option: &'static str) -> Result<Option<bool>> {
        self.take_parsed(option, "`true` or `false`", |text| text.parse().ok())
    }

    /// Takes an option that is a whole number.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for any other text.
    pub fn take_number(&mut self, option: &'static str) -> Result<Option<usize>> {
        self.take_parsed(option, "a whole number", |text| text.parse().ok())
    }

    /// Takes an option that is a span of time: a whole number with `ms`, `s`, `m` or `h`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for any other text.
    pub fn take_duration(&mut self, option: &'static str) -> Result<Option<Duration>> {
        self.take_parsed(option, "a whole number with `ms`, `s`, `m` or `h`, as in `10s`", |text| {
            let digits = text.find(|c: char| !c.is_ascii_digit())?;
            let (number, unit) = text.split_at(digits);
            let number: u64 = number.parse().ok()?;
            match unit {
                "ms" => Some(Duration::from_millis(number)),
                "s" => Some(Duration::from_secs(number)),
                "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
                "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
                _ => None,
            }
        })
    }

    fn take_parsed<T>(
        &mut self,
        option: &'static str,
        accepted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(text) = self.take(option) else { return Ok(None) };
        let parsed = parse(&text).ok_or_else(|| {
            invalid(format!("option `{option}` has the value `{text}`; accepted is {accepted}"))
        })?;
        Ok(Some(parsed))
    }

    /// Ends the parsing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when an option is left that nobody took; lists the known ones.
    pub fn finish(mut self) -> Result<()> {
        let Some((unknown, _)) = self.options.first() else { return Ok(()) };
        self.known.sort_unstable();
        self.known.dedup();
        Err(invalid(format!("unknown option `{unknown}`; known are {}", self.known.join(", "))))
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = self.user.as_ref().map(|user| format!("{user}:…@")).unwrap_or_default();
        write!(f, "{}://{login}{}{}", self.scheme, self.hosts.join(","), self.path)
    }
}

fn parse_options(query: &str) -> Result<Vec<(String, String)>> {
    let mut options: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        if value.is_empty() {
            return Err(invalid(format!("option `{name}` has no value")));
        }
        if options.iter().any(|(other, _)| *other == name) {
            return Err(invalid(format!("option `{name}` is given twice")));
        }
        options.push((name, value));
    }
    Ok(options)
}

fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| invalid("a percent escape in the URL is not UTF-8"))
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, "portunus", "connect").with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_part() {
        let mut url =
            StoreUrl::parse("STORE://u%40x:p%3Aw@a:2379,b:2379/x?ttl=10s&tls=true&n=3").unwrap();
        assert_eq!(url.scheme(), "store");
        let (user, password) = url.login().unwrap();
        assert_eq!((user, password), ("u@x", "p:w"));
        assert_eq!(url.hosts(), ["a:2379", "b:2379"]);
        assert_eq!(url.path(), "/x");
        assert_eq!(url.take_duration("ttl").unwrap(), Some(Duration::from_secs(10)));
        assert_eq!(url.take_bool("tls").unwrap(), Some(true));
        assert_eq!(url.take_number("n").unwrap(), Some(3));
        assert_eq!(url.take("ca"), None);
        assert!(!format!("{url:?}").contains("p:w"));
        url.finish().unwrap();
        assert_eq!(StoreUrl::parse("file:/tmp/a%20b").unwrap().path(), "/tmp/a b");
        assert!(StoreUrl::parse("memory:").unwrap().hosts().is_empty());
    }

    #[test]
    fn refuses_the_rest_without_printing_a_password() {
        let bad = [
            "nothing",
            "://x",
            "store://user@host",
            "store://a,,b",
            "store://u:s3cret@a?ttl=1s&ttl=2s",
            "store://u:s3cret@a?ttl",
            "store://u:s3cret%ff@a",
            "store://u:1/s3cret@a",
            "store://u:1?s3cret@a",
        ];
        for url in bad {
            let error = StoreUrl::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
        let mut url = StoreUrl::parse("store://a?ttl=10&typo=1").unwrap();
        assert!(url.take_duration("ttl").unwrap_err().to_string().contains("`10s`"));
        let error = url.finish().unwrap_err().to_string();
        assert!(error.contains("`typo`") && error.contains("known are ttl"), "{error}");
    }
}
