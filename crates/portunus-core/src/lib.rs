#![doc = include_str!("../README.md")]

pub mod backend;
pub mod clock;
pub mod error;
pub mod name;
pub mod queue;
pub mod token;
pub mod url;

#[doc(hidden)]
pub use async_trait::async_trait;
