//! From a URL to a manager: one `match` on the scheme.

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::manager::{LockManager, ManagerBuilder};
use portunus_core::memory::Memory;
use portunus_core::url::StoreUrl;

/// Connects to the store that `url` names, and opens a session there.
///
/// | URL | store | feature |
/// |---|---|---|
/// | `memory:` | this process; each call makes another, empty one | always there |
/// | `etcd://[user:password@]host[:port],…` | etcd | `etcd` |
/// | `etcds://…` | etcd over TLS, short for `?tls=true` | `etcd` |
/// | `zookeeper://[user:password@]host[:port],…[/chroot]` | ZooKeeper | `zookeeper` |
/// | `mysql://[user:password@]host[:port],…/database` | MySQL or MariaDB | `mysql` |
/// | `postgres://[user:password@]host[:port],…/database`, `postgresql://…` | a PostgreSQL database | `postgres` |
/// | `redis://[user:password@]host[:port][/db]` | one Redis server | `redis` |
/// | `redis://host[:port],…[/db]?sentinel=<master>` | the master that these Sentinels watch | `redis` |
/// | `redis://host[:port],…?cluster=true` | one master of a Redis cluster, by the namespace | `redis` |
/// | `rediss://…` | Redis over TLS, short for `?tls=true` | `redis` |
/// | `redlock://[user:password@]host[:port],…[/db]` | Redlock over independent masters | `redis` |
/// | `sqlite:PATH`, `sqlite:///PATH` | an SQLite file; relative to where the process is, or absolute | `sqlite` |
/// | `sqlite:` | the user's own: `$XDG_STATE_HOME/portunus/locks.db`, else `~/.local/state/portunus/locks.db` | `sqlite` |
///
/// Options follow a `?`, joined by `&`. These are the same for every store, with the meaning and
/// the default that [`ManagerBuilder`] gives them: `ttl`, `connect_timeout`, `max_waiters`,
/// `max_hold`, `lock_delay`, `fail_fast`, `allow_weak`. A span of time is a whole number with `ms`,
/// `s`, `m` or `h`. In a password and in a value, what has a meaning in URLs (`@ : / ? & = % ,`) is written as
/// a percent escape. The rest is the store's own:
///
/// | store | options |
/// |---|---|
/// | `memory` | none |
/// | `etcd` | `namespace`, `layout`, `tls`, `ca`, `cert`, `key` |
/// | `zookeeper` | `namespace`, `layout`, `acl`, `tls`, `ca`, `cert`, `key` |
/// | `mysql` | `namespace`, `tls`, `ca`, `cert`, `key` |
/// | `postgres` | `namespace`, `tls`, `ca`, `cert`, `key` |
/// | `redis` | `namespace`, `layout`, `sentinel`, `cluster`, `tls`, `ca`, `cert`, `key` |
/// | `redlock` | `namespace`, `layout`, `tls`, `ca`, `cert`, `key` |
/// | `sqlite` | `namespace` |
///
/// [`builder`] goes on from a URL in code.
///
/// # Errors
///
/// In each case nothing is held and no session is left. No error shows a password.
///
/// - [`ErrorKind::Invalid`]: the URL can't be read, its scheme or an option is unknown (the known
///   ones are listed), or an option is out of its range.
/// - [`ErrorKind::Unsupported`]: the scheme's feature is off in this build.
/// - [`ErrorKind::Unavailable`]: no server answered within `connect_timeout`.
/// - [`ErrorKind::Denied`]: the store refused the credentials, or the file can't be written.
///
/// # Cancel safety
///
/// Cancel safe; a session that was opened is closed in the background.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> portunus::Result<()> {
/// let manager = portunus::connect("memory:?ttl=30s").await?;
/// let guard = manager.lock("nightly/report")?.acquire().await?;
/// assert!(guard.is_held());
/// # Ok(())
/// # }
/// ```
pub async fn connect(url: impl AsRef<str>) -> Result<LockManager> {
    builder(url)?.open().await
}

/// Begins a manager on the store that `url` names, for what a URL can't say; [`connect`] describes
/// the URL. No server is spoken to before [`ManagerBuilder::open`].
///
/// What is set on the builder comes after the URL and wins over it: the last word is the program's.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] and [`ErrorKind::Unsupported`], as for [`connect`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> portunus::Result<()> {
/// let manager = portunus::builder("memory:?ttl=30s")?.app("billing").open().await?;
/// # Ok(())
/// # }
/// ```
pub fn builder(url: impl AsRef<str>) -> Result<ManagerBuilder> {
    let mut url = StoreUrl::parse(url.as_ref())?;
    let builder = match url.scheme() {
        "memory" => LockManager::builder(memory(&url)?),
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => {
            let config = portunus_etcd::EtcdConfig::from_url(&mut url)?;
            LockManager::builder(portunus_etcd::Etcd::new(config)?)
        }
        #[cfg(not(feature = "etcd"))]
        "etcd" | "etcds" => return Err(feature_off("etcd")),
        #[cfg(feature = "zookeeper")]
        "zookeeper" => {
            let config = portunus_zookeeper::ZooKeeperConfig::from_url(&mut url)?;
            LockManager::builder(portunus_zookeeper::ZooKeeper::new(config)?)
        }
        #[cfg(not(feature = "zookeeper"))]
        "zookeeper" => return Err(feature_off("zookeeper")),
        #[cfg(feature = "mysql")]
        "mysql" => {
            let config = portunus_sql::mysql::MysqlConfig::from_url(&mut url)?;
            LockManager::builder(portunus_sql::mysql::Mysql::new(config)?)
        }
        #[cfg(not(feature = "mysql"))]
        "mysql" => return Err(feature_off("mysql")),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let config = portunus_sql::postgres::PostgresConfig::from_url(&mut url)?;
            LockManager::builder(portunus_sql::postgres::Postgres::new(config)?)
        }
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => return Err(feature_off("postgres")),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redlock" => {
            let config = portunus_redis::RedisConfig::from_url(&mut url)?;
            LockManager::builder(portunus_redis::Redis::new(config)?)
        }
        #[cfg(not(feature = "redis"))]
        "redis" | "rediss" | "redlock" => return Err(feature_off("redis")),
        #[cfg(feature = "sqlite")]
        "sqlite" => {
            let config = portunus_sql::sqlite::SqliteConfig::from_url(&mut url)?;
            LockManager::builder(portunus_sql::sqlite::Sqlite::new(config))
        }
        #[cfg(not(feature = "sqlite"))]
        "sqlite" => return Err(feature_off("sqlite")),
        unknown => return Err(invalid(format!("unknown scheme `{unknown}`; known are {SCHEMES}"))),
    };
    let builder = builder.options(&mut url)?;
    url.finish()?;
    Ok(builder)
}

fn memory(url: &StoreUrl) -> Result<Memory> {
    if url.hosts().is_empty() && url.login().is_none() && url.path().is_empty() {
        Ok(Memory::new())
    } else {
        Err(invalid("`memory:` takes no host, user or path; accepted is `memory:?option=value`"))
    }
}

#[cfg(not(all(
    feature = "etcd",
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "sqlite",
    feature = "zookeeper"
)))]
fn feature_off(feature: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, feature, "connect").with_detail(format!(
        "this build has no feature `{feature}`; add it with \
         `cargo add portunus --features {feature}`"
    ))
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, "portunus", "connect").with_detail(detail)
}

/// Every scheme of the grammar, whatever this build's features.
const SCHEMES: &str = "`memory`, `etcd`, `etcds`, `zookeeper`, `mysql`, `postgres`, `postgresql`, \
    `redis`, `rediss`, `redlock`, `sqlite`";
