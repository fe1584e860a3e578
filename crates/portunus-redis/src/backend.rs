//! The verbs of a lock.

use std::fmt;
use std::sync::{Arc, Mutex};
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
use crate::leaving::Parting;
use crate::news::News;
use crate::node::{Lane, Node, Servers};
use crate::nodes::{Nodes, Replies};
use crate::round::{Ended, Manner, Rounds};
use crate::script::{CLOSE, Call, PUBLISH};
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
    /// [`ErrorKind::Invalid`] when a TLS file can't be used, or a cluster is asked for what it has not.
    pub fn new(config: RedisConfig) -> Result<Self> {
        Self::with_clock(config, Arc::new(BootClock::new()))
    }

    /// The same by another clock, which has to count as the servers' do.
    ///
    /// # Errors
    ///
    /// As [`Redis::new`].
    pub fn with_clock(config: RedisConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let places = config.places()?;
        let servers: Servers = Arc::new(Mutex::new(vec![[None, None]; places.len()]));
        let node = |(at, (host, place))| {
            Arc::new(Node::new(host, place, at, Arc::clone(&servers), Arc::clone(&clock)))
        };
        let all = places.into_iter().enumerate().map(node).collect();
        let nodes = Arc::new(Nodes::new(all, Arc::clone(&clock)));
        let (keys, attempts) = (config.keys(), Arc::new(Attempts::default()));
        let news = News::new(Arc::clone(&nodes), Arc::clone(&attempts));
        let (of, own) = (Arc::clone(&nodes), Arc::clone(&attempts));
        let rounds = Rounds { nodes: of, keys: keys.clone(), attempts: own };
        Ok(Self { config, keys, nodes, attempts, news, rounds })
    }

    pub(crate) fn seeding(&self, lane: Lane) -> Seeding {
        Seeding { nodes: Arc::clone(&self.nodes), keys: self.keys.clone(), lane }
    }

    /// What is known of an attempt, if this is its entry.
    fn own(&self, attempt: &Attempt, entry: &EntryId) -> Option<Own> {
        let own = self.attempts.get(attempt.id).filter(|own| !own.is_gone)?;
        (entry.position == own.position && entry.key == key(attempt.id)).then_some(own)
    }

    /// Whether an entry waits behind others of this process, and no server has said that it does not stand there:
    /// it needs no round.
    async fn rests(&self, session: &Session, attempt: &Attempt, own: &Own) -> Result<bool> {
        if own.strays > 0 || self.attempts.is_next(session.id, attempt) {
            return Ok(false);
        }
        let told = self.ask_standing(session, attempt, 0, own.position).await;
        match told.count(&["absent"]) > 0 {
            true => Ok(false),
            false if told.is_majority(&["waits"]) => Ok(true),
            false => Err(told.failure()),
        }
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
        self.open(ttl, Lane::Renewals).await
    }

    async fn renew(&self, session: &Session, held: &[Arc<Attempt>]) -> Result<Renewal> {
        self.renew_all(session, held).await
    }

    async fn close_session(&self, session: &Session) -> Result<()> {
        // Also if no server answers: who comes later is not to stand behind them.
        self.attempts.forget_all(session.id);
        let late = (2 * session.granted).max(LATE).as_millis().to_string();
        let call = Call::new("close_session", &CLOSE, [self.keys.session(session.id)], [late]);
        let closed = self
            .nodes
            .ask(
                Lane::Requests,
                session.request_timeout / 2,
                "close_session",
                None,
                |_| Some(call.clone()),
                // It may be the last request of all.
                |replies| replies.by_node.iter().all(Option::is_some),
            )
            .await;
        if !closed.is_majority(&["ok"]) {
            return Err(closed.failure_after(&["ok"]));
        }
        for (at, reply) in closed.by_node.iter().enumerate() {
            if !matches!(reply, Some(Ok(_))) {
                self.rounds.repeat(at, call.clone(), None, session.granted);
            }
        }
        self.attempts.forget_all(session.id);
        Ok(())
    }

    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        self.keys.check(&attempt.name)?;
        let manner = match attempt.try_only {
            true => Manner::Try,
            // First come, first served, in this process; but who asked before may have the lock already.
            false
                if self.attempts.get(attempt.id).is_none()
                    && !self.attempts.is_next(session.id, attempt) =>
            {
                Manner::Stand
            }
            false => Manner::Enter,
        };
        let granted =
            self.attempts.get(attempt.id).and_then(|own| Some((own.granted?, own.position)));
        if let Some(((round, token), position)) = granted {
            // Its answer was lost on the way: the same grant, or none. Its entry is there if nobody answers.
            let stands = self.stands(session, attempt, round, position).await;
            return match stands.map(|stands| stands.is_majority(&["held"])) {
                Ok(true) => {
                    let entry = EntryId { key: key(attempt.id), position };
                    let turn = Turn::Held { token, expires: Expires::WithSession };
                    Ok(Entered::Queued { entry, turn })
                }
                // This makes no entry, and says whether the session is gone, too.
                Ok(false) => self
                    .rounds
                    .run(session, attempt, Manner::Look)
                    .await
                    .and_then(|_| Err(left_already(attempt))),
                Err(failure) if failure.kind() == ErrorKind::Unavailable => {
                    let doubt = error(ErrorKind::Unconfirmed, "enter");
                    Err(doubt.with_key(attempt.name.as_str()).with_source(failure))
                }
                Err(error) => Err(error),
            };
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
            Ok(Ended::Gone) => Err(left_already(attempt)),
            Err(error) => {
                // What an earlier request may have made is renewed until the attempt leaves.
                let is_new = self
                    .attempts
                    .get(attempt.id)
                    .is_none_or(|own| own.position == 0 && own.doubts.newest(0) == 0);
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
        } else if self.rests(session, attempt, &own).await? {
            self.waiting(attempt, None)
        } else {
            let ended = self.rounds.run(session, attempt, Manner::Look).await?;
            self.attempts.change(attempt.id, |own| own.strays = own.strays.saturating_sub(1));
            match ended {
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
        // Who is behind it in this process does not wait until the store has confirmed it.
        self.attempts.step_out(attempt.id);
        let own = self.attempts.get(attempt.id);
        // One that is not known may have been forgotten: then it has left before, or never was.
        let doubts = own.map(|own| own.doubts);
        let parting = Parting::new(&self.keys, session, attempt).known(doubts, in_doubt);
        let gone = |replies: &Replies| replies.is_majority(&["removed", "absent"]);
        let limit = session.request_timeout / 2;
        let left = self.rounds.part(&parting, limit, |_| true, gone, gone, session).await;
        if !gone(&left) {
            let failure = left.failure_after(&["removed", "absent"]);
            return Err(failure.with_key(attempt.name.as_str()));
        }
        self.attempts.forget(attempt.id);
        Ok(if left.count(&["removed"]) > 0 { Left::Removed } else { Left::Absent })
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
        let published = self
            .nodes
            .ask(Lane::Requests, limit, "publish", None, |_| Some(call.clone()), enough)
            .await;
        if published.is_majority(&["ok"]) {
            Ok(())
        } else if published.bars_majority(&["absent"]) {
            lost()
        } else if published.bars_majority(&["absent", "stale"]) && published.count(&["ok"]) == 0 {
            Err(error(ErrorKind::Unavailable, "publish")
                .with_key(attempt.name.as_str())
                .with_detail("a later value stands"))
        } else {
            // A value that only some of the servers took may be seen, or not.
            Err(published.failure_after(&["ok"]).with_key(attempt.name.as_str()))
        }
    }
}

fn gone(operation: &'static str, attempt: &Attempt) -> Error {
    error(ErrorKind::Lost, operation)
        .with_key(attempt.name.as_str())
        .with_detail("the entry is gone")
}

fn left_already(attempt: &Attempt) -> Error {
    error(ErrorKind::Stale, "enter")
        .with_key(attempt.name.as_str())
        .with_detail("the attempt has left; nothing was queued")
}

/// How long a request may be late, at least, without bringing a closed session back.
const LATE: Duration = Duration::from_secs(60);
