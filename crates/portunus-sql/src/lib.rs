#![doc = include_str!("../README.md")]

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod confirmed;
#[cfg(feature = "sqlite")]
mod horizon;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod kernel;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod rows;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod schema;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod server;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod sessions;
#[cfg(feature = "sqlite")]
pub mod sqlite;
