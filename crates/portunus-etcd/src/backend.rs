//! The verbs of a lock, each one transaction.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, ConnectOptions, GetOptions, PutOptions, Txn, TxnOp};
use futures_util::future::join;
use portunus_core::backend::{
    Attempt, Capabilities, Entered, EntryId, Left, LockBackend, LockObserver, Mode, Record,
    Renewal, Session, SessionId, TokenStrength, Turn,
};
use portunus_core::error::{Error, ErrorKind, Result};

use crate::config::EtcdConfig;
use crate::endpoints::Endpoints;
use crate::error::{Effect, STORE};
use crate::layout::{Keys, is_by, text, value};
use crate::listing::{Listings, unconfirmed};
use crate::news::{Changes, Wake};
use crate::queue::Queue;
use crate::renew::Renewals;
use crate::rewrite::is_marked;
use crate::slots::Slots;
use crate::store::{Answer, Horizon, Store, created_at, malformed, newest, revision};
use crate::watch::Watches;

/// The longest value of a leader, in bytes of UTF-8: 128 KiB.
///
/// It is kept as JSON, in which one byte can become six. The server takes requests of 1.5 MiB unless
/// its `--max-request-bytes` says otherwise; half of that is left for what stands beside the value.
pub const MAX_VALUE_BYTES: usize = 128 * 1024;

/// Locks in an etcd cluster.
pub struct Etcd {
    config: EtcdConfig,
    pub(crate) keys: Keys,
    pub(crate) store: Arc<Store>,
    /// The same store by the connection of the renewals, which is the keeper's: a session is opened
    /// there.
    sessions: Store,
    renewals: Renewals,
    watches: Watches,
    pub(crate) listings: Listings,
    slots: Slots,
}

impl Etcd {
    /// Prepares the backend. Reads the TLS files; connects with the first request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a TLS file can't be read or holds something else.
    pub fn new(config: EtcdConfig) -> Result<Self> {
        let mut options = ConnectOptions::new();
        if let Some(tls) = config.tls_options()? {
            options = options.with_tls(tls);
        }
        let credentials = config.credentials();
        if let Some((user, password)) = credentials {
            options = options.with_user(user, password);
        }
        let endpoints =
            || Arc::new(Endpoints::new(config.urls(), options.clone(), credentials.is_some()));
        let (requests, renewals) = (endpoints(), endpoints());
        let horizon = Arc::new(Horizon::default());
        Ok(Self {
            keys: config.keys(),
            store: Arc::new(Store::new(Arc::clone(&requests), Arc::clone(&horizon))),
            sessions: Store::new(Arc::clone(&renewals), horizon),
            renewals: Renewals::new(renewals),
            watches: Watches::new(requests),
            listings: Listings::default(),
            slots: Slots::default(),
            config,
        })
    }

    /// How many of the newest entries an exclusive attempt needs to know; 0 for all.
    pub(crate) fn limit(&self, mode: Mode, limit: i64) -> i64 {
        if mode == Mode::Exclusive && self.keys.is_exact() { limit } else { 0 }
    }
}

/// Names the servers: errors of the engine show it.
impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, keys, .. } = self;
        f.debug_struct("Etcd")
            .field("urls", &config.urls())
            .field("keys", keys)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl LockBackend for Etcd {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            store: STORE,
            fifo: true,
            shared: true,
            permits: true,
            convert: true,
            push: true,
            strength: TokenStrength::Strong,
            crash_release: true,
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(24 * 3600),
            // By default a follower waits 1 to 2 s before it stands for election.
            fail_over: Duration::from_millis(2500),
            max_value: MAX_VALUE_BYTES,
        }
    }

    async fn open_session(&self, ttl: Duration) -> Result<Session> {
        self.capabilities().check_ttl(ttl)?;
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds).expect("BUG: at most a day");
        let store = &self.sessions;
        let (incarnation, lease) =
            join(store.incarnation(&self.keys, "open_session"), store.grant(seconds)).await;
        let (lease, granted) = lease?;
        let incarnation = match incarnation {
            Ok(incarnation) => incarnation,
            Err(error) => {
                // A lease needs no permission. Nobody would know of this one.
                let _ = store.revoke(lease).await;
                return Err(error);
            }
        };
        let granted = Duration::from_secs(revision(granted)?);
        Ok(Session::leased(SessionId(u128::from(revision(lease)?)), incarnation, granted))
    }

    async fn renew(&self, session: &Session, _held: &[Arc<Attempt>]) -> Result<Renewal> {
        let renewed = self.renewals.renew(lease(session)?).await;
        // Evicted entries are told by `changed`: one renewal serves any number of locks.
        renewed.map(|()| Renewal::default()).map_err(|fault| fault.into_error("renew", None))
    }

    async fn close_session(&self, session: &Session) -> Result<()> {
        let lease = lease(session)?;
        self.slots.close(session.id);
        match self.store.revoke(lease).await {
            Err(fault) if fault.verdict.kind != ErrorKind::Lost => {
                Err(fault.into_error("close_session", None))
            }
            _ => Ok(()),
        }
    }

    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        let prefix = self.keys.queue(&attempt.name)?;
        let (slot, first) = self.slots.enter(session.id, attempt);
        let own: Arc<str> = self.keys.entry(session.id, &attempt.name, slot)?.into();
        let ended = self.keys.tombstone(session.id, attempt.id);
        let queue = Queue::new(&self.keys, &attempt.name, &prefix);
        let name = Some(attempt.name.as_str());
        let lease = PutOptions::new().with_lease(lease(session)?);
        let record = value(attempt.id, &attempt.record());
        let window = self.window(attempt.mode);
        let enter_if = |free: Option<Compare>| {
            let mut when = vec![created_at(&own, 0), created_at(&ended, 0)];
            when.extend(free);
            let keys_only = || Some(GetOptions::new().with_keys_only());
            let mut otherwise = vec![TxnOp::get(&*own, None), TxnOp::get(&*ended, keys_only())];
            if attempt.try_only {
                otherwise.push(newest(&prefix, self.limit(attempt.mode, 1), 0));
            }
            Txn::new()
                .when(when)
                .and_then([
                    TxnOp::put(&*own, &*record, Some(lease.clone())),
                    newest(&prefix, window, 0),
                ])
                .or_else(otherwise)
        };
        let queued = |mut answer: Answer| {
            answer.skip();
            let kvs = answer.kvs()?;
            let kv = kvs.iter().find(|kv| kv.key() == own.as_bytes());
            let kv = kv.ok_or_else(|| malformed("the own entry is not in the queue"))?;
            let position = revision(kv.create_revision())?;
            let entry = EntryId { key: Arc::clone(&own), position };
            let whole = window == 0 || i64::try_from(kvs.len()).is_ok_and(|count| count < window);
            let turn = queue.turn(&kvs, &entry, attempt.mode, answer.revision);
            Ok::<_, Error>((entry, turn, whole))
        };
        let nobody = || Compare::create_revision(&*prefix, CompareOp::Equal, 0).with_prefix();
        let mut free = attempt.try_only.then(nobody);
        for _ in 0..TRIES {
            let txn = enter_if(free.take());
            let mut answer = self.store.txn("enter", name, Effect::Write, txn).await?;
            if answer.succeeded {
                let (entry, turn, whole) = queued(answer)?;
                let turn = match turn {
                    // Behind readers alone, as far as was read; these may be waiting themselves.
                    Ok(Turn::Held { .. }) if !whole && attempt.mode == Mode::Shared => {
                        self.look_at_own(session, attempt, &entry).await?
                    }
                    // Of another kind than its neighbour, who may be the one that is refused.
                    Err(error) if !whole && error.kind() == ErrorKind::Conflict => {
                        self.look_together(attempt, &entry, prefix).await.map_err(unconfirmed)?
                    }
                    turn => turn?,
                };
                return Ok(Entered::Queued { entry, turn });
            }
            if let Some(kv) = answer.kvs()?.first() {
                if !is_by(attempt.id, kv) {
                    self.slots.end(session.id, attempt, false);
                    return Err(error(ErrorKind::Unavailable, "enter", attempt)
                        .with_detail("the key is in use; the next one is tried; nothing is left"));
                }
                // An earlier request of this attempt arrived.
                let position = revision(kv.create_revision())?;
                let entry = EntryId { key: Arc::clone(&own), position };
                let turn = self.look_at_own(session, attempt, &entry).await?;
                return Ok(Entered::Queued { entry, turn });
            }
            if !answer.kvs()?.is_empty() {
                return Err(error(ErrorKind::Lost, "enter", attempt)
                    .with_detail("this attempt was withdrawn before; nothing is left"));
            }
            if !attempt.try_only {
                return Err(malformed("the own entry is neither there nor absent"));
            }
            if self.is_taken(&queue, &mut answer, &own, attempt).await? {
                if first {
                    self.slots.end(session.id, attempt, true);
                }
                return Ok(Entered::Refused);
            }
            // Holders that let it in, or entries of locks below this name: enter if none came since.
            let next = i64::try_from(answer.revision).unwrap_or(i64::MAX).saturating_add(1);
            free = Some(Compare::create_revision(&*prefix, CompareOp::Less, next).with_prefix());
        }
        Err(error(ErrorKind::Unavailable, "enter", attempt)
            .with_detail("the queue changed while it was read; nothing is left"))
    }

    async fn look(&self, _session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        let prefix = self.keys.queue(&attempt.name)?;
        // Whoever came later is of no interest. Revision 1 is the empty store's.
        let before = match attempt.mode {
            Mode::Exclusive => entry.position.saturating_sub(1).max(1),
            Mode::Shared => return self.look_together(attempt, entry, prefix).await,
            Mode::Permit { .. } => entry.position,
        };
        // Both halves of a grant in one linearizable step: the entry stands, and none before it.
        let txn = Txn::new().when([created_at(&entry.key, entry.position)]).and_then([newest(
            &prefix,
            self.limit(attempt.mode, 1),
            before,
        )]);
        let name = Some(attempt.name.as_str());
        let mut answer = self.store.txn("look", name, Effect::Read, txn).await?;
        if !answer.succeeded {
            return Ok(Turn::Lost);
        }
        let (queue, kvs) = (Queue::new(&self.keys, &attempt.name, &prefix), answer.kvs()?);
        let turn = match queue.turn(&kvs, entry, attempt.mode, answer.revision) {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.look_together(attempt, entry, prefix.clone()).await?
            }
            turn => turn?,
        };
        let permit = matches!(attempt.mode, Mode::Permit { .. });
        match turn {
            Turn::Held { .. } if permit && !is_marked(&kvs, entry) => {
                self.mark(attempt, entry, turn).await
            }
            turn => Ok(turn),
        }
    }

    async fn changed(
        &self,
        _session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        turn: &Turn,
    ) -> Result<()> {
        let prefix = self.keys.queue(&attempt.name)?;
        let own = Arc::clone(&entry.key);
        let (mut keys, mut as_of, held) = match turn {
            Turn::Lost => return Ok(()),
            Turn::Waiting { blockers, as_of } => (blockers.clone(), *as_of, false),
            Turn::Held { .. } => {
                let confirmed = self.watches.confirmed(&prefix, &own).unwrap_or(0);
                (Vec::new(), confirmed.max(entry.position), true)
            }
        };
        keys.push(Arc::clone(&own));
        let changes = match attempt.mode {
            // Of the writer before it: that it became a reader.
            Mode::Shared if !held => Changes::Awaited,
            // Of the waiter before it: that it became a holder.
            Mode::Permit { .. } if !held => Changes::Awaited,
            Mode::Permit { .. } => Changes::Ignored,
            Mode::Exclusive | Mode::Shared => Changes::Unwatched,
        };
        loop {
            match self.watches.wait(&prefix, keys.clone(), as_of, changes).await {
                Wake::Broken(error) => return Err(error.with_key(attempt.name.as_str())),
                // A watch that began after the last look at the own entry: look once more.
                // Boxed: thousands of holders wait here, and few ever ask.
                Wake::Stale if held => match Box::pin(self.stands(attempt, entry)).await? {
                    Some(revision) => {
                        self.watches.confirm(&prefix, &own, revision);
                        as_of = revision;
                    }
                    None => return Ok(()),
                },
                Wake::Gone | Wake::Stale => return Ok(()),
            }
        }
    }

    async fn leave(&self, session: &Session, attempt: &Attempt, in_doubt: bool) -> Result<Left> {
        let name = Some(attempt.name.as_str());
        let slot = self.slots.leave(attempt.id);
        // Of an attempt that this backend does not know, or no longer, the store may still know.
        let own = match slot {
            Some((slot, _)) => self.keys.entry(session.id, &attempt.name, slot)?,
            None => self.keys.entries(session.id, &attempt.name)?,
        };
        let remove = || match slot {
            Some(_) => TxnOp::delete(&*own, None),
            None => newest(&own, 0, 0),
        };
        let mut operations = vec![remove()];
        if in_doubt {
            let ended = self.keys.tombstone(session.id, attempt.id);
            let lease = PutOptions::new().with_lease(lease(session)?);
            operations.push(TxnOp::put(ended, "", Some(lease)));
        }
        let txn = Txn::new().and_then(operations);
        let mut answer = match self.store.try_txn(Effect::Write, txn).await {
            Ok(answer) => answer.map_err(|disorder| disorder.into_error("leave", name))?,
            // The lease is gone, and every entry with it; nothing can be put under it any more.
            Err(fault) if fault.verdict.kind == ErrorKind::Lost => {
                self.slots.end(session.id, attempt, false);
                return Ok(Left::Absent);
            }
            Err(fault) => {
                if in_doubt && slot.is_some() && fault.is_no_space() {
                    // A full store still deletes: others need not wait until there is space.
                    let txn = Txn::new().and_then([remove()]);
                    let _ = self.store.try_txn(Effect::Write, txn).await;
                }
                return Err(fault.into_error("leave", name));
            }
        };
        let removed = match slot {
            Some((_, clean)) => {
                let removed = answer.deleted()?;
                self.slots.end(session.id, attempt, clean && !in_doubt);
                removed
            }
            None => match answer.kvs()?.iter().find(|kv| is_by(attempt.id, kv)) {
                Some(kv) => {
                    let position = revision(kv.create_revision())?;
                    let entry = EntryId { key: text(kv.key()), position };
                    self.evict(&attempt.name, &entry).await?
                }
                None => false,
            },
        };
        Ok(if removed { Left::Removed } else { Left::Absent })
    }

    async fn convert(&self, _: &Session, attempt: &Attempt, entry: &EntryId) -> Result<()> {
        self.rewrite("convert", attempt, entry, |record| record.mode = Mode::Shared).await
    }

    async fn publish(
        &self,
        _: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: &str,
    ) -> Result<()> {
        let change = |record: &mut Record| value.clone_into(&mut record.value);
        self.rewrite("publish", attempt, entry, change).await
    }
}

pub(crate) fn lease(session: &Session) -> Result<i64> {
    i64::try_from(session.id.0).map_err(|_| malformed("a session of another store"))
}

pub(crate) fn error(kind: ErrorKind, operation: &'static str, attempt: &Attempt) -> Error {
    Error::new(kind, STORE, operation).with_key(attempt.name.as_str())
}

/// How often a try reads the queue when others enter at the same time: readers come in crowds.
const TRIES: usize = 4;
