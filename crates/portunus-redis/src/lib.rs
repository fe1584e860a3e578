#![doc = include_str!("../README.md")]

mod attempts;
mod backend;
mod config;
mod entry;
mod error;
mod keys;
mod news;
mod node;
mod nodes;
mod observer;
mod probe;
mod round;
mod script;
mod seeding;
mod session;
mod watch;

// For its provider alone.
use rustls as _;

pub use crate::backend::{MAX_VALUE_BYTES, Redis};
pub use crate::config::RedisConfig;
pub use crate::keys::Layout;
