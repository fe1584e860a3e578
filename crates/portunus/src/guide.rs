//! Chapters for people who choose and run a store.

#[doc = include_str!("../docs/etcd_or_zookeeper.md")]
pub mod etcd_or_zookeeper {}
