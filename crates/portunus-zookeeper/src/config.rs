//! What a user can choose, and reading it from a URL.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::tls::TlsConfig;
use portunus_core::url::StoreUrl;
use secrecy::{ExposeSecret, SecretString};
use zookeeper_client::{Acls, TlsOptions};

use crate::connection::{Dial, Tls};
use crate::error::STORE;
use crate::handshake::Handshake;
use crate::layout::{Layout, Paths};

/// Where the ensemble is and how to speak to it. `Debug` never shows the password.
#[derive(Clone)]
pub struct ZooKeeperConfig {
    hosts: Vec<String>,
    chroot: String,
    namespace: String,
    layout: Layout,
    login: Option<(String, SecretString)>,
    access: Option<Access>,
    tls: Option<TlsConfig>,
    identity: Option<(PathBuf, PathBuf)>,
}

/// Who may read and remove the nodes that are created.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Those who authenticate as this client does, and nobody else.
    Creator,
    /// Everybody who reaches the ensemble.
    World,
}

impl ZooKeeperConfig {
    /// Names the servers, each as `host` or `host:port`; the port is 2181 unless given.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when there is none, one is named twice, or a port is no number.
    pub fn new<H: AsRef<str>>(hosts: impl IntoIterator<Item = H>) -> Result<Self> {
        let mut servers: Vec<String> = Vec::new();
        for host in hosts {
            let host = with_port(host.as_ref())?;
            if servers.contains(&host) {
                return Err(invalid(format!("`{host}` is named twice")));
            }
            servers.push(host);
        }
        if servers.is_empty() {
            return Err(invalid("no host; accepted is `zookeeper://host:port,host:port/chroot`"));
        }
        Ok(Self {
            hosts: servers,
            chroot: String::new(),
            namespace: "portunus".to_owned(),
            layout: Layout::default(),
            login: None,
            access: None,
            tls: None,
            identity: None,
        })
    }

    /// Reads `zookeeper://[user:password@]host[:port],…[/chroot][?options]`, and takes the options
    /// `namespace`, `layout`, `acl`, `tls`, `ca`, `cert` and `key`; the rest stay for others.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] says which part can't be read and what is accepted.
    pub fn from_url(url: &mut StoreUrl) -> Result<Self> {
        if url.scheme() != "zookeeper" {
            let scheme = url.scheme();
            return Err(invalid(format!("scheme `{scheme}`; accepted is `zookeeper`")));
        }
        let mut config = Self::new(url.hosts())?;
        if !matches!(url.path(), "" | "/") {
            config = config.chroot(url.path())?;
        }
        if let Some((user, password)) = url.login() {
            config = config.login(user, password);
        }
        if let Some(namespace) = url.take("namespace") {
            config = config.namespace(namespace)?;
        }
        config.layout = match url.take("layout").as_deref() {
            None | Some("curator") => Layout::Curator,
            Some("kazoo") => Layout::Kazoo,
            Some(other) => {
                return Err(invalid(format!(
                    "option `layout` has the value `{other}`; accepted are `curator`, `kazoo`"
                )));
            }
        };
        config.access = match url.take("acl").as_deref() {
            None => None,
            Some("creator") => Some(Access::Creator),
            Some("world") => Some(Access::World),
            Some(other) => {
                return Err(invalid(format!(
                    "option `acl` has the value `{other}`; accepted are `creator`, `world`"
                )));
            }
        };
        config.tls = TlsConfig::from_url(url, STORE, None)?;
        Ok(config)
    }

    /// Keeps everything below this node, which must exist. The default is the root.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is no path of nodes, which begins with `/` and does not end
    /// in one.
    pub fn chroot(mut self, path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        match path.strip_prefix('/') {
            Some(nodes) if is_path(nodes) => self.chroot = path,
            _ => {
                return Err(invalid(format!(
                    "chroot `{}`; accepted are paths as `/a/b` of at most 256 bytes",
                    path.escape_debug()
                )));
            }
        }
        Ok(self)
    }

    /// Puts all nodes below `namespace`, which is created if need be and may have several parts,
    /// as `a/b`. The default is `portunus`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is no path of nodes, or begins or ends with `/`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Result<Self> {
        let namespace = namespace.into();
        if !is_path(&namespace) {
            return Err(invalid(format!(
                "namespace `{}`; accepted are node names joined by `/`, of at most 256 bytes",
                namespace.escape_debug()
            )));
        }
        self.namespace = namespace;
        Ok(self)
    }

    /// Chooses how nodes are called.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Authenticates as `user` by the scheme `digest`.
    #[must_use]
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Some((user.into(), SecretString::from(password.into())));
        self
    }

    /// Says who may touch the nodes. Unless said, it is the creator with a
    /// [`login`](Self::login), and the world without: who has no name cannot keep others out.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = Some(access);
        self
    }

    /// Speaks TLS, and trusts the certificates in the PEM file `ca` and no others.
    #[must_use]
    pub fn tls(mut self, ca: impl Into<PathBuf>) -> Self {
        self.tls = Some(TlsConfig::new(ca));
        self
    }

    /// Shows the server the certificate in the PEM file `cert`, with the private key in `key`.
    #[must_use]
    pub fn identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((cert.into(), key.into()));
        self
    }

    pub(crate) fn paths(&self) -> Paths {
        Paths::new(self.layout, &self.chroot, &self.namespace)
    }

    pub(crate) fn acls(&self) -> Acls<'static> {
        match (self.access, &self.login) {
            (Some(Access::Creator), _) | (None, Some(_)) => Acls::creator_all(),
            (Some(Access::World), _) | (None, None) => Acls::anyone_all(),
        }
    }

    /// Reads and checks the TLS files.
    pub(crate) fn dial(&self) -> Result<Dial> {
        let tls = match (&self.tls, &self.identity) {
            (None, Some(_)) => return Err(invalid("a client certificate needs TLS")),
            (None, None) => None,
            (Some(tls), None) => Some(tls.clone()),
            (Some(tls), Some((cert, key))) => Some(tls.clone().identity(cert, key)),
        };
        let login = self.login.as_ref();
        Ok(Dial {
            hosts: self.hosts.clone(),
            tls: tls.as_ref().map(read).transpose()?,
            next: AtomicU64::new(rand::random_range(0..1 << 16)),
            login: login.map(|(user, password)| {
                SecretString::from(format!("{user}:{}", password.expose_secret()))
            }),
        })
    }
}

impl fmt::Debug for ZooKeeperConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeperConfig")
            .field("hosts", &self.hosts)
            .field("chroot", &self.chroot)
            .field("namespace", &self.namespace)
            .field("layout", &self.layout)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("access", &self.access)
            .field("tls", &self.tls)
            .field("identity", &self.identity)
            .finish()
    }
}

/// Reads the files, for the client library and for a handshake of our own.
fn read(tls: &TlsConfig) -> Result<Tls> {
    let files = tls.read(STORE)?;
    let handshake = Handshake::new(tls, &files)?;
    let unusable = |error| invalid("a TLS file can't be used").with_source(error);
    let text = |pem: &[u8]| String::from_utf8_lossy(pem).into_owned();
    let mut options = TlsOptions::new().with_pem_ca(&text(&files.ca)).map_err(unusable)?;
    if let Some((cert, key)) = &files.identity {
        options = options.with_pem_identity(&text(cert), &text(key)).map_err(unusable)?;
    }
    Ok(Tls { options, handshake })
}

fn with_port(host: &str) -> Result<String> {
    let after_name = host.rfind(']').map_or(host, |at| &host[at..]);
    let (name, port) = match after_name.rsplit_once(':') {
        None => (host, "2181"),
        Some((_, port)) => (&host[..host.len() - port.len() - 1], port),
    };
    let is_name = !name.is_empty() && (name.starts_with('[') || !name.contains(':'));
    let is_clean = !name.contains(['/', ',', '@', ' ', '?', '#']);
    match port.parse::<u16>() {
        Ok(1..) if is_name && is_clean => Ok(format!("{name}:{port}")),
        _ => Err(invalid("a host can't be read; accepted is `host:port`, or `[::1]:port`")),
    }
}

/// Whether the server takes these names of nodes, joined by `/`.
fn is_path(nodes: &str) -> bool {
    let forbidden = |c: char| {
        matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}')
            || matches!(c, '\u{fff0}'..='\u{ffff}')
    };
    nodes.len() <= 256
        && nodes.split('/').all(|node| !matches!(node, "" | "." | ".."))
        && nodes.split('/').next() != Some("zookeeper")
        && !nodes.contains(forbidden)
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, STORE, "connect").with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<ZooKeeperConfig> {
        let mut url = StoreUrl::parse(url)?;
        let config = ZooKeeperConfig::from_url(&mut url)?;
        url.finish()?;
        Ok(config)
    }

    #[test]
    fn a_url_says_everything() {
        let url =
            "zookeeper://u:p%40ss@a:2182,b,[::1]:2183/app/x?namespace=locks&layout=kazoo&acl=world";
        let config = read(url).unwrap();
        assert_eq!(config.hosts, ["a:2182", "b:2181", "[::1]:2183"]);
        assert_eq!(config.paths().root(), "/app/x/locks");
        assert_eq!((config.layout, config.access), (Layout::Kazoo, Some(Access::World)));
        assert_eq!(config.dial().unwrap().login.unwrap().expose_secret(), "u:p@ss");
        assert!(!format!("{config:?}").contains("p@ss"), "{config:?}");
    }

    #[test]
    fn who_has_a_name_keeps_the_world_out_unless_asked() {
        let acls = |url: &str| read(url).unwrap().acls().to_vec();
        assert_eq!(acls("zookeeper://a"), Acls::anyone_all().to_vec());
        assert_eq!(acls("zookeeper://u:p@a"), Acls::creator_all().to_vec());
        assert_eq!(acls("zookeeper://u:p@a?acl=world"), Acls::anyone_all().to_vec());
        assert_eq!(acls("zookeeper://a?acl=creator"), Acls::creator_all().to_vec());
    }

    #[test]
    fn what_cannot_be_read_says_what_is_accepted() {
        let table = [
            ("zookeeper://a,a", "named twice"),
            ("zookeeper://a:x", "host:port"),
            ("zookeeper://a:0", "host:port"),
            ("zookeeper://a/b/", "chroot"),
            ("zookeeper://a/zookeeper", "chroot"),
            ("zookeeper://a/b/../c", "chroot"),
            ("zookeeper://a?namespace=", "namespace"),
            ("zookeeper://a?namespace=/x", "namespace"),
            ("zookeeper://a?layout=x", "`curator`, `kazoo`"),
            ("zookeeper://a?acl=x", "`creator`, `world`"),
            ("zookeeper://a?tls=true", "ca"),
            ("zookeeper://a?ca=x", "tls=true"),
            ("zookeeper://a?tls=true&ca=x&cert=y", "key"),
        ];
        for (url, text) in table {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(text), "{url}: {error}");
        }
    }
}
