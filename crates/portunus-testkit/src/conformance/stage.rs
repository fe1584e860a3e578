//! What a behaviour is tested on: the harness, clients of its store, and all that they made.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portunus_core::backend::{
    Attempt, Capabilities, Contender, Entered, EntryId, Left, LockBackend, LockObserver, Mode,
    Session, TokenStrength, Turn,
};
use portunus_core::manager::{LockManager, ManagerBuilder};
use portunus_core::name::LockName;
use tokio::task::JoinHandle;

use super::wait::{PATIENCE, eventually, within};
use crate::harness::{Harness, attempt_as};
use crate::tap::Tap;

/// A harness with a record of what was made on it, for the leak audit at the end.
pub struct Stage {
    harness: Box<dyn Harness>,
    prefix: String,
    names: Mutex<Vec<LockName>>,
    opened: Arc<Mutex<Vec<Session>>>,
    raw: Mutex<Vec<Client>>,
    observer: Arc<Tap>,
}

/// A client at the level of the trait, with a session that nobody renews.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) backend: Arc<Tap>,
    pub(super) session: Session,
}

impl Stage {
    /// Sets up a stage; the store is empty as far as its names go.
    pub async fn new(harness: impl Harness + 'static) -> Self {
        let opened = Arc::default();
        let observer = Tap::new(harness.backend().await, Arc::clone(&opened));
        Self {
            harness: Box::new(harness),
            prefix: format!("conformance-{:016x}", rand::random::<u64>()),
            names: Mutex::default(),
            opened,
            raw: Mutex::default(),
            observer,
        }
    }

    /// Fails when something is left in the store of what was made on this stage.
    pub async fn audit(self) {
        let raw = std::mem::take(&mut *held(&self.raw));
        for client in raw {
            client.backend.pass_on();
            let closed = client.backend.close_session(&client.session);
            within(PATIENCE, "the session closes", closed).await.unwrap();
        }
        let names = std::mem::take(&mut *held(&self.names));
        for name in names {
            self.standing(&name, 0).await;
        }
        let sessions = held(&self.opened).clone();
        let limit = 2 * self.harness.ttl() + PATIENCE;
        let mut left = Vec::new();
        let clean = async {
            loop {
                left = self.harness.audit(&sessions).await;
                if left.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(limit, clean).await.is_err() {
            panic!("left in the store: {left:#?}");
        }
    }

    pub(super) fn ttl(&self) -> Duration {
        self.harness.ttl()
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.observer.capabilities()
    }

    /// A client that takes no lock.
    pub(super) fn observer(&self) -> &Tap {
        &self.observer
    }

    /// A name that no other test uses.
    pub(super) fn name(&self, name: &str) -> LockName {
        self.exactly(&format!("{}/{name}", self.prefix))
    }

    /// A name as it stands; no other test may use it.
    pub(super) fn exactly(&self, name: &str) -> LockName {
        let name = LockName::new(name).unwrap();
        held(&self.names).push(name.clone());
        name
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) async fn backend(&self) -> Arc<Tap> {
        Tap::new(self.harness.backend().await, Arc::clone(&self.opened))
    }

    /// Begins a manager whose session does not end by itself while a test runs.
    pub(super) fn builder(&self, backend: &Arc<Tap>) -> ManagerBuilder {
        // What the suite shows holds while the store keeps what it acknowledged.
        let weak = self.capabilities().strength == TokenStrength::Weak;
        let backend = Arc::clone(backend);
        ManagerBuilder::new(backend).ttl(self.long()).app("conformance").allow_weak(weak)
    }

    pub(super) async fn manager(&self) -> LockManager {
        self.builder(&self.backend().await).open().await.unwrap()
    }

    pub(super) async fn client(&self) -> Client {
        let backend = self.backend().await;
        let session = backend.open_session(self.long()).await.unwrap();
        let client = Client { backend, session };
        held(&self.raw).push(client.clone());
        client
    }

    pub(super) async fn end_session(&self, session: &Session) {
        self.harness.end_session(session).await;
    }

    /// Cuts a client off, as if its process had died.
    pub(super) async fn cut(&self, backend: &Tap) {
        backend.cut();
        self.harness.silence(&backend.session()).await;
    }

    /// Waits until exactly `count` entries stand in the queue, and returns them.
    pub(super) async fn standing(&self, name: &LockName, count: usize) -> Vec<Contender> {
        let what = format!("{count} entries stand for `{name}`");
        eventually(2 * self.ttl() + PATIENCE, &what, async || {
            let contenders = self.observer.contenders(name).await.unwrap();
            if contenders.len() == count { Ok(contenders) } else { Err(contenders) }
        })
        .await
    }

    fn long(&self) -> Duration {
        let capabilities = self.capabilities();
        LONG.max(self.ttl()).clamp(capabilities.min_ttl, capabilities.max_ttl)
    }
}

impl Client {
    pub(super) async fn enter(&self, attempt: &Attempt) -> (EntryId, Turn) {
        match self.backend.enter(&self.session, attempt).await.unwrap() {
            Entered::Queued { entry, turn } => (entry, turn),
            Entered::Refused => panic!("an attempt that would wait was refused"),
        }
    }

    /// Enters a new attempt, which must hold at once.
    pub(super) async fn hold(&self, name: &LockName) -> (Attempt, EntryId, u64) {
        self.hold_as(name, Mode::Exclusive).await
    }

    pub(super) async fn hold_as(&self, name: &LockName, mode: Mode) -> (Attempt, EntryId, u64) {
        let attempt = attempt_as(name, mode, false);
        let (entry, turn) = self.enter(&attempt).await;
        (attempt, entry, token(&turn))
    }

    /// Takes all permits of a semaphore.
    pub(super) async fn fill(&self, name: &LockName, limit: u32) -> Vec<Attempt> {
        let mut holders = Vec::new();
        for _ in 0..limit {
            holders.push(self.hold_as(name, Mode::Permit { limit }).await.0);
        }
        holders
    }

    /// Enters a new attempt, which must wait.
    pub(super) async fn queue(&self, name: &LockName) -> (Attempt, EntryId, Turn) {
        self.queue_as(name, Mode::Exclusive).await
    }

    pub(super) async fn queue_as(&self, name: &LockName, mode: Mode) -> (Attempt, EntryId, Turn) {
        let attempt = attempt_as(name, mode, false);
        let (entry, turn) = self.enter(&attempt).await;
        assert!(matches!(turn, Turn::Waiting { .. }), "it had to wait: {turn:?}");
        (attempt, entry, turn)
    }

    pub(super) async fn look(&self, attempt: &Attempt, entry: &EntryId) -> Turn {
        self.backend.look(&self.session, attempt, entry).await.unwrap()
    }

    pub(super) async fn leave(&self, attempt: &Attempt, in_doubt: bool) -> Left {
        self.backend.leave(&self.session, attempt, in_doubt).await.unwrap()
    }

    /// Tries without waiting: the token and what holds it, or nothing when it was refused.
    pub(super) async fn try_as(&self, name: &LockName, mode: Mode) -> Option<(Attempt, u64)> {
        let attempt = attempt_as(name, mode, true);
        match self.backend.enter(&self.session, &attempt).await.unwrap() {
            Entered::Queued { turn, .. } => Some((attempt, token(&turn))),
            Entered::Refused => None,
        }
    }

    /// Waits in a task that has begun when this returns, and ends when the turn has come.
    pub(super) fn waits(&self, (attempt, entry, turn): Waiter) -> JoinHandle<Turn> {
        let client = self.clone();
        tokio::spawn(async move { client.turn(&attempt, &entry, turn).await })
    }

    /// Waits as the engine does: `changed`, then `look`.
    pub(super) async fn turn(&self, attempt: &Attempt, entry: &EntryId, mut turn: Turn) -> Turn {
        let waiting = async {
            while let Turn::Waiting { .. } = turn {
                self.backend.changed(&self.session, attempt, entry, &turn).await.unwrap();
                turn = self.look(attempt, entry).await;
            }
        };
        within(PATIENCE, "the waiter's turn comes", waiting).await;
        turn
    }
}

/// What [`Client::queue`] returns.
pub(super) type Waiter = (Attempt, EntryId, Turn);

/// The token of a grant.
pub(super) fn token(turn: &Turn) -> u64 {
    match turn {
        Turn::Held { token, .. } => *token,
        other => panic!("not held: {other:?}"),
    }
}

/// Ids of contenders, in their order.
pub(super) fn ids(contenders: &[Contender]) -> Vec<EntryId> {
    contenders.iter().map(|contender| contender.entry.clone()).collect()
}

fn held<T: Debug>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("session", &self.session.id).finish_non_exhaustive()
    }
}

impl Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Long enough that a renewal each third of it comes after every test of a loss.
const LONG: Duration = Duration::from_secs(30);
