//! Locks in the tables of a database server, as PostgreSQL and MySQL have them in common: a backend
//! of its own only implements [`Tables`](tables::Tables).

mod backend;
pub(crate) mod config;
mod enter;
pub(crate) mod failure;
pub(crate) mod line;
mod observer;
mod session;
mod standings;
pub(crate) mod store;
pub(crate) mod tables;
mod watch;
mod watches;

pub(crate) use self::backend::Server;
