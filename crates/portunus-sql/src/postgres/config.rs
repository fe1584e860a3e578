//! What a user can choose, and reading it from a URL.

use std::path::PathBuf;

use portunus_core::error::Result;
use portunus_core::url::StoreUrl;
use secrecy::ExposeSecret;

use super::error::STORE;
use super::tls::MakeTls;
use crate::rows::Keys;
use crate::server::config::{Config, invalid};

/// Where the database is and how to speak to it. `Debug` never shows the password.
#[derive(Clone, Debug)]
pub struct PostgresConfig(Config);

impl PostgresConfig {
    /// Names the servers, each as `host` or `host:port`; the port is 5432 unless given. The first that
    /// takes writes is used.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](portunus_core::error::ErrorKind::Invalid) when there is none, one is named twice, a port is no number, or the
    /// database has no name.
    pub fn new<H: AsRef<str>>(
        hosts: impl IntoIterator<Item = H>,
        database: impl Into<String>,
    ) -> Result<Self> {
        Config::new(STORE, FORM, PORT, hosts, database.into()).map(Self)
    }

    /// Reads `postgres://[user:password@]host[:port],…/database[?options]`, or `postgresql://…`, and
    /// takes the options `namespace`, `tls`, `ca`, `cert` and `key`; the rest stay for others.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](portunus_core::error::ErrorKind::Invalid) says which part can't be read and what is accepted.
    pub fn from_url(url: &mut StoreUrl) -> Result<Self> {
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(invalid(
                STORE,
                format!("scheme `{}`; accepted are `postgres`, `postgresql`", url.scheme()),
            ));
        }
        let database = url.path().trim_start_matches('/').to_owned();
        Config::new(STORE, FORM, PORT, url.hosts(), database)?.options(url).map(Self)
    }

    /// Keeps the locks apart from those of other namespaces in the same tables. The default is
    /// `portunus`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](portunus_core::error::ErrorKind::Invalid) when it is empty, longer than 64 bytes, or holds NUL or `/`.
    pub fn namespace(self, namespace: impl Into<String>) -> Result<Self> {
        self.0.namespace(namespace.into()).map(Self)
    }

    /// Authenticates as `user`. Without this it is the user of the process, without a password.
    #[must_use]
    pub fn login(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        Self(self.0.login(user.into(), password.into()))
    }

    /// Speaks TLS, trusts the certificates in the PEM file `ca` and no others, and refuses a server
    /// whose certificate does not name the host as it was given: what `libpq` calls `verify-full`.
    #[must_use]
    pub fn tls(self, ca: impl Into<PathBuf>) -> Self {
        Self(self.0.tls(ca.into()))
    }

    /// Shows the server the certificate in the PEM file `cert`, with the private key in `key`. Without
    /// [`tls`](Self::tls), [`Postgres::new`](super::Postgres::new) fails as
    /// [`ErrorKind::Invalid`](portunus_core::error::ErrorKind::Invalid).
    #[must_use]
    pub fn identity(self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self(self.0.identity(cert.into(), key.into()))
    }

    pub(super) fn keys(&self) -> Keys {
        self.0.keys()
    }

    /// What the driver needs to know for each server, in the order given.
    pub(super) fn servers(&self) -> Vec<tokio_postgres::Config> {
        let server = |(host, port): &(String, u16)| {
            let mut config = tokio_postgres::Config::new();
            config.host(host).port(*port).dbname(&self.0.database).application_name("portunus");
            if let Some((user, password)) = &self.0.login {
                config.user(user).password(password.expose_secret());
            }
            config
        };
        self.0.hosts.iter().map(server).collect()
    }

    /// Reads and checks the TLS files.
    pub(super) fn make_tls(&self) -> Result<Option<MakeTls>> {
        self.0.tls_config()?.map(|tls| MakeTls::new(&tls)).transpose()
    }
}

const FORM: &str = "`postgres://user:password@host:port/database`";
const PORT: u16 = 5432;

#[cfg(test)]
mod tests {
    use portunus_core::error::ErrorKind;

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
        assert_eq!(config.0.hosts, hosts.map(|(host, port)| (host.to_owned(), port)));
        assert_eq!((&*config.0.database, config.keys().begin("y")), ("shop", "x/y".to_owned()));
        assert!(config.0.tls_config().unwrap().is_some());
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
