//! Chapters for people who choose and run a store, and build services on it.

#[doc = include_str!("../docs/election.md")]
pub mod election {}

#[doc = include_str!("../docs/etcd_or_zookeeper.md")]
pub mod etcd_or_zookeeper {}

#[doc = include_str!("../docs/fencing.md")]
pub mod fencing {}

#[doc = include_str!("../docs/redlock.md")]
pub mod redlock {}

#[doc = include_str!("../docs/sql.md")]
pub mod sql {}

#[doc = include_str!("../docs/which_lock.md")]
pub mod which_lock {}
