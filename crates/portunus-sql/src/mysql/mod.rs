//! Locks in a MySQL or MariaDB database.
//!
//! The crate's page says how the locks are kept; [`schema_sql`] prints the tables.

mod acquire;
mod backend;
mod config;
mod connection;
mod enter;
mod error;
mod probe;
mod prune;
mod rows;
mod schema;
mod tables;

pub use self::backend::{MAX_VALUE_BYTES, Mysql};
pub use self::config::MysqlConfig;
pub use self::schema::schema_sql;
