//! What a user can choose about a database on a server, whichever it is.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::tls::TlsConfig;
use portunus_core::url::StoreUrl;
use secrecy::SecretString;

use crate::rows::Keys;

/// Where the database is and how to speak to it.
#[derive(Clone)]
pub(crate) struct Config {
    store: &'static str,
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) database: String,
    pub(crate) login: Option<(String, SecretString)>,
    tls: Option<TlsConfig>,
    /// An identity that was given before `tls` was.
    identity: Option<(PathBuf, PathBuf)>,
    namespace: String,
}

impl Config {
    /// `form` is how a URL of this store looks, and `port` the one of a host that names none.
    pub(crate) fn new<H: AsRef<str>>(
        store: &'static str,
        form: &str,
        port: u16,
        hosts: impl IntoIterator<Item = H>,
        database: String,
    ) -> Result<Self> {
        let invalid = |detail: String| Err(invalid(store, detail));
        let mut servers: Vec<(String, u16)> = Vec::new();
        for host in hosts {
            let host = host.as_ref();
            let Some(server) = server(host, port) else {
                let accepted = "accepted is `host:port`, or `[::1]:port`";
                return invalid(format!("a host can't be read; {accepted}"));
            };
            if servers.contains(&server) {
                return invalid(format!("`{host}` is named twice"));
            }
            servers.push(server);
        }
        if servers.is_empty() {
            return invalid(format!("no host; accepted is {form}"));
        }
        if database.is_empty() || database.contains(['\0', '/']) {
            return invalid(format!("no database; accepted is {form}"));
        }
        let namespace = "portunus".to_owned();
        Ok(Self {
            store,
            hosts: servers,
            database,
            login: None,
            tls: None,
            identity: None,
            namespace,
        })
    }

    /// Takes the login and the options `namespace`, `tls`, `ca`, `cert` and `key`.
    pub(crate) fn options(mut self, url: &mut StoreUrl) -> Result<Self> {
        if let Some((user, password)) = url.login() {
            self = self.login(user.into(), password.into());
        }
        if let Some(namespace) = url.take("namespace") {
            self = self.namespace(namespace)?;
        }
        self.tls = TlsConfig::from_url(url, self.store, None)?;
        Ok(self)
    }

    pub(crate) fn namespace(mut self, namespace: String) -> Result<Self> {
        if !(1..=64).contains(&namespace.len()) || namespace.contains(['\0', '/']) {
            let namespace = namespace.escape_debug();
            let accepted = "accepted are 1 to 64 bytes without NUL and without `/`";
            return Err(invalid(self.store, format!("namespace `{namespace}`; {accepted}")));
        }
        self.namespace = namespace;
        Ok(self)
    }

    pub(crate) fn login(mut self, user: String, password: String) -> Self {
        self.login = Some((user, SecretString::from(password)));
        self
    }

    pub(crate) fn tls(mut self, ca: PathBuf) -> Self {
        self.tls = Some(match self.tls.take() {
            Some(tls) => tls.ca(ca),
            None => TlsConfig::new(ca),
        });
        self
    }

    pub(crate) fn identity(mut self, cert: PathBuf, key: PathBuf) -> Self {
        self.identity = Some((cert, key));
        self
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys::new(&self.namespace)
    }

    /// The files of TLS, where it is spoken.
    pub(crate) fn tls_config(&self) -> Result<Option<TlsConfig>> {
        match (self.tls.clone(), self.identity.clone()) {
            (Some(tls), Some((cert, key))) => Ok(Some(tls.identity(cert, key))),
            (tls, None) => Ok(tls),
            (None, Some(_)) => Err(invalid(self.store, "a client certificate needs TLS")),
        }
    }
}

/// Names the servers, as errors of the engine show it; no password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |(host, port): &(String, u16)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let hosts: Vec<String> = self.hosts.iter().map(address).collect();
        let mut shown = f.debug_struct("Config");
        shown.field("hosts", &hosts).field("database", &self.database);
        shown.field("user", &self.login.as_ref().map(|(user, _)| user));
        shown.field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// The error of a configuration.
pub(crate) fn invalid(store: &'static str, detail: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, store, "connect").with_detail(detail)
}

/// Host and port of `host`, `host:port`, `[::1]` or `[::1]:port`.
fn server(host: &str, default_port: u16) -> Option<(String, u16)> {
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
    let is_host = !host.is_empty() && !host.contains(['[', ']', '/', '@', '\0']);
    let port = port.map_or(Some(default_port), |port| port.parse().ok())?;
    is_host.then(|| (host.to_owned(), port))
}
