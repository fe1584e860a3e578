//! What a user can choose, and reading it from a URL.

use std::fmt;

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::tls::TlsConfig;
use portunus_core::url::StoreUrl;
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, TlsCertificates,
};
use secrecy::{ExposeSecret, SecretString};

use crate::error::STORE;
use crate::keys::{Keys, Layout};

/// Where the servers are and how to speak to them. `Debug` never shows the password.
#[derive(Clone)]
pub struct RedisConfig {
    hosts: Vec<String>,
    database: i64,
    namespace: String,
    layout: Layout,
    login: Option<(String, SecretString)>,
    tls: Option<TlsConfig>,
}

impl RedisConfig {
    /// Names the masters, each as `host` or `host:port`; the port is 6379 unless given. One is plain
    /// Redis; several, which must not replicate each other, are Redlock.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when there is none, one is named twice, or a port is no number.
    pub fn new<H: AsRef<str>>(hosts: impl IntoIterator<Item = H>) -> Result<Self> {
        let mut servers: Vec<String> = Vec::new();
        for host in hosts {
            let (name, port) = split(host.as_ref())?;
            let host = format!("{name}:{port}");
            if servers.contains(&host) {
                return Err(invalid(format!("`{host}` is named twice")));
            }
            servers.push(host);
        }
        if servers.is_empty() {
            return Err(invalid("no host; accepted are `redis://host:port`, `redlock://a,b,c`"));
        }
        Ok(Self {
            hosts: servers,
            database: 0,
            namespace: "portunus".to_owned(),
            layout: Layout::default(),
            login: None,
            tls: None,
        })
    }

    /// Reads `redis://[user:password@]host[:port][/db]`, `rediss://…` for TLS, or
    /// `redlock://[user:password@]host[:port],…[/db]`, and takes the options `namespace`, `layout`,
    /// `tls`, `ca`, `cert` and `key`; the rest stay for others. An empty user is the default one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] says which part can't be read and what is accepted.
    pub fn from_url(url: &mut StoreUrl) -> Result<Self> {
        match (url.scheme(), url.hosts().len()) {
            ("redlock", _) | ("redis" | "rediss", 0 | 1) => {}
            ("redis" | "rediss", _) => {
                return Err(invalid(
                    "several hosts; one server is `redis://`, several masters are `redlock://`",
                ));
            }
            (scheme, _) => {
                return Err(invalid(format!(
                    "scheme `{scheme}`; accepted are `redis`, `rediss` and `redlock`"
                )));
            }
        }
        let mut config = Self::new(url.hosts())?;
        let database = url.path().strip_prefix('/').unwrap_or(url.path());
        if !database.is_empty() {
            let number =
                database.parse().ok().filter(|number| (0..=i64::from(u16::MAX)).contains(number));
            config.database = number.ok_or_else(|| {
                invalid("the path is no number of a database; accepted is as in `/0`")
            })?;
        }
        if let Some((user, password)) = url.login() {
            config = config.login(user, password);
        }
        if let Some(namespace) = url.take("namespace") {
            config = config.namespace(namespace)?;
        }
        config.layout = match url.take("layout").as_deref() {
            None | Some("namespace") => Layout::Namespace,
            Some("plain") => Layout::Plain,
            Some(other) => {
                return Err(invalid(format!(
                    "option `layout` has the value `{other}`; accepted are `namespace`, `plain`"
                )));
            }
        };
        config.tls = TlsConfig::from_url(url, STORE, Some("rediss"))?;
        Ok(config)
    }

    /// Begins the keys with `namespace` and a colon. The default is `portunus`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is empty, longer than 256 bytes, or has a brace or a control
    /// character.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Result<Self> {
        let namespace = namespace.into();
        let bad = |c: char| c.is_control() || matches!(c, '{' | '}');
        if namespace.is_empty() || namespace.len() > 256 || namespace.contains(bad) {
            return Err(invalid(format!(
                "namespace `{}`; accepted are 1 to 256 bytes without braces",
                namespace.escape_debug()
            )));
        }
        self.namespace = namespace;
        Ok(self)
    }

    /// Chooses how the key of a lock is called.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Uses another database than 0; on every server the same.
    #[must_use]
    pub fn database(mut self, number: u16) -> Self {
        self.database = number.into();
        self
    }

    /// Authenticates as `user`, or with an empty one by the password alone; on every server the same.
    #[must_use]
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Some((user.into(), SecretString::from(password.into())));
        self
    }

    /// Speaks TLS.
    #[must_use]
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys::new(self.namespace.clone(), self.layout)
    }

    /// One client for each server, with its name; reads and checks the TLS files.
    pub(crate) fn clients(&self) -> Result<Vec<(String, Client)>> {
        let files = self.tls.as_ref().map(|tls| tls.read(STORE)).transpose()?;
        let certificates = files.map(|files| TlsCertificates {
            client_tls: files
                .identity
                .map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key }),
            root_cert: Some(files.ca),
        });
        let unusable = |error| match &self.tls {
            Some(tls) => tls.mismatch(STORE, error),
            None => invalid("the address can't be used").with_source(error),
        };
        let client = |host: &String| {
            let info = self.info(host)?;
            let client = match &certificates {
                Some(certificates) => Client::build_with_tls(info, certificates.clone()),
                None => Client::open(info),
            };
            Ok((host.clone(), client.map_err(unusable)?))
        };
        self.hosts.iter().map(client).collect()
    }

    fn info(&self, host: &str) -> Result<ConnectionInfo> {
        let (name, port) = split(host)?;
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let address = match self.tls {
            None => ConnectionAddr::Tcp(name, port),
            Some(_) => {
                ConnectionAddr::TcpTls { host: name, port, insecure: false, tls_params: None }
            }
        };
        let mut settings = RedisConnectionInfo::default().set_db(self.database);
        if let Some((user, password)) = &self.login {
            if !user.is_empty() {
                settings = settings.set_username(user);
            }
            settings = settings.set_password(password.expose_secret());
        }
        let info = address
            .into_connection_info()
            .map_err(|error| invalid("the address can't be used").with_source(error))?;
        Ok(info.set_redis_settings(settings))
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("hosts", &self.hosts)
            .field("database", &self.database)
            .field("namespace", &self.namespace)
            .field("layout", &self.layout)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("tls", &self.tls)
            .finish()
    }
}

fn split(host: &str) -> Result<(&str, u16)> {
    let after_name = host.rfind(']').map_or(host, |at| &host[at..]);
    let (name, port) = match after_name.rsplit_once(':') {
        None => (host, "6379"),
        Some((_, port)) => (&host[..host.len() - port.len() - 1], port),
    };
    let is_name = !name.is_empty() && (name.starts_with('[') || !name.contains(':'));
    let is_clean = !name.contains(['/', ',', '@', ' ', '?', '#']);
    match port.parse::<u16>() {
        Ok(port @ 1..) if is_name && is_clean => Ok((name, port)),
        _ => Err(invalid("a host can't be read; accepted is `host:port`, or `[::1]:port`")),
    }
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, STORE, "connect").with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<RedisConfig> {
        let mut url = StoreUrl::parse(url)?;
        let config = RedisConfig::from_url(&mut url)?;
        url.finish()?;
        Ok(config)
    }

    #[test]
    fn a_url_says_everything() {
        let config =
            read("redlock://u:p%40ss@a:7000,b,[::1]:7001/3?namespace=locks&layout=plain").unwrap();
        assert_eq!(config.hosts, ["a:7000", "b:6379", "[::1]:7001"]);
        assert_eq!((config.database, config.layout), (3, Layout::Plain));
        let clients = config.clients().unwrap();
        let info = clients[2].1.get_connection_info();
        assert_eq!(info.addr().to_string(), "::1:7001");
        assert_eq!(
            (info.redis_settings().db(), info.redis_settings().password()),
            (3, Some("p@ss"))
        );
        assert!(!format!("{config:?}").contains("p@ss"), "{config:?}");
        let alone = read("redis://:pw@a").unwrap().clients().unwrap();
        assert_eq!(alone[0].1.get_connection_info().redis_settings().username(), None);
    }

    #[test]
    fn what_cannot_be_read_says_what_is_accepted() {
        for (url, text) in [
            ("redlock://a,a:6379", "named twice"),
            ("redis://a,b", "`redlock://`"),
            ("redis:", "no host"),
            ("redis://a:x", "host:port"),
            ("redis://a/x", "`/0`"),
            ("redis://a/-1", "`/0`"),
            ("redis://a?namespace={", "namespace"),
            ("redis://a?layout=x", "`namespace`, `plain`"),
            ("rediss://a", "ca"),
            ("redis://a?ca=x", "tls=true"),
            ("rediss://a?tls=false", "contradicts"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(text), "{url}: {error}");
        }
    }
}
