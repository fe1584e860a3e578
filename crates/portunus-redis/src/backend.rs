//! The verbs of a lock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use portunus_core::backend::{
    Attempt, Capabilities, Entered, EntryId, Expires, Left, LockBackend, Renewal, Session,
    TokenStrength, Turn,
};
use portunus_core::clock::{BootClock, Clock};
use portunus_core::error::{Error, ErrorKind, Result};

use crate::attempts::{Attempts, Own};
use crate::config::RedisConfig;
use crate::entry::{holder_key, key};
use crate::error::{STORE, error};
use crate::keys::Keys;
use crate::news::News;
use crate::node::{Lane, Node};
use crate::nodes::{Nodes, Replies};
use crate::round::{Ended, Manner, Rounds};
use crate::script::{CLOSE, Call, LEAVE, PUBLISH};
use crate::seeding::Seeding;

/// The longest value of a leader, in bytes of UTF-8: 128 KiB. Redis would take more; with this one a
/// value fits other stores too.
pub const MAX_VALUE_BYTES: usize = 128 * 1024;

/// Locks on one Redis server, or on a majority of several.
pub struct Redis {
    config: RedisConfig,
    pub(crate) keys: Keys,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) news: News,
    rounds: Rounds,
}

impl Redis {
    /// Prepares the backend. No server is spoken to before the first request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a TLS file can't be used.
    pub fn new(config: RedisConfig) -> Result<Self> {
        Self::with_clock(config, Arc::new(BootClock::new()))
    }

    /// The same by another clock, which has to count as the servers' do.
    ///
    /// # Errors
    ///
    /// As [`Redis::new`].
    pub fn with_clock(config: RedisConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let clients = config.clients()?.into_iter();
        let nodes = clients.map(|(host, client)| Arc::new(Node::new(host, client))).collect();
        let nodes = Arc::new(Nodes::new(nodes, clock));
        let (keys, attempts) = (config.keys(), Arc::new(Attempts::default()));
        let news = News::new(Arc::clone(&nodes), Arc::clone(&attempts));
        let (of, own) = (Arc::clone(&nodes), Arc::clone(&attempts));
        let rounds = Rounds { nodes: of, keys: keys.clone(), attempts: own };
        Ok(Self { config, keys, nodes, attempts, news, rounds })
    }

    pub(crate) fn seeding(&self) -> Seeding {
        Seeding { nodes: Arc::clone(&self.nodes), keys: self.keys.clone() }
    }

    /// What is known of an attempt, if this is its entry.
    fn own(&self, attempt: &Attempt, entry: &EntryId) -> Option<Own> {
        let own = self.attempts.get(attempt.id).filter(|own| !own.is_gone)?;
        (entry.position == own.position && entry.key == key(attempt.id)).then_some(own)
    }

    /// Where an entry waits, by what its round found.
    fn waiting(&self, attempt: &Attempt, holder: Option<&[u8]>) -> Turn {
        let before = self.attempts.before(attempt.id, &attempt.name).map(key);
        let blocker = before.or_else(|| holder.map(holder_key));
        Turn::Waiting { blockers: blocker.into_iter().collect(), as_of: 0 }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("config", &self.config).finish_non_exhaustive()
    }
}

#[async_trait]
impl LockBackend for Redis {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            store: STORE,
            fifo: false,
            shared: false,
            permits: false,
            convert: false,
            push: true,
            strength: TokenStrength::Weak,
            crash_release: true,
            min_ttl: Duration::from_millis(500),
            max_ttl: Duration::from_secs(24 * 3600),
            fail_over: Duration::ZERO,
            max_value: MAX_VALUE_BYTES,
        }
    }

    async fn open_session(&self, ttl: Duration) -> Result<Session> {
        self.capabilities().check_ttl(ttl)?;
        self.open(ttl).await
    }

    async fn renew(&self, session: &Session, held: &[Arc<Attempt>]) -> Result<Renewal> {
        self.renew_all(session, held).await
    }

    async fn close_session(&self, session: &Session) -> Result<()> {
        // Also if no server answers: who comes later is not to stand behind them.
        self.attempts.forget_all(session.id);
        let call = Call::new("close_session", &CLOSE, [self.keys.session(session.id)], []);
        let closed = self
            .nodes
            .ask(
                Lane::Requests,
                session.request_timeout / 2,
                "close_session",
                |_| Some(call.clone()),
                // It may be the last request of all.
                |replies| replies.by_node.iter().all(Option::is_some),
            )
            .await;
        if !closed.is_majority(&["ok"]) {
            return Err(closed.failure());
        }
        self.repeat_where_unanswered(&closed, &call, session);
        self.attempts.forget_all(session.id);
        Ok(())
    }

    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        let manner = match attempt.try_only {
            true => Manner::Try,
            // First come, first served, in this process.
            false if !self.attempts.is_next(session.id, attempt) => Manner::Stand,
            false => Manner::Enter,
        };
        let granted =
            self.attempts.get(attempt.id).and_then(|own| Some((own.granted?, own.position)));
        if let Some(((round, token), position)) = granted {
            // Its answer was lost on the way: the same grant, or none.
            let stands = self.stands(session, attempt, round, position).await?;
            if stands.is_majority(&["held"]) {
                let entry = EntryId { key: key(attempt.id), position };
                let turn = Turn::Held { token, expires: Expires::WithSession };
                return Ok(Entered::Queued { entry, turn });
            }
        }
        let ended = self.rounds.run(session, attempt, manner).await;
        match ended {
            Ok(Ended::Held { token, position }) => {
                let entry = EntryId { key: key(attempt.id), position };
                let turn = Turn::Held { token, expires: Expires::WithSession };
                Ok(Entered::Queued { entry, turn })
            }
            Ok(Ended::Waits { position, holder }) => {
                let entry = EntryId { key: key(attempt.id), position };
                Ok(Entered::Queued { entry, turn: self.waiting(attempt, holder.as_deref()) })
            }
            Ok(Ended::Refused) => {
                self.attempts.forget(attempt.id);
                Ok(Entered::Refused)
            }
            Ok(Ended::Gone) => {
                self.attempts.forget(attempt.id);
                Err(error(ErrorKind::Stale, "enter")
                    .with_key(attempt.name.as_str())
                    .with_detail("the attempt has left; nothing was queued"))
            }
            Err(error) => {
                let is_new = self.attempts.get(attempt.id).is_none_or(|own| own.position == 0);
                // Of several servers, one may still have to undo a round, whose number is not for another.
                let is_over = error.kind() == ErrorKind::Unavailable && self.nodes.is_one();
                if is_over && is_new {
                    self.attempts.forget(attempt.id);
                }
                Err(error.with_key(attempt.name.as_str()))
            }
        }
    }

    async fn look(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        let Some(own) = self.own(attempt, entry) else { return Ok(Turn::Lost) };
        let looked = if let Some((round, token)) = own.granted {
            let stands = self.stands(session, attempt, round, own.position).await?;
            match stands.is_majority(&["held"]) {
                true => Turn::Held { token, expires: Expires::WithSession },
                false => Turn::Lost,
            }
        } else if !self.attempts.is_next(session.id, attempt) {
            let stands = self.stands(session, attempt, 0, own.position).await?;
            match stands.is_majority(&["waits"]) {
                true => self.waiting(attempt, None),
                false => Turn::Lost,
            }
        } else {
            match self.rounds.run(session, attempt, Manner::Look).await? {
                Ended::Held { token, .. } => Turn::Held { token, expires: Expires::WithSession },
                Ended::Waits { holder, .. } => self.waiting(attempt, holder.as_deref()),
                Ended::Refused | Ended::Gone => Turn::Lost,
            }
        };
        if looked == Turn::Lost {
            self.attempts.gone(attempt.id);
        }
        Ok(looked)
    }

    async fn changed(
        &self,
        session: &Session,
        attempt: &Attempt,
        _entry: &EntryId,
        turn: &Turn,
    ) -> Result<()> {
        self.watch(session, attempt, turn).await
    }

    async fn leave(&self, session: &Session, attempt: &Attempt, in_doubt: bool) -> Result<Left> {
        let own = self.attempts.get(attempt.id);
        let doubted = in_doubt || own.as_ref().is_some_and(|own| own.in_doubt);
        let first = own.map(|own| own.connections);
        let connections = self.nodes.connections();
        let mut doubt = doubted || first.is_some_and(|first| first != connections);
        loop {
            let keys = &self.keys;
            let call = Call::new(
                "leave",
                &LEAVE,
                [keys.session(session.id), keys.lock(&attempt.name), keys.line(&attempt.name)],
                [attempt.id.to_string(), u8::from(doubt).to_string()],
            );
            let limit = session.request_timeout / 2;
            let left = self
                .nodes
                .ask(
                    Lane::Requests,
                    limit,
                    "leave",
                    |_| Some(call.clone()),
                    |replies| replies.is_majority(&["removed", "absent"]),
                )
                .await;
            if !left.is_majority(&["removed", "absent"]) {
                return Err(left.failure().with_key(attempt.name.as_str()));
            }
            if !doubt && self.nodes.connections() != connections && first.is_some() {
                // It went by another connection than what it has to overtake nowhere.
                doubt = true;
                continue;
            }
            self.repeat_where_unanswered(&left, &call, session);
            self.attempts.forget(attempt.id);
            return Ok(if left.count(&["removed"]) > 0 { Left::Removed } else { Left::Absent });
        }
    }

    async fn convert(&self, _: &Session, attempt: &Attempt, _: &EntryId) -> Result<()> {
        Err(error(ErrorKind::Unsupported, "convert")
            .with_key(attempt.name.as_str())
            .with_detail("this store has exclusive locks alone; the lock is held as before"))
    }

    async fn publish(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: &str,
    ) -> Result<()> {
        let lost = || Err(gone("publish", attempt));
        let granted = self.own(attempt, entry).and_then(|own| own.granted);
        let serial = self.attempts.change(attempt.id, |own| {
            own.serial += 1;
            own.serial
        });
        let (Some((round, _)), Some(serial)) = (granted, serial) else { return lost() };
        let mut record = attempt.record();
        value.clone_into(&mut record.value);
        let args = [
            attempt.id.to_string(),
            round.to_string(),
            entry.position.to_string(),
            serial.to_string(),
            record.to_json(),
        ];
        let keys = [self.keys.lock(&attempt.name), self.keys.line(&attempt.name)];
        let call = Call::new("publish", &PUBLISH, keys, args);
        let enough = |replies: &Replies| {
            replies.is_majority(&["ok"]) || replies.bars_majority(&["absent", "stale"])
        };
        let limit = session.request_timeout / 2;
        let published =
            self.nodes.ask(Lane::Requests, limit, "publish", |_| Some(call.clone()), enough).await;
        if published.is_majority(&["ok"]) {
            Ok(())
        } else if published.bars_majority(&["absent"]) {
            lost()
        } else if published.bars_majority(&["absent", "stale"]) {
            Err(error(ErrorKind::Unavailable, "publish")
                .with_key(attempt.name.as_str())
                .with_detail("a later value stands"))
        } else {
            Err(published.failure().with_key(attempt.name.as_str()))
        }
    }
}

impl Redis {
    /// Asks those who did not answer again, in the background, for as long as what they have may last.
    fn repeat_where_unanswered(&self, replies: &Replies, call: &Call, session: &Session) {
        for (at, reply) in replies.by_node.iter().enumerate() {
            if !matches!(reply, Some(Ok(_))) {
                self.rounds.repeat(at, call.clone(), session.granted);
            }
        }
    }
}

fn gone(operation: &'static str, attempt: &Attempt) -> Error {
    error(ErrorKind::Lost, operation)
        .with_key(attempt.name.as_str())
        .with_detail("the entry is gone")
}
