//! What a user can choose, and reading it from a URL.

use std::path::{Path, PathBuf};

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::url::StoreUrl;

use super::error::STORE;
use super::place::Place;
use crate::rows::Keys;

/// Which file the locks are in.
#[derive(Clone, Debug)]
pub struct SqliteConfig {
    place: Place,
    namespace: String,
}

impl SqliteConfig {
    /// Names the file; it is made if it is not there. Its directory has to be there. A relative path is
    /// taken from where the process is now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a path that is empty, holds NUL, ends in `/`, or is `:memory:`, which
    /// each connection would have for itself.
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_encoded_bytes();
        if bytes.is_empty() || bytes.contains(&0) || bytes == b":memory:" || bytes.ends_with(b"/") {
            return Err(invalid(format!(
                "the path `{}`; accepted is that of a file, `sqlite:PATH`",
                path.display().to_string().escape_debug()
            )));
        }
        let path = std::path::absolute(path)
            .map_err(|cause| invalid("the path is relative to nothing").with_source(cause))?;
        Ok(Self::at(path, false))
    }

    /// Chooses the user's own file: `$XDG_STATE_HOME/portunus/locks.db`, or
    /// `~/.local/state/portunus/locks.db`. Its directory is made where it is missing, for the user
    /// alone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when neither `XDG_STATE_HOME` nor `HOME` names a directory.
    pub fn of_user() -> Result<Self> {
        let directory = |variable| std::env::var_os(variable).map(PathBuf::from);
        let state = user_state(directory("XDG_STATE_HOME"), directory("HOME"));
        let state = state.ok_or_else(|| {
            invalid(
                "neither `XDG_STATE_HOME` nor `HOME` is set to an absolute path; accepted is \
                 `sqlite:PATH`",
            )
        })?;
        Ok(Self::at(state.join("portunus").join("locks.db"), true))
    }

    /// Reads `sqlite:PATH[?options]`, `sqlite:///PATH`, or `sqlite:` for [the user's own
    /// file](Self::of_user), and takes the option `namespace`; the rest stay for others. What has a
    /// meaning in URLs is escaped in the path, as in `%3F` for `?`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] says which part can't be read and what is accepted.
    pub fn from_url(url: &mut StoreUrl) -> Result<Self> {
        if url.scheme() != "sqlite" {
            return Err(invalid(format!("scheme `{}`; accepted is `sqlite`", url.scheme())));
        }
        if !url.hosts().is_empty() || url.login().is_some() {
            return Err(invalid(
                "the URL names a host or a user, and the file lies on this machine; accepted are \
                 `sqlite:PATH` and `sqlite:///PATH`",
            ));
        }
        let config = match url.path() {
            "" => Self::of_user()?,
            path => Self::new(path)?,
        };
        match url.take("namespace") {
            Some(namespace) => config.namespace(namespace),
            None => Ok(config),
        }
    }

    /// Keeps the locks apart from those of other namespaces in the same file. The default is `portunus`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is empty, longer than 64 bytes, or holds NUL or `/`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Result<Self> {
        let namespace = namespace.into();
        if !(1..=64).contains(&namespace.len()) || namespace.contains(['\0', '/']) {
            return Err(invalid(format!(
                "namespace `{}`; accepted are 1 to 64 bytes without NUL and without `/`",
                namespace.escape_debug()
            )));
        }
        self.namespace = namespace;
        Ok(self)
    }

    /// Returns where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn keys(&self) -> Keys {
        Keys::new(&self.namespace)
    }

    fn at(path: PathBuf, makes_directory: bool) -> Self {
        Self { place: Place { path, makes_directory }, namespace: "portunus".to_owned() }
    }
}

/// By the XDG base directory specification, which says to ignore relative paths.
fn user_state(state: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let state = state.filter(|path| path.is_absolute());
    state.or_else(|| Some(home.filter(|path| path.is_absolute())?.join(".local").join("state")))
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, STORE, "connect").with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<SqliteConfig> {
        let mut url = StoreUrl::parse(url)?;
        let config = SqliteConfig::from_url(&mut url)?;
        url.finish()?;
        Ok(config)
    }

    #[test]
    fn reads_each_kind_of_path() {
        let here = std::env::current_dir().unwrap();
        for (url, path) in [
            ("sqlite:/var/lib/a.db", PathBuf::from("/var/lib/a.db")),
            ("sqlite:///var/lib/a.db", PathBuf::from("/var/lib/a.db")),
            ("sqlite:a/b.db?namespace=shop", here.join("a/b.db")),
            ("sqlite:what%3F.db", here.join("what?.db")),
        ] {
            let config = read(url).unwrap();
            assert_eq!((config.path(), config.place().makes_directory), (&*path, false), "{url}");
        }
        assert_eq!(read("sqlite:a?namespace=shop").unwrap().keys().begin("x"), "shop/x");
        assert_eq!(read("sqlite:a").unwrap().keys().begin("x"), "portunus/x");
    }

    #[test]
    fn without_a_path_it_is_the_user_s_own_file() {
        let path = |path: &str| Some(PathBuf::from(path));
        assert_eq!(user_state(path("/s"), path("/home/me")), path("/s"));
        let below_home = path("/home/me/.local/state");
        assert_eq!(user_state(path("relative"), path("/home/me")), below_home);
        assert_eq!(user_state(None, path("/home/me")), below_home);
        assert_eq!(user_state(None, None), None);
        if let Ok(config) = read("sqlite:") {
            assert!(config.path().ends_with("portunus/locks.db") && config.place().makes_directory);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        #[rustfmt::skip]
        let table = [
            ("sqlite://host/a.db", "names a host or a user"),
            ("sqlite://u:s3cret@host/a.db", "names a host or a user"),
            ("sqlite::memory:", "accepted is that of a file"),
            ("sqlite:a/", "accepted is that of a file"),
            ("sqlite:a%00b", "accepted is that of a file"),
            ("sqlite:a?namespace=x/y", "accepted are 1 to 64"),
            ("sqlite:a?tls=true", "unknown option `tls`"),
            ("etcd:a", "scheme"),
        ];
        for (url, text) in table {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(text), "{url}: {error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
