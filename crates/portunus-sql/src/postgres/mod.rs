//! Locks in the tables of a PostgreSQL database.
//!
//! The crate's page says how the locks are kept; [`schema_sql`] prints the tables.

mod backend;
mod config;
mod connect;
mod enter;
mod error;
mod rows;
mod schema;
mod sql;
mod tables;
mod tls;
mod transaction;
mod wire;

pub use self::backend::{MAX_VALUE_BYTES, Postgres};
pub use self::config::PostgresConfig;
pub use self::schema::schema_sql;
