//! What a test may choose about an etcd cluster.

use std::time::Duration;

use super::{Etcd, Result, Tls};

/// The kind of token that a password is exchanged for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Token {
    /// Known to the node that issued it, and gone `ttl` (whole seconds) after its last use.
    Simple {
        /// Its life after the last use.
        ttl: Duration,
    },
    /// Signed, good on every node until `ttl` (whole seconds) after its issue.
    Jwt {
        /// Its life.
        ttl: Duration,
    },
}

/// A password for the user `root`.
#[derive(Clone, Debug)]
pub struct Auth {
    password: String,
    pub(super) token: Token,
}

impl Auth {
    /// The user with all rights; there is no other one.
    pub const USER: &'static str = "root";

    /// Asks for `password` and hands out etcd's default token, a simple one good for 5 minutes.
    pub fn new(password: impl Into<String>) -> Self {
        let token = Token::Simple { ttl: Duration::from_secs(300) };
        Self { password: password.into(), token }
    }

    /// Hands out another kind of token.
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.token = token;
        self
    }

    /// The password.
    pub fn password(&self) -> &str {
        &self.password
    }
}

/// Chooses how a cluster is made; see [`Etcd::builder`] for the defaults.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct EtcdBuilder {
    pub(super) tls: Tls,
    pub(super) auth: Option<Auth>,
    pub(super) heartbeat: Duration,
    pub(super) election: Duration,
}

impl EtcdBuilder {
    pub(super) fn new() -> Self {
        Self {
            tls: Tls::Off,
            auth: None,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_secs(1),
        }
    }

    /// How clients reach the nodes.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Turns authentication on, once the nodes run.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = Some(auth);
        self
    }

    /// The leader's heartbeat, and after how long without one a follower stands for election.
    pub fn timing(mut self, heartbeat: Duration, election: Duration) -> Self {
        self.heartbeat = heartbeat;
        self.election = election;
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
    pub async fn start(self) -> Result<Etcd> {
        Etcd::launch(self).await
    }
}
