//! Clusters and servers in containers: faults take effect, and they come back whole.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

mod etcd;
mod faults;
mod mariadb;
mod postgres;
mod redis;
mod zookeeper;
