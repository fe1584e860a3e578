//! The verbs of a lock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join;
use portunus_core::backend::{
    Attempt, Capabilities, Entered, EntryId, Left, LockBackend, Mode, Record, Renewal, Session,
    SessionId, TokenStrength, Turn,
};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::queue::Place;
use zookeeper_client::{Client, Error as ClientError};

use crate::config::ZooKeeperConfig;
use crate::connection::Dial;
use crate::endpoints::Endpoints;
use crate::error::{Effect, Fault, STORE};
use crate::layout::is_entry;
use crate::listing::{Listings, unconfirmed};
use crate::observer::{Reader, list};
use crate::queue::{self, Queue, Strangers};
use crate::session::{LiveSession, Sessions, confirm};
use crate::slots::{Entering, Own, Slots};
use crate::store::{Store, zxid};
use crate::watch::Blockers;

/// The longest value of a leader, in bytes of UTF-8: 128 KiB.
///
/// It is kept as JSON, in which one byte can become six. The server takes packets of 1 MiB less one
/// byte unless its `jute.maxbuffer` says otherwise; a quarter of that is left for what stands beside
/// the value.
pub const MAX_VALUE_BYTES: usize = 128 * 1024;

/// Locks in a ZooKeeper ensemble.
pub struct ZooKeeper {
    pub(crate) dial: Arc<Dial>,
    pub(crate) store: Store,
    pub(crate) sessions: Sessions,
    pub(crate) strangers: Arc<Strangers>,
    pub(crate) reader: Reader,
    pub(crate) listings: Listings,
    pub(crate) slots: Slots,
}

impl ZooKeeper {
    /// Prepares the backend. Reads the TLS files; connects with the first request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when a TLS file can't be read or holds something else.
    pub fn new(config: ZooKeeperConfig) -> Result<Self> {
        Ok(Self {
            dial: Arc::new(config.dial()?),
            store: Store::new(config.paths(), config.acls()),
            sessions: Sessions::default(),
            strangers: Arc::default(),
            reader: Reader::default(),
            listings: Listings::default(),
            slots: Slots::default(),
        })
    }

    fn live(
        &self,
        session: &Session,
        operation: &'static str,
        attempt: &Attempt,
    ) -> Result<Arc<LiveSession>> {
        let live = self.sessions.get(session.id);
        live.ok_or_else(|| Fault::lost().into_error(operation, Some(attempt.name.as_str())))
    }

    /// Deletes a node; whether it was there.
    pub(crate) async fn delete(&self, endpoints: &Endpoints, path: &str) -> Result<bool, Fault> {
        let delete = |client: Client| async move {
            match client.delete(path, None).await {
                Ok(()) => Ok(true),
                Err(ClientError::NoNode) => Ok(false),
                Err(error) => Err(error),
            }
        };
        endpoints.run(Effect::Write, delete).await
    }
}

/// Names the servers: errors of the engine show it.
impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper")
            .field("hosts", &self.dial.hosts)
            .field("root", &self.store.paths.root())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl LockBackend for ZooKeeper {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            store: STORE,
            fifo: true,
            shared: true,
            permits: true,
            convert: false,
            push: true,
            strength: TokenStrength::Strong,
            crash_release: true,
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(24 * 3600),
            // By default followers give up a leader that hangs after 5 ticks of 2 s.
            fail_over: Duration::from_secs(12),
            max_value: MAX_VALUE_BYTES,
        }
    }

    async fn open_session(&self, ttl: Duration) -> Result<Session> {
        self.capabilities().check_ttl(ttl)?;
        let endpoints = Endpoints::open(Arc::clone(&self.dial), ttl).await;
        let endpoints = endpoints.map_err(|fault| fault.into_error("open_session", None))?;
        let (id, granted) = endpoints.granted();
        let id = SessionId(id.cast_unsigned().into());
        let node = self.store.paths.session(id);
        let marked = async {
            let incarnation = self.store.incarnation(&endpoints, "open_session").await?;
            self.store.mark(&endpoints, &node).await.map(|()| incarnation)
        };
        let incarnation = match marked.await {
            Ok(incarnation) => incarnation,
            Err(error) => {
                // Nobody would know of it, and the runtime that it lives on may end with this call.
                drop(endpoints.close().await);
                return Err(error);
            }
        };
        self.sessions.insert(id, LiveSession::new(endpoints, node));
        Ok(Session {
            id,
            incarnation,
            granted,
            validity: granted / 2,
            renew_every: granted / 6,
            request_timeout: granted / 8,
        })
    }

    async fn renew(&self, session: &Session, _held: &[Arc<Attempt>]) -> Result<Renewal> {
        let failed = |fault: Fault| fault.into_error("renew", None);
        let live = self.sessions.get(session.id).ok_or_else(|| failed(Fault::lost()))?;
        // Evicted entries are told by `changed`: one renewal serves any number of locks.
        live.renew().await.map(|()| Renewal::default()).map_err(failed)
    }

    async fn close_session(&self, session: &Session) -> Result<()> {
        let Some(live) = self.sessions.get(session.id) else { return Ok(()) };
        let ended = live.endpoints.close().await;
        if !ended.is_lost() {
            return Err(ended.into_error("close_session", None));
        }
        self.sessions.remove(session.id);
        self.slots.close(session.id);
        Ok(())
    }

    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        let live = self.live(session, "enter", attempt)?;
        let failed = |fault: Fault| fault.into_error("enter", Some(attempt.name.as_str()));
        let parent = self.store.paths.queue(&attempt.name);
        let queue = Queue::new(&parent, &self.strangers);
        let known = match self.slots.begin(session.id, attempt) {
            Entering::First => None,
            Entering::Done(own) => Some(own),
            Entering::InDoubt => {
                live.bar().await.map_err(failed)?;
                self.find(&live, attempt, &parent).await.map_err(failed)?
            }
            Entering::Withdrawn => {
                return Err(error(ErrorKind::Lost, "enter", attempt)
                    .with_detail("this attempt was withdrawn before; nothing is left"));
            }
        };
        let (own, turn) = match known {
            Some(own) => {
                self.slots.done(session.id, attempt, own.clone());
                let turn = self.look(session, attempt, &own.entry).await.map_err(unconfirmed)?;
                (own, turn)
            }
            None => {
                if attempt.try_only {
                    // Nothing was sent that makes an entry.
                    self.slots.end(attempt.id);
                    let listed = live.endpoints.run(Effect::Read, |client| list(client, &parent));
                    let entries = queue.entries(&listed.await.map_err(failed)?);
                    if let Place::Behind(blockers) = queue.blockers(entries, attempt)? {
                        for blocker in &blockers {
                            self.check_node(&live, attempt, blocker).await?;
                        }
                        return Ok(Entered::Refused);
                    }
                }
                self.slots.begin(session.id, attempt);
                let (own, children) = self.create(&live, session.id, attempt, &parent).await?;
                let turn = queue.turn(&children, &own)?;
                (own, turn)
            }
        };
        self.check_number(attempt, &own)?;
        if attempt.try_only && matches!(turn, Turn::Waiting { .. } | Turn::Lost) {
            // Somebody came in between; it may be gone, if the answer to this was lost before.
            let deleted = self.delete(&live.endpoints, &own.entry.key).await;
            deleted.map_err(failed).map_err(unconfirmed)?;
            self.slots.end(attempt.id);
            return Ok(Entered::Refused);
        }
        let turn = self.check_blockers(&live, attempt, turn).await.map_err(unconfirmed)?;
        Ok(Entered::Queued { entry: own.entry, turn })
    }

    async fn look(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        let Ok(live) = self.live(session, "look", attempt) else { return Ok(Turn::Lost) };
        let failed = |fault: Fault| fault.into_error("look", Some(attempt.name.as_str()));
        let parent = self.store.paths.queue(&attempt.name);
        if !is_entry(entry, &parent) {
            return Ok(Turn::Lost);
        }
        let known = self.slots.own(attempt.id).filter(|own| own.entry == *entry);
        if let (Mode::Shared, Some(own)) = (attempt.mode, &known) {
            let entries = self.list_together(session.id, &live, attempt, &parent).await?;
            return self.check_blockers(&live, attempt, queue::turn(&entries, own)?).await;
        }
        let ask = |client: Client| {
            let (parent, known) = (&parent, known.clone());
            async move {
                // In this order: a grant after waiting needs the own node confirmed after the
                // queue was read. Both are sent at once; the server keeps their order.
                let listing = client.list_children(parent);
                let stands = confirm(client.clone(), &entry.key);
                let (children, stands) = join(listing, stands).await;
                if !stands? {
                    return Ok(None);
                }
                let token = match known {
                    Some(own) => Some(Ok(own.token)),
                    None => client.check_stat(&entry.key).await?.map(|stat| zxid(&stat)),
                };
                Ok(token.zip(Some(children?)))
            }
        };
        let Some((token, children)) =
            live.endpoints.run(Effect::Read, ask).await.map_err(failed)?
        else {
            return Ok(Turn::Lost);
        };
        let own = Own { entry: entry.clone(), token: token? };
        let turn = Queue::new(&parent, &self.strangers).turn(&children, &own)?;
        if turn == Turn::Lost {
            // It stands, yet this server did not list it.
            return Err(error(ErrorKind::Unavailable, "look", attempt)
                .with_detail("the server lags behind"));
        }
        match (attempt.mode, turn) {
            (Mode::Permit { .. }, held @ Turn::Held { .. }) => {
                self.mark(&live, attempt, entry, held).await
            }
            (_, turn) => self.check_blockers(&live, attempt, turn).await,
        }
    }

    async fn changed(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        turn: &Turn,
    ) -> Result<()> {
        let Ok(live) = self.live(session, "changed", attempt) else { return Ok(()) };
        let blockers: &[Arc<str>] = match turn {
            Turn::Lost => return Ok(()),
            Turn::Waiting { blockers, .. } => blockers,
            Turn::Held { .. } => &[],
        };
        let blockers = Blockers::new(attempt.mode, blockers);
        let changed = crate::watch::changed(&live.endpoints, &entry.key, blockers, &self.strangers);
        changed.await.map_err(|fault| fault.into_error("changed", Some(attempt.name.as_str())))
    }

    async fn leave(&self, session: &Session, attempt: &Attempt, in_doubt: bool) -> Result<Left> {
        let Ok(live) = self.live(session, "leave", attempt) else { return Ok(Left::Absent) };
        let removed = match self.withdraw(&live, attempt, in_doubt).await {
            Ok(removed) => removed,
            // Every node of the session is gone, and nothing can be created in it any more.
            Err(fault) if fault.is_lost() => false,
            Err(fault) => return Err(fault.into_error("leave", Some(attempt.name.as_str()))),
        };
        // Of a session that is closed meanwhile nothing is remembered.
        match in_doubt && self.sessions.get(session.id).is_some() {
            true => self.slots.withdraw(session.id, attempt),
            false => self.slots.end(attempt.id),
        }
        Ok(if removed { Left::Removed } else { Left::Absent })
    }

    async fn convert(&self, _: &Session, attempt: &Attempt, _: &EntryId) -> Result<()> {
        // The mode is in the node's name, which cannot change.
        Err(error(ErrorKind::Unsupported, "convert", attempt))
    }

    async fn publish(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: &str,
    ) -> Result<()> {
        let live = self.live(session, "publish", attempt)?;
        let change = |record: &mut Record| value.clone_into(&mut record.value);
        self.rewrite("publish", &live, attempt, entry, change).await
    }
}

impl ZooKeeper {
    /// Removes the attempt's node; whether there was one.
    async fn withdraw(
        &self,
        live: &LiveSession,
        attempt: &Attempt,
        in_doubt: bool,
    ) -> Result<bool, Fault> {
        if !in_doubt && let Some(own) = self.slots.own(attempt.id) {
            return self.delete(&live.endpoints, &own.entry.key).await;
        }
        // Of an attempt that this backend does not know, or no longer, the store may still know.
        let parent = self.store.paths.queue(&attempt.name);
        if in_doubt {
            live.bar().await?;
        }
        match self.find(live, attempt, &parent).await? {
            Some(own) => self.delete(&live.endpoints, &own.entry.key).await,
            None => Ok(false),
        }
    }
}

pub(crate) fn error(kind: ErrorKind, operation: &'static str, attempt: &Attempt) -> Error {
    Error::new(kind, STORE, operation).with_key(attempt.name.as_str())
}
