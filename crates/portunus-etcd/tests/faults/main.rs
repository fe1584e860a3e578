//! Faults of the cluster, of the way to it, and of hands in its keys: what holds, what is told.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod eviction;
#[path = "../harness/mod.rs"]
mod harness;
mod interop;
mod keyspace;
mod nodes;
mod wire;
