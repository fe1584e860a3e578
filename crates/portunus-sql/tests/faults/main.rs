//! What happens to servers, networks and clocks under those who hold locks and wait for them.

#![cfg(all(feature = "mysql", feature = "postgres"))]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod clock;
mod commit;
mod disk;
mod failover;
mod network;
mod scene;
mod tls;
mod workers;
