#![doc = include_str!("../README.md")]

#[cfg(feature = "cluster")]
pub mod cluster;
pub mod conformance;
pub mod faults;
pub mod fence;
pub mod harness;
pub mod history;
pub mod proxy;
mod tap;

pub use self::fence::FenceHarness;
pub use self::harness::Harness;
#[doc(hidden)]
pub use async_trait::async_trait;
