//! Connecting: the first server that takes writes, and its tables.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use portunus_core::backend::{Capabilities, TokenStrength};
use portunus_core::error::{Error, ErrorKind};
use portunus_core::token::Incarnation;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, NoTls, Row};

use super::backend::MAX_VALUE_BYTES;
use super::error::{STORE, harmless, refused};
use super::rows::get;
use super::schema::schema_sql;
use super::sql::life;
use super::tables::PgTables;
use super::tls::MakeTls;
use super::wire::Wire;
use crate::schema::check_version;
use crate::server::failure::{Failure, Fallible};
use crate::server::tables::Database;

/// The servers to look for the database at.
pub(super) struct PgDatabase {
    servers: Vec<Config>,
    tls: Option<MakeTls>,
    /// The one to begin with.
    first: AtomicUsize,
}

impl PgDatabase {
    pub(super) fn new(mut servers: Vec<Config>, tls: Option<MakeTls>) -> Self {
        for config in &mut servers {
            config
                .ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable })
                .keepalives(true)
                .keepalives_idle(SILENCE)
                .keepalives_interval(SILENCE / 5)
                .keepalives_retries(3)
                .tcp_user_timeout(2 * SILENCE);
        }
        Self { servers, tls, first: AtomicUsize::new(0) }
    }

    async fn dial(&self, config: &Config, patience: Duration) -> Fallible<Wire> {
        match &self.tls {
            Some(tls) => {
                let connected = config.connect(tls.clone()).await;
                let (client, connection) = connected.map_err(|cause| refused(cause, true))?;
                Ok(Wire::new(client, connection, patience))
            }
            None => {
                let connected = config.connect(NoTls).await;
                let (client, connection) = connected.map_err(|cause| refused(cause, false))?;
                Ok(Wire::new(client, connection, patience))
            }
        }
    }

    async fn open(&self, config: &Config, patience: Duration) -> Fallible<PgTables> {
        let wire = self.dial(config, patience).await?;
        let greeting = wire.ask(GREET).await.map_err(harmless)?;
        let greeting = single(&greeting)?;
        if get::<bool>(greeting, 0)? {
            let error = Error::new(ErrorKind::Unavailable, STORE, "connect");
            return Err(error.with_detail("the server is a read-only replica").into());
        }
        let encoding: String = get(greeting, 1)?;
        if encoding != "UTF8" {
            let error = Error::new(ErrorKind::Unsupported, STORE, "connect");
            let detail = format!("the database's encoding is {encoding}, and names are UTF-8");
            return Err(error.with_detail(detail).into());
        }
        if !get::<bool>(greeting, 2)? {
            make_tables(&wire).await?;
        }
        let meta = wire.ask(META).await.map_err(harmless)?;
        let meta = single(&meta)?;
        check_version(STORE, get(meta, 0)?)?;
        let life: String = get(meta, 2)?;
        Ok(PgTables::new(wire, incarnation(get(meta, 1)?, &life)?, life))
    }
}

#[async_trait]
impl Database for PgDatabase {
    type Tables = PgTables;

    const STORE: &'static str = STORE;

    fn capabilities() -> Capabilities {
        Capabilities {
            store: STORE,
            fifo: true,
            shared: true,
            permits: true,
            convert: true,
            push: true,
            strength: TokenStrength::Durable,
            crash_release: true,
            // A sync of a busy disk takes tens of milliseconds, and a sixth of this is a request's time.
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(24 * 3600),
            // What replaces a primary is none of PostgreSQL's; the usual tools wait for half a minute.
            fail_over: Duration::from_secs(30),
            max_value: MAX_VALUE_BYTES,
        }
    }

    async fn connect(&self, patience: Duration) -> Fallible<PgTables> {
        let count = self.servers.len();
        let first = self.first.load(Ordering::Relaxed);
        let mut last = None;
        for at in (0..count).map(|step| (first + step) % count) {
            // A server that does not answer has the call dropped; the next one begins behind it.
            self.first.store((at + 1) % count, Ordering::Relaxed);
            match self.open(&self.servers[at], patience).await {
                Ok(tables) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(tables);
                }
                Err(failure) if !is_passing(&failure) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Err(failure);
                }
                Err(failure) => last = Some(failure),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Invalid, STORE, "connect").into()))
    }
}

/// Names the servers, and no password.
impl fmt::Debug for PgDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = |config: &Config| (config.get_hosts().to_vec(), config.get_ports().to_vec());
        f.debug_list().entries(self.servers.iter().map(hosts)).finish()
    }
}

/// Makes the tables; two processes may do so at once.
async fn make_tables(wire: &Wire) -> Fallible<()> {
    // The server lets two make one table at once, and then fails one of them.
    let text = format!(
        "BEGIN READ WRITE; SET LOCAL synchronous_commit = on; \
         SELECT pg_advisory_xact_lock({MAKING}); {}; COMMIT",
        schema_sql().trim_end().trim_end_matches(';')
    );
    let made = wire.batch(&text).await;
    made.map_err(|cause| match harmless(cause) {
        // No schema to make them in.
        Failure::Sql { kind: ErrorKind::Unsupported, cause, .. } => Failure::Sql {
            kind: ErrorKind::Unsupported,
            detail: "there are no tables, and no schema of the search_path to make them in".into(),
            cause,
            spares_connection: false,
        },
        other => other,
    })
}

/// The random row, and what changes when another server takes over or the tables are made anew.
pub(super) fn incarnation(random: &[u8], life: &str) -> Fallible<Incarnation> {
    Ok(Incarnation::new([random, life.as_bytes()].concat())?)
}

fn single(rows: &[Row]) -> Fallible<&Row> {
    let error = || Error::new(ErrorKind::Unsupported, STORE, "connect");
    Ok(rows.first().ok_or_else(|| error().with_detail("`portunus_meta` has no row"))?)
}

/// Whether another server may do better.
fn is_passing(failure: &Failure) -> bool {
    let kind = match failure {
        Failure::Sql { kind, .. } => *kind,
        Failure::Ours(error) => error.kind(),
    };
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Unconfirmed)
}

const GREET: &str = "SELECT pg_is_in_recovery(), current_setting('server_encoding'), \
    to_regclass('portunus_meta') IS NOT NULL";
const META: &str = concat!("SELECT version, incarnation, ", life!(), " FROM portunus_meta");
/// How long a silent server is believed to be there.
const SILENCE: Duration = Duration::from_secs(5);
/// The number of the advisory lock: the letters of `portunus`.
const MAKING: i64 = i64::from_be_bytes(*b"portunus");
