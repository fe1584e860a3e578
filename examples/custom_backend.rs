//! A backend of one's own: every request of an inner store is counted and shown.
//!
//! ```text
//! cargo run -p portunus-examples --example custom_backend
//! ```
//!
//! The traits have no default methods, so a wrapper that forgets one does not compile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use portunus::backend::{
    Attempt, BoxStream, Capabilities, Contender, Entered, Entry, EntryId, Left, LockBackend,
    LockObserver, NamePage, Observation, Probe, Renewal, Session, Turn, async_trait,
};
use portunus::{LockManager, LockName, Memory, Result};

#[derive(Clone, Debug)]
struct Loud<B> {
    inner: B,
    requests: Arc<AtomicU32>,
}

impl<B> Loud<B> {
    fn say(&self, verb: &str) -> &B {
        println!("request {}: {verb}", self.requests.fetch_add(1, Ordering::Relaxed) + 1);
        &self.inner
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<B: LockBackend> LockBackend for Loud<B> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn open_session(&self, ttl: Duration) -> Result<Session> {
        self.say("open_session").open_session(ttl).await
    }
    async fn renew(&self, session: &Session, held: &[Arc<Attempt>]) -> Result<Renewal> {
        self.say("renew").renew(session, held).await
    }
    async fn close_session(&self, session: &Session) -> Result<()> {
        self.say("close_session").close_session(session).await
    }
    async fn enter(&self, session: &Session, attempt: &Attempt) -> Result<Entered> {
        self.say("enter").enter(session, attempt).await
    }
    async fn look(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<Turn> {
        self.say("look").look(session, attempt, entry).await
    }
    async fn changed(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        turn: &Turn,
    ) -> Result<()> {
        self.inner.changed(session, attempt, entry, turn).await // a wait, not a request
    }
    async fn leave(&self, session: &Session, attempt: &Attempt, in_doubt: bool) -> Result<Left> {
        self.say("leave").leave(session, attempt, in_doubt).await
    }
    async fn convert(&self, session: &Session, attempt: &Attempt, entry: &EntryId) -> Result<()> {
        self.say("convert").convert(session, attempt, entry).await
    }
    async fn publish(
        &self,
        session: &Session,
        attempt: &Attempt,
        entry: &EntryId,
        value: &str,
    ) -> Result<()> {
        self.say("publish").publish(session, attempt, entry, value).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<B: LockBackend> LockObserver for Loud<B> {
    async fn queue(&self, name: &LockName) -> Result<Vec<Entry>> {
        self.say("queue").queue(name).await
    }
    async fn contenders(&self, name: &LockName) -> Result<Vec<Contender>> {
        self.say("contenders").contenders(name).await
    }
    async fn follow(&self, name: &LockName, since: u64) -> Result<BoxStream<Result<Observation>>> {
        self.say("follow").follow(name, since).await
    }
    async fn names(&self, prefix: &str, page: Option<&str>) -> Result<NamePage> {
        self.say("names").names(prefix, page).await
    }
    async fn evict(&self, name: &LockName, entry: &EntryId) -> Result<bool> {
        self.say("evict").evict(name, entry).await
    }
    async fn probe(&self) -> Result<Probe> {
        self.say("probe").probe().await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let store = Loud { inner: Memory::new(), requests: Arc::default() };
    let manager = LockManager::builder(store.clone()).open().await?;
    let lock = manager.lock("door")?;
    let guard = lock.acquire().await?;
    println!("held with token {}", guard.token().value());
    assert!(lock.try_acquire().await?.is_none());
    println!("released: {:?}", guard.release().await?);
    manager.shutdown(Duration::from_secs(5)).await?;
    println!("{} requests in all", store.requests.load(Ordering::Relaxed));
    Ok(())
}
