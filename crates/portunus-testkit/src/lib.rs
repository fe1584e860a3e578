#![doc = include_str!("../README.md")]

#[cfg(feature = "cluster")]
pub mod cluster;
pub mod faults;
pub mod history;
pub mod proxy;
