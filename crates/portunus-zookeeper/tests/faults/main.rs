//! Faults of the ensemble, of the way to it, and of hands in its nodes: what holds, what is told.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod counters;
mod eviction;
#[path = "../harness/mod.rs"]
mod harness;
mod interop;
mod keyspace;
mod nodes;
mod wire;
