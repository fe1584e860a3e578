//! What a test may choose about Redis.

use super::{Result, Server, Tls};

/// What becomes of the data of a node that is killed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Persistence {
    /// Each answered write is in the append-only file before its answer, and comes back.
    #[default]
    Always,
    /// Nothing is written: the node comes back empty.
    None,
}

/// Chooses how `N` servers are run; see [`Redis::builder`](crate::cluster::Redis::builder) for the
/// defaults.
#[derive(Clone)]
#[must_use = "nothing runs before `start`"]
pub struct RedisBuilder<const N: usize> {
    pub(super) tls: Tls,
    pub(super) persistence: Persistence,
    pub(super) user: Option<User>,
    pub(super) valkey: bool,
    pub(super) movable_clock: bool,
}

impl<const N: usize> RedisBuilder<N> {
    pub(super) const fn new() -> Self {
        Self {
            tls: Tls::Off,
            persistence: Persistence::Always,
            user: None,
            valkey: false,
            movable_clock: false,
        }
    }

    /// How clients reach the nodes: with TLS there is no port in the clear.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// What becomes of the data of a node that is killed.
    pub fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// Makes a user who may do what the `rules` of an ACL say (`"~lock:* &* +set +get"`); without
    /// a login nothing is allowed then.
    pub fn user(mut self, name: &str, password: &str, rules: &str) -> Self {
        let [name, password, rules] = [name, password, rules].map(str::to_owned);
        self.user = Some(User { name, password, rules });
        self
    }

    /// Runs Valkey in place of Redis.
    pub fn valkey(mut self) -> Self {
        self.valkey = true;
        self
    }

    /// Gives the nodes wall clocks for [`Cluster::step_clock`](crate::cluster::Cluster::step_clock).
    pub fn movable_clock(mut self) -> Self {
        self.movable_clock = true;
        self
    }

    /// Starts the nodes, at the same time, and waits until all of them are healthy.
    ///
    /// # Errors
    ///
    /// Without an engine or an image, and when the nodes do not get healthy; nothing is left then.
    ///
    /// # Cancel safety
    ///
    /// The start goes on in the background, and what it started is removed.
    pub async fn start(self) -> Result<Server<Self>> {
        Server::launch(self).await
    }
}

/// Without the user, whose password is in there.
impl<const N: usize> std::fmt::Debug for RedisBuilder<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("tls", &self.tls)
            .field("persistence", &self.persistence)
            .field("valkey", &self.valkey)
            .field("movable_clock", &self.movable_clock)
            .finish_non_exhaustive()
    }
}

/// Who may do what.
#[derive(Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: String,
    pub(super) rules: String,
}
