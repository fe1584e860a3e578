#![doc = include_str!("../README.md")]

#[cfg(feature = "sqlite")]
mod horizon;
#[cfg(feature = "sqlite")]
mod kernel;
#[cfg(feature = "sqlite")]
mod rows;
#[cfg(feature = "sqlite")]
mod schema;
#[cfg(feature = "sqlite")]
mod sessions;
#[cfg(feature = "sqlite")]
pub mod sqlite;
