//! What a user can choose, and reading it from a URL.

use std::fmt;
use std::path::PathBuf;

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::tls::TlsConfig;
use portunus_core::url::StoreUrl;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::Config;

use super::error::STORE;
use super::tls::MakeTls;
use crate::rows::Keys;

/// Where the database is and how to speak to it. `Debug` never shows the password.
#[derive(Clone)]
pub struct PostgresConfig {
    hosts: Vec<(String, u16)>,
    database: String,
    namespace: String,
    login: Option<(String, SecretString)>,
    tls: Option<TlsConfig>,
    /// An identity that was given before `tls` was.
    identity: Option<(PathBuf, PathBuf)>,
}

impl PostgresConfig {
    /// Names the servers, each as `host` or `host:port`; the port is 5432 unless given. The first that
    /// takes writes is used.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when there is none, one is named twice, a port is no number, or the
    /// database has no name.
    pub fn new<H: AsRef<str>>(
        hosts: impl IntoIterator<Item = H>,
        database: impl Into<String>,
    ) -> Result<Self> {
        let mut servers: Vec<(String, u16)> = Vec::new();
        for host in hosts {
            let server = server(host.as_ref()).ok_or_else(|| {
                invalid("a host can't be read; accepted is `host:port`, or `[::1]:port`")
            })?;
            if servers.contains(&server) {
                return Err(invalid(format!("`{}` is named twice", host.as_ref())));
            }
            servers.push(server);
        }
        if servers.is_empty() {
            return Err(invalid("no host; accepted is `postgres://host:port,host:port/database`"));
        }
        let database = database.into();
        if database.is_empty() || database.contains(['\0', '/']) {
            return Err(invalid("no database; accepted is `postgres://host:port/database`"));
        }
        Ok(Self {
            hosts: servers,
            database,
            namespace: "portunus".to_owned(),
            login: None,
            tls: None,
            identity: None,
        })
    }

    /// Reads `postgres://[user:password@]host[:port],…/database[?options]`, or `postgresql://…`, and
    /// takes the options `namespace`, `tls`, `ca`, `cert` and `key`; the rest stay for others.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] says which part can't be read and what is accepted.
    pub fn from_url(url: &mut StoreUrl) -> Result<Self> {
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(invalid(format!(
                "scheme `{}`; accepted are `postgres`, `postgresql`",
                url.scheme()
            )));
        }
        let mut config = Self::new(url.hosts(), url.path().trim_start_matches('/'))?;
        if let Some((user, password)) = url.login() {
            config = config.login(user, password);
        }
        if let Some(namespace) = url.take("namespace") {
            config = config.namespace(namespace)?;
        }
        config.tls = TlsConfig::from_url(url, STORE, None)?;
        Ok(config)
    }

    /// Keeps the locks apart from those of other namespaces in the same tables. The default is
    /// `portunus`.
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

    /// Authenticates as `user`. Without this it is the user of the process, without a password.
    #[must_use]
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Some((user.into(), SecretString::from(password.into())));
        self
    }

    /// Speaks TLS, trusts the certificates in the PEM file `ca` and no others, and refuses a server
    /// whose certificate does not name the host as it was given: what `libpq` calls `verify-full`.
    #[must_use]
    pub fn tls(mut self, ca: impl Into<PathBuf>) -> Self {
        self.tls = Some(match self.tls.take() {
            Some(tls) => tls.ca(ca),
            None => TlsConfig::new(ca),
        });
        self
    }

    /// Shows the server the certificate in the PEM file `cert`, with the private key in `key`.
    #[must_use]
    pub fn identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((cert.into(), key.into()));
        self
    }

    pub(super) fn keys(&self) -> Keys {
        Keys::new(&self.namespace)
    }

    pub(super) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What the driver needs to know for each server, in the order given.
    pub(super) fn servers(&self) -> Vec<Config> {
        let server = |(host, port): &(String, u16)| {
            let mut config = Config::new();
            config.host(host).port(*port).dbname(&self.database).application_name("portunus");
            if let Some((user, password)) = &self.login {
                config.user(user).password(password.expose_secret());
            }
            config
        };
        self.hosts.iter().map(server).collect()
    }

    /// Reads and checks the TLS files.
    pub(super) fn make_tls(&self) -> Result<Option<MakeTls>> {
        let tls = match (self.tls.clone(), self.identity.clone()) {
            (Some(tls), Some((cert, key))) => tls.identity(cert, key),
            (Some(tls), None) => tls,
            (None, Some(_)) => return Err(invalid("a client certificate needs TLS")),
            (None, None) => return Ok(None),
        };
        MakeTls::new(&tls).map(Some)
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("hosts", &self.hosts)
            .field("database", &self.database)
            .field("namespace", &self.namespace)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("tls", &self.tls)
            .field("identity", &self.identity)
            .finish()
    }
}

/// Host and port of `host`, `host:port`, `[::1]` or `[::1]:port`.
fn server(host: &str) -> Option<(String, u16)> {
    let (host, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match host.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        },
    };
    let is_host = !host.is_empty() && !host.contains(['/', '@', '\0']);
    let port = port.map_or(Some(5432), |port| port.parse().ok())?;
    is_host.then(|| (host.to_owned(), port))
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, STORE, "connect").with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<PostgresConfig> {
        let mut url = StoreUrl::parse(url)?;
        let config = PostgresConfig::from_url(&mut url)?;
        url.finish()?;
        Ok(config)
    }

    #[test]
    fn reads_every_option_and_shows_no_password() {
        let url = "postgresql://u:s3cret@a,b:99,[::1]/shop?namespace=x&tls=true&ca=1&cert=2&key=3";
        let config = read(url).unwrap();
        let hosts = [("a", 5432), ("b", 99), ("::1", 5432)];
        assert_eq!(config.hosts, hosts.map(|(host, port)| (host.to_owned(), port)));
        assert_eq!((&*config.database, config.keys().begin("y")), ("shop", "x/y".to_owned()));
        assert!(config.has_tls());
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(config.servers()[1].get_user(), Some("u"));
        assert_eq!(read("postgres://a/db").unwrap().keys().begin("y"), "portunus/y");
    }

    #[test]
    fn says_what_is_wrong() {
        #[rustfmt::skip]
        let table = [
            ("postgres:///db", "no host"),
            ("postgres://a", "no database"),
            ("postgres://a/b/c", "no database"),
            ("postgres://a,a:5432/db", "twice"),
            ("postgres://u:s3cret@a:x/db", "host:port"),
            ("postgres://[::1/db", "host:port"),
            ("postgres://a/db?namespace=x/y", "accepted are 1 to 64"),
            ("postgres://a/db?tls=true", "`ca`"),
            ("postgres://a/db?sslmode=require", "unknown option `sslmode`"),
            ("mysql://a/db", "scheme"),
        ];
        for (url, text) in table {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(text), "{url}: {error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
