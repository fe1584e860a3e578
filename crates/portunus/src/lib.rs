#![doc = include_str!("../README.md")]

pub mod blocking;
mod connect;
pub mod guide;

pub use self::connect::{builder, connect};
pub use portunus_core::election::{Election, Leader, Leadership, Observe, Run, Transition};
pub use portunus_core::error::{Error, ErrorKind, Result};
pub use portunus_core::guard::{
    CancellationToken, Counted, DowngradeError, Exclusive, Guard, LossReason, Permit, Ran,
    Released, Shared, SharedGuard, Status,
};
pub use portunus_core::lock::Lock;
pub use portunus_core::manager::{LockManager, ManagerBuilder, Stats};
pub use portunus_core::many::Guards;
pub use portunus_core::memory::Memory;
pub use portunus_core::name::LockName;
pub use portunus_core::rwlock::RwLock;
pub use portunus_core::semaphore::Semaphore;
pub use portunus_core::token::{FencingToken, Incarnation, Origin, SharedToken};

/// What the author of a backend needs: the traits, and the words that they are written in.
pub mod backend {
    pub use portunus_core::async_trait;
    pub use portunus_core::backend::{
        Attempt, AttemptId, BoxStream, Capabilities, Contender, Entered, Entry, EntryId, Expires,
        Holder, Left, LockBackend, LockObserver, Mode, NamePage, Observation, Probe, Record,
        Renewal, Session, SessionId, TokenStrength, Turn,
    };
    pub use portunus_core::beat::{Beats, Sighting, Vital};
    pub use portunus_core::clock::{BootClock, Clock, Moment, TokioClock};
    pub use portunus_core::queue::{Place, turn};
    pub use portunus_core::tls::{TlsConfig, TlsFiles};
    pub use portunus_core::url::StoreUrl;
}

/// The etcd store, to be configured in code; [`connect`] does it from a URL.
#[cfg(feature = "etcd")]
pub mod etcd {
    pub use portunus_etcd::{Etcd, EtcdConfig, Layout, MAX_VALUE_BYTES};
}

/// The MySQL and MariaDB store, to be configured in code; [`connect`] does it from a URL.
#[cfg(feature = "mysql")]
pub mod mysql {
    pub use portunus_sql::mysql::{MAX_VALUE_BYTES, Mysql, MysqlConfig, schema_sql};
}

/// The PostgreSQL store, to be configured in code; [`connect`] does it from a URL.
#[cfg(feature = "postgres")]
pub mod postgres {
    pub use portunus_sql::postgres::{MAX_VALUE_BYTES, Postgres, PostgresConfig, schema_sql};
}

/// The Redis store, one server or Redlock over several, to be configured in code; [`connect`] does
/// it from a URL.
#[cfg(feature = "redis")]
pub mod redis {
    pub use portunus_redis::{Layout, MAX_VALUE_BYTES, Redis, RedisConfig};
}

/// The SQLite store, to be configured in code; [`connect`] does it from a URL.
#[cfg(feature = "sqlite")]
pub mod sqlite {
    pub use portunus_sql::sqlite::{MAX_VALUE_BYTES, Sqlite, SqliteConfig, schema_sql};
}

/// The ZooKeeper store, to be configured in code; [`connect`] does it from a URL.
#[cfg(feature = "zookeeper")]
pub mod zookeeper {
    pub use portunus_zookeeper::{Access, Layout, MAX_VALUE_BYTES, ZooKeeper, ZooKeeperConfig};
}
