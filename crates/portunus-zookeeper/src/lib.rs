#![doc = include_str!("../README.md")]

mod backend;
mod config;
mod connection;
mod endpoints;
mod enter;
mod error;
mod handshake;
mod layout;
mod listing;
mod observer;
mod probe;
mod queue;
mod rewrite;
mod session;
mod slots;
mod store;
mod watch;

pub use self::backend::{MAX_VALUE_BYTES, ZooKeeper};
pub use self::config::{Access, ZooKeeperConfig};
pub use self::layout::Layout;
