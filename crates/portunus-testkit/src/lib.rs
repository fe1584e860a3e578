//! Placeholder.

#[cfg(feature = "cluster")]
pub mod cluster;
pub mod proxy;
