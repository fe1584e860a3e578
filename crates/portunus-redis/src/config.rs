//! What a user can choose, and reading it from a URL.

use std::fmt;

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::tls::TlsConfig;
use portunus_core::url::StoreUrl;
use redis::RedisConnectionInfo;
use secrecy::{ExposeSecret, SecretString};

use crate::dial::Dial;
use crate::discovery::{Discovery, Place, Question};
use crate::error::STORE;
use crate::keys::{Keys, Layout};

/// Where the servers are and how to speak to them. `Debug` never shows the password.
#[derive(Clone)]
pub struct RedisConfig {
    hosts: Vec<String>,
    /// What the hosts are asked if they only tell where the server is.
    question: Option<Question>,
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
        Self::named(hosts, "6379")
    }

    /// One server, which is the master that Sentinels watch under this name. They are named as the masters
    /// are by [`RedisConfig::new`], but that the port is 26379 unless given.
    ///
    /// # Errors
    ///
    /// As [`RedisConfig::new`], and [`ErrorKind::Invalid`] for an empty name.
    pub fn sentinel<H: AsRef<str>>(
        hosts: impl IntoIterator<Item = H>,
        master: impl Into<String>,
    ) -> Result<Self> {
        let (config, master) = (Self::named(hosts, "26379")?, master.into());
        if master.is_empty() {
            return Err(invalid("no name of a master; accepted is as in `sentinel=mymaster`"));
        }
        Ok(Self { question: Some(Question::Sentinel(master)), ..config })
    }

    /// One server, which is the master of the namespace's slot in a cluster, of which some nodes are
    /// named as by [`RedisConfig::new`]. It has the database 0 and [`Layout::Namespace`] alone.
    ///
    /// # Errors
    ///
    /// As [`RedisConfig::new`].
    pub fn cluster<H: AsRef<str>>(hosts: impl IntoIterator<Item = H>) -> Result<Self> {
        Ok(Self { question: Some(Question::Cluster), ..Self::new(hosts)? })
    }

    fn named<H: AsRef<str>>(hosts: impl IntoIterator<Item = H>, port: &str) -> Result<Self> {
        let mut servers: Vec<String> = Vec::new();
        for host in hosts {
            let (name, port) = split(host.as_ref(), port)?;
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
            question: None,
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
    /// With the option `sentinel=<master>` the hosts of `redis` are Sentinels, with `cluster=true` nodes of a
    /// cluster.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] says which part can't be read and what is accepted.
    pub fn from_url(url: &mut StoreUrl) -> Result<Self> {
        let sentinel = url.take("sentinel");
        let is_cluster = url.take_bool("cluster")?.unwrap_or_default();
        let mut config = match (url.scheme(), sentinel, is_cluster, url.hosts().len()) {
            ("redlock", None, false, _) | ("redis" | "rediss", None, false, 0 | 1) => {
                Self::new(url.hosts())?
            }
            ("redis" | "rediss", Some(master), false, _) => Self::sentinel(url.hosts(), master)?,
            ("redis" | "rediss", None, true, _) => Self::cluster(url.hosts())?,
            ("redis" | "rediss", None, false, _) => {
                return Err(invalid(
                    "several hosts; one server is `redis://`, also if it is found by \
                     `sentinel=<master>` or `cluster=true`; several masters are `redlock://`",
                ));
            }
            ("redlock", ..) => {
                return Err(invalid(
                    "`sentinel` and `cluster` find one server, accepted with `redis://`; `redlock://` \
                     names independent masters",
                ));
            }
            ("redis" | "rediss", ..) => {
                return Err(invalid("accepted is one of `sentinel` and `cluster`, not both"));
            }
            (scheme, ..) => {
                return Err(invalid(format!(
                    "scheme `{scheme}`; accepted are `redis`, `rediss` and `redlock`"
                )));
            }
        };
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
        config.check()?;
        Ok(config)
    }

    /// Refuses what a cluster has not.
    fn check(&self) -> Result<()> {
        if self.question != Some(Question::Cluster) {
            return Ok(());
        }
        if self.database != 0 {
            return Err(invalid("a cluster has one database; accepted is none, or `/0`"));
        }
        if self.layout != Layout::Namespace {
            return Err(invalid(
                "with `cluster=true` all keys are of the namespace's slot; accepted is \
                 `layout=namespace`",
            ));
        }
        Ok(())
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
        match &self.question {
            // A cluster chooses the slot by what is in the braces.
            Some(Question::Cluster) => Keys::new(format!("{{{}}}", self.namespace), self.layout),
            _ => Keys::new(self.namespace.clone(), self.layout),
        }
    }

    /// Where each server is, with its name; reads and checks the TLS files.
    pub(crate) fn places(&self) -> Result<Vec<(String, Place)>> {
        self.check()?;
        let dial = self.dial()?;
        let client = |dial: &Dial, host: &String| {
            let (name, port) = split(host, "")?;
            Ok((host.clone(), dial.server(name, port)?))
        };
        let Some(question) = &self.question else {
            let places = self.hosts.iter().map(|host| client(&dial, host));
            return places
                .map(|place| place.map(|(host, client)| (host, Place::Fixed(client))))
                .collect();
        };
        let of_guides = match question {
            // The login is the master's.
            Question::Sentinel(_) => dial.anonymous(),
            Question::Cluster => dial.clone(),
        };
        let guides = self.hosts.iter().map(|host| client(&of_guides, host));
        let discovery = Discovery {
            guides: guides.collect::<Result<_>>()?,
            question: question.clone(),
            key: self.keys().node(),
            dial,
        };
        Ok(vec![(discovery.to_string(), Place::Found(discovery))])
    }

    fn dial(&self) -> Result<Dial> {
        let mut settings = RedisConnectionInfo::default().set_db(self.database);
        if let Some((user, password)) = &self.login {
            if !user.is_empty() {
                settings = settings.set_username(user);
            }
            settings = settings.set_password(password.expose_secret());
        }
        Dial::new(settings, self.tls.as_ref())
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("hosts", &self.hosts)
            .field("question", &self.question)
            .field("database", &self.database)
            .field("namespace", &self.namespace)
            .field("layout", &self.layout)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("tls", &self.tls)
            .finish()
    }
}

fn split<'a>(host: &'a str, default: &'a str) -> Result<(&'a str, u16)> {
    let after_name = host.rfind(']').map_or(host, |at| &host[at..]);
    let (name, port) = match after_name.rsplit_once(':') {
        None => (host, default),
        Some((_, port)) => (&host[..host.len() - port.len() - 1], port),
    };
    let is_name = !name.is_empty() && (name.starts_with('[') || !name.contains(':'));
    let is_clean = !name.contains(['/', ',', '@', ' ', '?', '#']);
    match port.parse::<u16>() {
        Ok(port @ 1..) if is_name && is_clean => Ok((name, port)),
        _ => Err(invalid("a host can't be read; accepted is `host:port`, or `[::1]:port`")),
    }
}

pub(crate) fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
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
        let client = |config: &RedisConfig, at: usize| match config.places().unwrap().remove(at) {
            (_, Place::Fixed(client)) => client,
            (name, Place::Found(_)) => panic!("{name} is to be found"),
        };
        let client_of = client(&config, 2);
        let info = client_of.get_connection_info();
        assert_eq!(info.addr().to_string(), "::1:7001");
        assert_eq!(
            (info.redis_settings().db(), info.redis_settings().password()),
            (3, Some("p@ss"))
        );
        assert!(!format!("{config:?}").contains("p@ss"), "{config:?}");
        let alone = client(&read("redis://:pw@a").unwrap(), 0);
        assert_eq!(alone.get_connection_info().redis_settings().username(), None);
    }

    #[test]
    fn guides_are_asked_for_one_server() {
        let found = |url: &str| {
            let mut places = read(url).unwrap().places().unwrap();
            assert_eq!(places.len(), 1, "{url}");
            match places.remove(0).1 {
                Place::Found(discovery) => discovery,
                Place::Fixed(_) => panic!("{url} is not to be found"),
            }
        };
        let sentinel = found("redis://u:pw@a,b:5/3?sentinel=main&namespace=ns");
        assert_eq!(sentinel.question, Question::Sentinel("main".to_owned()));
        assert_eq!(sentinel.key, "ns:node");
        let hosts: Vec<_> = sentinel.guides.iter().map(|(host, _)| host.as_str()).collect();
        assert_eq!(hosts, ["a:26379", "b:5"]);
        let of_guide = sentinel.guides[0].1.get_connection_info().redis_settings().clone();
        assert_eq!((of_guide.db(), of_guide.username(), of_guide.password()), (0, None, None));
        let master = sentinel.dial.server("10.0.0.1", 6400).unwrap();
        let of_master = master.get_connection_info();
        assert_eq!(of_master.addr().to_string(), "10.0.0.1:6400");
        let settings = of_master.redis_settings();
        assert_eq!((settings.db(), settings.username()), (3, Some("u")));
        let cluster = found("redis://u:pw@a,b/0?cluster=true&namespace=ns");
        assert_eq!((cluster.question, &*cluster.key), (Question::Cluster, "{ns}:node"));
        assert_eq!(
            cluster.guides[1].1.get_connection_info().redis_settings().username(),
            Some("u")
        );
        assert!(read("redis://a?cluster=false").unwrap().question.is_none());
    }

    #[test]
    fn what_cannot_be_read_says_what_is_accepted() {
        for (url, text) in [
            ("redlock://a,a:6379", "named twice"),
            ("redis://a,b", "`redlock://`"),
            ("redis://a,b", "`sentinel=<master>` or `cluster=true`"),
            ("redlock://a,b?sentinel=x", "`redis://`"),
            ("redlock://a,b?cluster=true", "`redis://`"),
            ("redis://a?cluster=true&sentinel=x", "not both"),
            ("redis://a?sentinel=", "no value"),
            ("redis://a?cluster=yes", "`true` or `false`"),
            ("redis://a/1?cluster=true", "`/0`"),
            ("redis://a?cluster=true&layout=plain", "`layout=namespace`"),
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
