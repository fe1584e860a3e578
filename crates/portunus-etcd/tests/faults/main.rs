//! Faults of the cluster, of the way to it, and of hands in its keys: what holds, what is told.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod eviction;
#[path = "../harness/mod.rs"]
mod harness;
mod interop;
mod keyspace;
mod nodes;
mod wire;
