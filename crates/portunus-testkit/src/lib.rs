#![doc = include_str!("../README.md")]

pub mod conformance;
pub mod harness;
mod tap;

pub use self::harness::Harness;
#[doc(hidden)]
pub use async_trait::async_trait;
