//! Clusters in containers: faults take effect, and a cluster comes back whole.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

mod etcd;
mod faults;
mod zookeeper;
