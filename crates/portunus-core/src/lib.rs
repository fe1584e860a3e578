#![doc = include_str!("../README.md")]

pub mod error;
pub mod name;
pub mod token;

pub mod clock;
pub mod url;

pub mod tls;

pub mod backend;
pub mod queue;

mod chance;
mod loss;
#[cfg_attr(
    not(portunus_mutant),
    expect(dead_code, unreachable_pub, reason = "the faults are put in only under that flag")
)]
mod mutant;
mod sync;

pub mod memory;

mod keeper;

pub mod guard;
pub mod lock;
pub mod manager;

#[cfg(portunus_mutant)]
pub use self::mutant::Mutant;
#[doc(hidden)]
pub use async_trait::async_trait;
