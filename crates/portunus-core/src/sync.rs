//! The atomics of the lock-free cells, by one name: a model checker puts its own in their place.

pub(crate) use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
