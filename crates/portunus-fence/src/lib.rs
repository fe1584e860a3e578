// Its example is on SQLite.
#![cfg_attr(feature = "sqlite", doc = include_str!("../README.md"))]
#![cfg_attr(not(feature = "sqlite"), doc = "The resource's side of Portunus; see the README.")]

mod call;
mod fence;
mod memory;
mod once;
mod register;

#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "file")]
mod file;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

pub use self::fence::{Fence, MAX_VALUE_BYTES};
#[cfg(feature = "file")]
pub use self::file::FileFence;
pub use self::memory::{MemoryFence, Open};
pub use self::once::{Once, Outcome, Period, once};
pub use self::register::Register;
#[cfg(feature = "mysql")]
pub use self::sql::mysql;
#[cfg(feature = "postgres")]
pub use self::sql::postgres;
#[cfg(feature = "sqlite")]
pub use self::sql::sqlite;
pub use portunus_core::error::{Error, ErrorKind, Result};
pub use portunus_core::token::{FencingToken, SharedToken};
