#![doc = include_str!("../README.md")]

mod backend;
mod config;
mod endpoints;
mod error;
mod layout;
mod listing;
mod news;
mod observer;
mod probe;
mod queue;
mod renew;
mod rewrite;
mod session;
mod slots;
mod store;
mod table;
mod watch;

pub use self::backend::{Etcd, MAX_VALUE_BYTES};
pub use self::config::EtcdConfig;
pub use self::layout::Layout;
