//! A backend of somebody else's: every verb is passed on to the memory store.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::async_trait;
use portunus_core::backend::{
    Attempt, BoxStream, Capabilities, Contender, Entered, Entry, EntryId, Left, LockBackend,
    LockObserver, NamePage, Observation, Probe, Renewal, Session, Turn,
};
use portunus_core::error::Result;
use portunus_core::memory::Memory;
use portunus_core::name::LockName;

#[derive(Clone, Debug, Default)]
pub struct Theirs(Memory);

#[async_trait]
impl LockBackend for Theirs {
    fn capabilities(&self) -> Capabilities {
        Capabilities { store: "theirs", ..self.0.capabilities() }
    }

    async fn open_session(&self, ttl: Duration) -> Result<Session> {
        self.0.open_session(ttl).await
    }

    async fn renew(&self, session: &Session, held: &[Arc<Attempt>]) -> Result<Renewal> {
        self.0.renew(session, held).await
    }

    async fn close_session(&self, session: &Session) -> Result<()> {
        self.0.close_session(session).await
    }

    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        self.0.enter(session, attempt).await
    }

    async fn look(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        self.0.look(session, attempt, entry).await
    }

    async fn changed(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        turn: &Turn,
    ) -> Result<()> {
        self.0.changed(session, attempt, entry, turn).await
    }

    async fn leave(&self, session: &Session, attempt: &Attempt, in_doubt: bool) -> Result<Left> {
        // The fault that the suite has to find.
        let in_doubt = in_doubt && !cfg!(feature = "forgetful");
        self.0.leave(session, attempt, in_doubt).await
    }

    async fn convert(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<()> {
        self.0.convert(session, attempt, entry).await
    }

    async fn publish(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: &str,
    ) -> Result<()> {
        self.0.publish(session, attempt, entry, value).await
    }
}

#[async_trait]
impl LockObserver for Theirs {
    async fn queue(&self, name: &LockName) -> Result<Vec<Entry>> {
        self.0.queue(name).await
    }

    async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        self.0.contenders(name).await
    }

    async fn follow(&self, name: &LockName, since: u64) -> Result<BoxStream<Result<Observation>>> {
        self.0.follow(name, since).await
    }

    async fn names(&self, prefix: &str, page: Option<&str>) -> Result<NamePage> {
        self.0.names(prefix, page).await
    }

    async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool> {
        self.0.evict(name, entry).await
    }

    async fn probe(&self) -> Result<Probe> {
        self.0.probe().await
    }
}
