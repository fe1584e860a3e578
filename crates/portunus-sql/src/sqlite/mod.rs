//! Locks in an SQLite file, for the processes of one machine: no server, nothing to run.
//!
//! The crate's page says how the locks are kept; [`schema_sql`] prints the tables.

mod backend;
mod config;
mod connection;
mod enter;
mod error;
mod line;
mod mount;
mod observer;
mod onward;
mod place;
mod precedence;
mod queue;
mod schema;
mod session;
mod watch;

pub use self::backend::{MAX_VALUE_BYTES, Sqlite};
pub use self::config::SqliteConfig;
pub use self::schema::schema_sql;
