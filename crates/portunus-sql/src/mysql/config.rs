//! What a user can choose, and reading it from a URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mysql_async::{ClientIdentity, OptsBuilder, SslOpts};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::tls::TlsConfig;
use portunus_core::url::StoreUrl;
use secrecy::{ExposeSecret, SecretString};

use super::error::STORE;
use crate::rows::Keys;

/// Where the server is, and how to speak to it. `Debug` never shows the password.
#[derive(Clone)]
pub struct MysqlConfig {
    hosts: Vec<(String, u16)>,
    database: String,
    login: Option<(String, SecretString)>,
    tls: Option<TlsConfig>,
    /// An identity that was given before `tls` was.
    identity: Option<(PathBuf, PathBuf)>,
    namespace: String,
}

impl MysqlConfig {
    /// Names the servers, each as `host` or `host:port`, and the database that has the tables. The port is
    /// 3306 unless given. Of several servers the first that takes writes is used.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when there is no host, one is named twice or can't be read, or the database
    /// has no name.
    pub fn new<H: AsRef<str>>(
        hosts: impl IntoIterator<Item = H>,
        database: impl Into<String>,
    ) -> Result<Self> {
        let mut servers: Vec<(String, u16)> = Vec::new();
        for host in hosts {
            let server = server(host.as_ref())?;
            if servers.contains(&server) {
                return Err(invalid(format!("`{}` is named twice", host.as_ref())));
            }
            servers.push(server);
        }
        let database = database.into();
        if servers.is_empty() {
            return Err(invalid(format!("no host; accepted is {FORM}")));
        }
        if database.is_empty() || database.contains(['\0', '/']) {
            return Err(invalid(format!("no database; accepted is {FORM}")));
        }
        Ok(Self {
            hosts: servers,
            database,
            login: None,
            tls: None,
            identity: None,
            namespace: "portunus".to_owned(),
        })
    }

    /// Reads `mysql://[user:password@]host[:port],…/database[?options]`, and takes the options `namespace`,
    /// `tls`, `ca`, `cert` and `key`; the rest stay for others.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] says which part can't be read and what is accepted.
    pub fn from_url(url: &mut StoreUrl) -> Result<Self> {
        if url.scheme() != "mysql" {
            return Err(invalid(format!("scheme `{}`; accepted is `mysql`", url.scheme())));
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

    /// Keeps locks of the same name apart. The default is `portunus`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] unless it has 1 to 64 bytes without NUL and without `/`.
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

    /// Authenticates as `user`.
    #[must_use]
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Some((user.into(), SecretString::from(password.into())));
        self
    }

    /// Speaks TLS, and trusts the certificates in the PEM file `ca` and no others.
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

    pub(super) fn hosts(&self) -> &[(String, u16)] {
        &self.hosts
    }

    /// The files of TLS, where it is spoken.
    pub(super) fn tls_config(&self) -> Result<Option<TlsConfig>> {
        match (self.tls.clone(), self.identity.clone()) {
            (Some(tls), Some((cert, key))) => Ok(Some(tls.identity(cert, key))),
            (tls, None) => Ok(tls),
            (None, Some(_)) => Err(invalid("a client certificate needs TLS")),
        }
    }

    /// How to reach all of them but for the host; reads the files of TLS.
    pub(super) fn options(&self) -> Result<OptsBuilder> {
        let (user, password) = match &self.login {
            Some((user, password)) => (Some(user.clone()), Some(password.expose_secret())),
            None => (None, None),
        };
        let options = OptsBuilder::default()
            .user(user)
            .pass(password)
            .db_name(Some(self.database.clone()))
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

impl fmt::Debug for MysqlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlConfig")
            .field("hosts", &self.hosts)
            .field("database", &self.database)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("tls", &self.tls)
            .field("identity", &self.identity)
            .field("namespace", &self.namespace)
            .finish()
    }
}

/// Reads `host`, `host:port` or `[::1]:port`.
fn server(text: &str) -> Result<(String, u16)> {
    let unreadable = || invalid("a host can't be read; accepted is `host:port`, or `[::1]:port`");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(unreadable)?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(Some(port))),
            None => (text, None),
        },
    };
    let port = match port {
        None => PORT,
        Some(port) => port.and_then(|port| port.parse().ok()).ok_or_else(unreadable)?,
    };
    if host.is_empty() || host.contains(['[', ']', '/', '@']) {
        return Err(unreadable());
    }
    Ok((host.to_owned(), port))
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, STORE, "connect").with_detail(detail)
}

const FORM: &str = "`mysql://user:password@host:port/database`";
const PORT: u16 = 3306;
/// A server that went without a word is noticed also by a connection that waits for its answer.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// More than there are.
const STATEMENTS: usize = 64;
/// Far above a value of 128 KiB.
const LONGEST_PACKET: usize = 16 << 20;

#[cfg(test)]
mod tests {
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
