//! What a user can choose, and reading it from a URL.

use std::path::PathBuf;
use std::time::Duration;

use mysql_async::{ClientIdentity, OptsBuilder, SslOpts};
use portunus_core::error::Result;
use portunus_core::tls::TlsConfig;
use portunus_core::url::StoreUrl;
use secrecy::ExposeSecret;

use super::error::STORE;
use crate::rows::Keys;
use crate::server::config::{Config, invalid};

/// Where the server is, and how to speak to it. `Debug` never shows the password.
#[derive(Clone, Debug)]
pub struct MysqlConfig(Config);

impl MysqlConfig {
    /// Names the servers, each as `host` or `host:port`, and the database that has the tables. The port is
    /// 3306 unless given. Of several servers the first that takes writes is used.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](portunus_core::error::ErrorKind::Invalid) when there is no host, one is named twice or can't be read, or the database
    /// has no name.
    pub fn new<H: AsRef<str>>(
        hosts: impl IntoIterator<Item = H>,
        database: impl Into<String>,
    ) -> Result<Self> {
        Config::new(STORE, FORM, PORT, hosts, database.into()).map(Self)
    }

    /// Reads `mysql://[user:password@]host[:port],…/database[?options]`, and takes the options `namespace`,
    /// `tls`, `ca`, `cert` and `key`; the rest stay for others.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](portunus_core::error::ErrorKind::Invalid) says which part can't be read and what is accepted.
    pub fn from_url(url: &mut StoreUrl) -> Result<Self> {
        if url.scheme() != "mysql" {
            return Err(invalid(STORE, format!("scheme `{}`; accepted is `mysql`", url.scheme())));
        }
        let database = url.path().trim_start_matches('/').to_owned();
        Config::new(STORE, FORM, PORT, url.hosts(), database)?.options(url).map(Self)
    }

    /// Keeps locks of the same name apart. The default is `portunus`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](portunus_core::error::ErrorKind::Invalid) unless it has 1 to 64 bytes without NUL and without `/`.
    pub fn namespace(self, namespace: impl Into<String>) -> Result<Self> {
        self.0.namespace(namespace.into()).map(Self)
    }

    /// Authenticates as `user`.
    #[must_use]
    pub fn login(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        Self(self.0.login(user.into(), password.into()))
    }

    /// Speaks TLS, and trusts the certificates in the PEM file `ca` and no others.
    #[must_use]
    pub fn tls(self, ca: impl Into<PathBuf>) -> Self {
        Self(self.0.tls(ca.into()))
    }

    /// Shows the server the certificate in the PEM file `cert`, with the private key in `key`. Without
    /// [`tls`](Self::tls), [`Mysql::new`](super::Mysql::new) fails as
    /// [`ErrorKind::Invalid`](portunus_core::error::ErrorKind::Invalid).
    #[must_use]
    pub fn identity(self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self(self.0.identity(cert.into(), key.into()))
    }

    pub(super) fn keys(&self) -> Keys {
        self.0.keys()
    }

    pub(super) fn hosts(&self) -> &[(String, u16)] {
        &self.0.hosts
    }

    /// The files of TLS, where it is spoken.
    pub(super) fn tls_config(&self) -> Result<Option<TlsConfig>> {
        self.0.tls_config()
    }

    /// How to reach all of them but for the host; reads the files of TLS.
    pub(super) fn options(&self) -> Result<OptsBuilder> {
        let (user, password) = match &self.0.login {
            Some((user, password)) => (Some(user.clone()), Some(password.expose_secret())),
            None => (None, None),
        };
        let options = OptsBuilder::default()
            .user(user)
            .pass(password)
            .db_name(Some(self.0.database.clone()))
            .ssl_opts(self.tls_options()?)
            // A statement that sets what already is counts its row, too.
            .client_found_rows(true)
            // Never another way than the one that was asked for.
            .prefer_socket(false)
            .tcp_keepalive(Some(KEEPALIVE))
            .tcp_nodelay(true)
            .stmt_cache_size(STATEMENTS)
            // What the driver would ask the server for, and has no use for here.
            .max_allowed_packet(Some(LONGEST_PACKET))
            .wait_timeout(Some(0));
        Ok(options)
    }

    fn tls_options(&self) -> Result<Option<SslOpts>> {
        let Some(tls) = self.tls_config()? else { return Ok(None) };
        let files = tls.read(STORE)?;
        let identity =
            files.identity.map(|(cert, key)| ClientIdentity::new(cert.into(), key.into()));
        Ok(Some(
            SslOpts::default()
                .with_disable_built_in_roots(true)
                .with_root_certs(vec![files.ca.into()])
                .with_client_identity(identity),
        ))
    }
}

const FORM: &str = "`mysql://user:password@host:port/database`";
const PORT: u16 = 3306;
/// How long nothing comes before the system begins to ask whether the server is there.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// More than there are.
const STATEMENTS: usize = 64;
/// Far above a value of 128 KiB.
const LONGEST_PACKET: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use portunus_core::error::ErrorKind;

    use super::*;

    fn read(url: &str) -> Result<MysqlConfig> {
        let mut url = StoreUrl::parse(url)?;
        let config = MysqlConfig::from_url(&mut url)?;
        url.finish()?;
        Ok(config)
    }

    #[test]
    fn reads_every_part() {
        let config = read("mysql://me:s3cret@a,b:3307,[::1]:3308/shop?namespace=x").unwrap();
        let host = |host: &str, port| (host.to_owned(), port);
        assert_eq!(config.hosts(), [host("a", 3306), host("b", 3307), host("::1", 3308)]);
        assert_eq!(config.keys().begin("n"), "x/n");
        assert_eq!(read("mysql://a/shop").unwrap().keys().begin("n"), "portunus/n");
        let shown = format!("{config:?}");
        assert!(shown.contains("\"me\"") && shown.contains("\"shop\""), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
        let opts = mysql_async::Opts::from(config.options().unwrap());
        assert_eq!((opts.user(), opts.pass()), (Some("me"), Some("s3cret")));
        assert_eq!(opts.db_name(), Some("shop"));
    }

    #[test]
    fn says_what_is_wrong() {
        #[rustfmt::skip]
        let table = [
            ("mysql://u:s3cret@a", "no database"),
            ("mysql://u:s3cret@a/", "no database"),
            ("mysql://a/b/c", "no database"),
            ("mysql:shop", "no host"),
            ("mysql://a,a:3306/shop", "named twice"),
            ("mysql://a:x/shop", "a host can't be read"),
            ("mysql://[::1/shop", "a host can't be read"),
            ("mysql://[::1]x/shop", "a host can't be read"),
            ("mysql://:3306/shop", "a host can't be read"),
            ("mysql://a/shop?namespace=x/y", "accepted are 1 to 64"),
            ("mysql://a/shop?tls=true", "`ca`"),
            ("mysql://a/shop?ca=x", "tls=true"),
            ("mysql://a/shop?layout=x", "unknown option `layout`"),
            ("mariadb://a/shop", "accepted is `mysql`"),
        ];
        for (url, text) in table {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(text), "{url}: {error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
        let config = MysqlConfig::new(["a"], "shop").unwrap().identity("c", "k");
        assert!(config.options().unwrap_err().to_string().contains("needs TLS"));
    }
}
