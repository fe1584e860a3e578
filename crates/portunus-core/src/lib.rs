#![doc = include_str!("../README.md")]

pub mod error;
pub mod name;
pub mod token;

pub mod clock;
pub mod url;

pub mod tls;

pub mod backend;

mod chance;
mod loss;
#[cfg_attr(
    not(portunus_mutant),
    expect(dead_code, unreachable_pub, reason = "the faults are put in only under that flag")
)]
mod mutant;
mod sync;

pub mod beat;
pub mod joint;
pub mod queue;

pub mod memory;

mod keeper;

pub mod guard;

mod handle;

pub mod lock;
pub mod many;
pub mod rwlock;
pub mod semaphore;

pub mod election;

pub mod manager;

pub mod blocking;

#[cfg(portunus_mutant)]
pub use self::mutant::Mutant;
#[doc(hidden)]
pub use async_trait::async_trait;
