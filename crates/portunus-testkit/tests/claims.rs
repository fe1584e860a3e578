//! What a manager refuses because its store does not claim it, before it asks the store.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

use async_trait::async_trait;
use portunus_core::backend::{
    Attempt, BoxStream, Capabilities, Contender, Entered, Entry, EntryId, Left, LockBackend,
    LockObserver, NamePage, Observation, Probe, Renewal, Session, TokenStrength, Turn,
};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::manager::{LockManager, ManagerBuilder};
use portunus_core::memory::Memory;
use portunus_core::name::LockName;
use portunus_core::token::FencingToken;
use portunus_fence::{Fence, MemoryFence, Outcome, Period, Register, once};
use std::sync::Arc;
use std::time::Duration;

/// The memory store with other claims.
#[derive(Debug)]
struct Claiming(Memory, Capabilities);

fn claiming(claim: impl FnOnce(&mut Capabilities)) -> ManagerBuilder {
    let store = Memory::new();
    let mut capabilities = store.capabilities();
    claim(&mut capabilities);
    LockManager::builder(Claiming(store, capabilities))
}

fn weak(capabilities: &mut Capabilities) {
    capabilities.strength = TokenStrength::Weak;
}

#[tokio::test]
async fn an_election_is_refused_on_weak_tokens_unless_they_are_accepted() {
    let refused = claiming(weak).open().await.unwrap().election("a").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("allow_weak"), "{refused}");
    let accepted = claiming(weak).allow_weak(true).open().await.unwrap();
    assert!(accepted.election("a").unwrap().campaign("it").await.unwrap().is_held());
    // What is stronger needs no leave.
    let durable = |capabilities: &mut Capabilities| capabilities.strength = TokenStrength::Durable;
    claiming(durable).open().await.unwrap().election("a").unwrap();
}

/// Of every kind of grant, and on the way to a service.
#[tokio::test]
async fn tokens_of_a_weak_store_say_so() {
    for (builder, may_fence) in [(claiming(weak), false), (claiming(weak).allow_weak(true), true)] {
        let manager = builder.open().await.unwrap();
        let guard = manager.lock("a").unwrap().acquire().await.unwrap();
        let permit = manager.semaphore("b", 1).unwrap().acquire().await.unwrap();
        let lock = manager.rwlock("c").unwrap();
        let writer = lock.write().await.unwrap();
        let exclusive = [guard.token(), permit.token().unwrap(), writer.token()];
        let shared = writer.downgrade().await.unwrap().token();
        for token in exclusive {
            assert!(token.is_weak() && token.may_fence() == may_fence, "{token}");
            let sent: FencingToken = token.to_string().parse().unwrap();
            assert!(sent.is_weak() && !sent.may_fence(), "{token}");
        }
        assert!(shared.is_weak() && shared.may_fence() == may_fence);
    }
    for strength in [TokenStrength::Durable, TokenStrength::Strong] {
        let manager = claiming(|capabilities| capabilities.strength = strength).open().await;
        let guard = manager.unwrap().lock("a").unwrap().acquire().await.unwrap();
        assert!(!guard.token().is_weak() && guard.token().may_fence(), "{strength:?}");
    }
}

#[tokio::test]
async fn a_term_of_a_weak_store_says_so_to_leader_and_observer() {
    let manager = claiming(weak).allow_weak(true).open().await.unwrap();
    let election = manager.election("a").unwrap();
    let leadership = election.campaign("it").await.unwrap();
    let leader = election.leader().await.unwrap().unwrap();
    assert!(leadership.term().is_weak() && leader.term.is_weak());
    assert_eq!(leader.term, leadership.term());
}

#[tokio::test]
async fn a_fence_refuses_what_a_weak_store_granted_unless_it_was_accepted() {
    let fence = MemoryFence::new();
    let manager = claiming(weak).open().await.unwrap();
    let lock = manager.lock("job").unwrap();
    let night = || once(&lock, &fence, Period::number(1));
    let refused = night().run(async |_| -> Result<()> { panic!("the work is not begun") }).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    let guard = lock.acquire().await.unwrap();
    let refused = Register::open(&fence, "stock", guard.token()).await.unwrap_err();
    assert!(refused.to_string().contains("allow_weak"), "{refused}");
    assert_eq!(fence.hold("stock", &guard.token()).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(fence.mark("stock").await.unwrap(), None);
    assert_eq!(fence.mark("job").await.unwrap(), None);
    // By the call, or for the whole manager.
    let mut stock = Register::open(&fence, "stock", guard.token().allow_weak()).await.unwrap();
    stock.write("3").await.unwrap();
    assert_eq!(fence.mark("stock").await.unwrap(), Some(guard.token()));
    let manager = claiming(weak).allow_weak(true).open().await.unwrap();
    let lock = manager.lock("job").unwrap();
    let night = once(&lock, &fence, Period::number(1)).run(async |_| Ok::<_, Error>(7)).await;
    assert_eq!(night.unwrap(), Outcome::Ran(7));
}

#[tokio::test]
async fn locks_that_the_store_does_not_claim_are_refused() {
    let neither = |capabilities: &mut Capabilities| {
        (capabilities.shared, capabilities.permits) = (false, false);
    };
    let manager = claiming(neither).open().await.unwrap();
    assert_eq!(manager.rwlock("a").unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(manager.semaphore("a", 2).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(manager.lock("a").unwrap().try_acquire().await.unwrap().is_some());
}

#[tokio::test]
async fn a_limit_of_zero_is_refused() {
    let manager = claiming(|_| {}).open().await.unwrap();
    assert_eq!(manager.semaphore("a", 0).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(manager.semaphore("", 1).unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_guard_that_can_t_be_downgraded_is_given_back_held() {
    let manager = claiming(|capabilities| capabilities.convert = false).open().await.unwrap();
    let lock = manager.rwlock("a").unwrap();
    let failed = lock.write().await.unwrap().downgrade().await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Unsupported);
    let guard = failed.guard.expect("nothing was asked of the store");
    assert!(guard.is_held() && lock.try_read().await.unwrap().is_none());
    drop(guard);
    // As an error alone it releases.
    let lost = async { Ok(lock.write().await?.downgrade().await?) };
    let failed: Result<portunus_core::guard::SharedGuard> = lost.await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(lock.read_timeout(Duration::from_secs(8)).await.unwrap().is_some());
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for Claiming {
    fn capabilities(&self) -> Capabilities {
        self.1.clone()
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
#[deny(clippy::missing_trait_methods)]
impl LockObserver for Claiming {
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
