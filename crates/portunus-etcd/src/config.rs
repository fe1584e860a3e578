//! What a user can choose, and reading it from a URL.

use std::fmt;
use std::path::PathBuf;

use etcd_client::{Certificate, Identity, TlsOptions};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::tls::TlsConfig;
use portunus_core::url::StoreUrl;
use secrecy::{ExposeSecret, SecretString};
use tonic::transport::Endpoint;

use crate::error::STORE;
use crate::layout::{Keys, Layout};

/// Where the cluster is and how to speak to it. `Debug` never shows the password.
#[derive(Clone)]
pub struct EtcdConfig {
    hosts: Vec<String>,
    namespace: Option<String>,
    layout: Layout,
    login: Option<(String, SecretString)>,
    tls: Option<TlsConfig>,
    /// An identity that was given before `tls` was.
    identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdConfig {
    /// Names the members, each as `host` or `host:port`; the port is 2379 unless given.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when there is none, one is named twice, or a port is no number.
    pub fn new<H: AsRef<str>>(hosts: impl IntoIterator<Item = H>) -> Result<Self> {
        let mut members: Vec<String> = Vec::new();
        for host in hosts {
            let host = with_port(host.as_ref())?;
            if members.contains(&host) {
                return Err(invalid(format!("`{host}` is named twice")));
            }
            members.push(host);
        }
        if members.is_empty() {
            return Err(invalid("no host; accepted is `etcd://host:port,host:port`"));
        }
        Ok(Self {
            hosts: members,
            namespace: None,
            layout: Layout::default(),
            login: None,
            tls: None,
            identity: None,
        })
    }

    /// Reads `etcd://[user:password@]host[:port],…[?options]`, and takes the options `namespace`,
    /// `layout`, `tls`, `ca`, `cert` and `key`; the rest stay for others.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] says which part can't be read and what is accepted.
    pub fn from_url(url: &mut StoreUrl) -> Result<Self> {
        let mut config = Self::new(url.hosts())?;
        if !matches!(url.path(), "" | "/") {
            return Err(invalid("the URL has a path; use the option `namespace`"));
        }
        if let Some((user, password)) = url.login() {
            config = config.login(user, password);
        }
        if let Some(namespace) = url.take("namespace") {
            config = config.namespace(namespace)?;
        }
        config.layout = match url.take("layout").as_deref() {
            None | Some("portunus") => Layout::Portunus,
            Some("verbatim") => Layout::Verbatim,
            Some(other) => {
                return Err(invalid(format!(
                    "option `layout` has the value `{other}`; accepted are `portunus`, `verbatim`"
                )));
            }
        };
        if !matches!(url.scheme(), "etcd" | "etcds") {
            return Err(invalid(format!(
                "scheme `{}`; accepted are `etcd`, `etcds`",
                url.scheme()
            )));
        }
        config.tls = TlsConfig::from_url(url, STORE, Some("etcds"))?;
        Ok(config)
    }

    /// Puts all keys below `namespace/`. The default is `portunus`, and none for
    /// [`Layout::Verbatim`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is empty, longer than 256 bytes, holds NUL or ends in `/`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Result<Self> {
        let namespace = namespace.into();
        let length = namespace.len();
        if !(1..=256).contains(&length) || namespace.contains('\0') || namespace.ends_with('/') {
            return Err(invalid(format!(
                "namespace `{}`; accepted are 1 to 256 bytes without NUL and without `/` at the end",
                namespace.escape_debug()
            )));
        }
        self.namespace = Some(namespace);
        Ok(self)
    }

    /// Chooses how names become keys.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
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

    pub(crate) fn keys(&self) -> Keys {
        Keys::new(self.layout, self.namespace.as_deref())
    }

    /// Returns the members' URLs.
    pub(crate) fn urls(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.hosts.iter().map(|host| format!("{scheme}://{host}")).collect()
    }

    pub(crate) fn credentials(&self) -> Option<(&str, &str)> {
        self.login.as_ref().map(|(user, password)| (user.as_str(), password.expose_secret()))
    }

    /// Reads and checks the TLS files.
    pub(crate) fn tls_options(&self) -> Result<Option<TlsOptions>> {
        let tls = match (self.tls.clone(), self.identity.clone()) {
            (Some(tls), Some((cert, key))) => tls.identity(cert, key),
            (Some(tls), None) => tls,
            (None, Some(_)) => return Err(invalid("a client certificate needs TLS")),
            (None, None) => return Ok(None),
        };
        let files = tls.read(STORE)?;
        let options = TlsOptions::new().ca_certificate(Certificate::from_pem(files.ca));
        let Some((cert, key)) = files.identity else { return Ok(Some(options)) };
        let options = options.identity(Identity::from_pem(cert, key));
        self.check_pair(&options).map_err(|error| tls.mismatch(STORE, error))?;
        Ok(Some(options))
    }

    /// Has the client library put together what it else would at the first connection.
    fn check_pair(&self, options: &TlsOptions) -> Result<(), tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(self.urls().swap_remove(0))?;
        endpoint.tls_config(options.clone()).map(drop)
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("hosts", &self.hosts)
            .field("namespace", &self.namespace)
            .field("layout", &self.layout)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("tls", &self.tls)
            .field("identity", &self.identity)
            .finish()
    }
}

fn with_port(host: &str) -> Result<String> {
    let after_name = host.rfind(']').map_or(host, |at| &host[at..]);
    let host = match after_name.rsplit_once(':') {
        None => format!("{host}:2379"),
        Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
        Some(_) => String::new(),
    };
    match Endpoint::from_shared(format!("http://{host}")) {
        Ok(_) if !host.is_empty() && !host.starts_with(':') => Ok(host),
        _ => Err(invalid("a host can't be read; accepted is `host:port`, or `[::1]:port`")),
    }
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, STORE, "connect").with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<EtcdConfig> {
        let mut url = StoreUrl::parse(url)?;
        let config = EtcdConfig::from_url(&mut url)?;
        url.finish()?;
        Ok(config)
    }

    #[test]
    fn reads_every_option_and_shows_no_password() {
        let url = "etcds://u:s3cret@a,b:99,[::1]?namespace=x/y&layout=verbatim&ca=1&cert=2&key=3";
        let config = read(url).unwrap();
        assert_eq!(config.urls(), ["https://a:2379", "https://b:99", "https://[::1]:2379"]);
        assert_eq!(config.credentials(), Some(("u", "s3cret")));
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(read("etcd://a").unwrap().keys().incarnation(), "portunus/.incarnation");
    }

    #[test]
    fn says_what_is_wrong() {
        #[rustfmt::skip]
        let table = [
            ("etcd://", "no host"),
            ("etcd://a,a:2379", "twice"),
            ("etcd://a:x", "host:port"),
            ("etcd://a/path", "namespace"),
            ("etcd://a?layout=other", "`portunus`, `verbatim`"),
            ("etcd://a?namespace=x/", "accepted are 1 to 256"),
            ("etcds://a?tls=false&ca=1", "`etcds` contradicts"),
            ("zookeeper://a", "scheme"),
            ("etcd://a?typo=1", "unknown option `typo`"),
        ];
        for (url, text) in table {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(text), "{url}: {error}");
        }
    }

    #[test]
    fn tls_is_asked_for_in_any_order_and_checked_before_any_connection() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let code = |config: EtcdConfig| config.identity("/2", "/3").tls(file);
        for config in [read(&format!("etcds://a?ca={file}")), read("etcd://a").map(code)] {
            let config = config.unwrap();
            assert_eq!(config.urls(), ["https://a:2379"]);
            assert!(config.tls_options().unwrap_err().to_string().contains("PEM"));
        }
        let error = read("etcd://a").unwrap().identity("/2", "/3").tls_options().unwrap_err();
        assert!(error.to_string().contains("needs TLS"), "{error}");
        let tls = read("etcds://a?ca=/1&cert=/2&key=/3").unwrap().tls("/4").tls;
        assert_eq!(tls, Some(TlsConfig::new("/4").identity("/2", "/3")));
    }
}
