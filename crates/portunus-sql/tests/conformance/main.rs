//! The suite on each database whose feature is on.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "sqlite")]
mod sqlite;
