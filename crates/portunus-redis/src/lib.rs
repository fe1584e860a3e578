#![doc = include_str!("../README.md")]

mod attempts;
mod backend;
mod config;
mod dial;
mod discovery;
mod doubts;
mod entry;
mod error;
mod keys;
mod leaving;
mod news;
mod node;
mod nodes;
mod observer;
mod probe;
mod round;
mod script;
mod seeding;
mod session;
mod silence;
mod watch;

pub use crate::backend::{MAX_VALUE_BYTES, Redis};
pub use crate::config::RedisConfig;
pub use crate::keys::Layout;
