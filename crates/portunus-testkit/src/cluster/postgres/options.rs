//! What a test may choose about PostgreSQL.

use super::{Postgres, Result, Tls};

/// What a commit of the primary owes to its standby.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standby {
    /// Nothing: a commit that was answered may be lost when the standby is promoted.
    Asynchronous,
    /// A commit is answered once the standby has it, and waits for as long as there is none.
    Synchronous,
}

/// Chooses how PostgreSQL is run; see [`Postgres::builder`] for the defaults.
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct PostgresBuilder {
    pub(super) tls: Tls,
    pub(super) standby: Option<Standby>,
    pub(super) movable_clock: bool,
}

impl PostgresBuilder {
    pub(super) const fn new() -> Self {
        Self { tls: Tls::Off, standby: None, movable_clock: false }
    }

    /// How clients reach the nodes: no login over the network succeeds with less. The poolers stay
    /// in the clear.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Adds node 1, a standby of node 0.
    pub fn standby(mut self, standby: Standby) -> Self {
        self.standby = Some(standby);
        self
    }

    /// Gives the nodes wall clocks for [`Cluster::step_clock`](crate::cluster::Cluster::step_clock).
    pub fn movable_clock(mut self) -> Self {
        self.movable_clock = true;
        self
    }

    /// Starts the nodes, at the same time, and waits until all of them are healthy, and the standby
    /// is in step.
    ///
    /// # Errors
    ///
    /// Without an engine or an image, and when the nodes do not get healthy; nothing is left then.
    ///
    /// # Cancel safety
    ///
    /// The start goes on in the background, and what it started is removed.
    pub async fn start(self) -> Result<Postgres> {
        Postgres::run(self).await
    }
}
