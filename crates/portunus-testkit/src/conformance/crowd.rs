//! Many who wait for one lock, and what it costs to hand it over.

use portunus_core::error::Result;
use portunus_core::guard::Released;
use portunus_core::manager::LockManager;
use portunus_core::name::LockName;
use tokio::sync::mpsc;

use super::stage::Stage;
use super::wait::{PATIENCE, eventually, within};
use crate::tap::{Tap, Verb};

/// Where the store pushes, handing a lock over costs the same few requests however many wait.
pub(super) async fn one_is_woken<G, F>(
    stage: &Stage,
    acquire: fn(LockManager, LockName) -> F,
    release: impl AsyncFn(G) -> Result<Released>,
) where
    G: Send + 'static,
    F: Future<Output = Result<G>> + Send + 'static,
{
    const WAITERS: usize = 50;
    const HAND_OVERS: usize = 10;
    let name = stage.name("lock");
    let backend = stage.backend().await;
    let manager = stage.builder(&backend).open().await.unwrap();
    let acquire = || acquire(manager.clone(), name.clone());
    let first = acquire().await.unwrap();
    // One hand-over first: what a store does once to watch a lock is no cost of a release.
    let second = tokio::spawn(acquire());
    changing(&backend, 1).await;
    assert_eq!(release(first).await.unwrap(), Released::Clean);
    let second = within(PATIENCE, "the second is granted", second).await.unwrap().unwrap();
    let watched = backend.calls(Verb::Changed);
    let (tell, mut granted) = mpsc::unbounded_channel();
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..WAITERS {
        let (acquiring, tell) = (acquire(), tell.clone());
        waiters.spawn(async move {
            if let Ok(grant) = acquiring.await {
                let _ = tell.send(grant);
            }
        });
    }
    stage.standing(&name, WAITERS + 1).await;
    changing(&backend, watched + WAITERS).await;
    let requests = || [Verb::Enter, Verb::Look, Verb::Leave].map(|verb| backend.calls(verb));
    let before: usize = requests().iter().sum();
    let mut holding = second;
    for _ in 0..HAND_OVERS {
        assert_eq!(release(holding).await.unwrap(), Released::Clean);
        holding = within(PATIENCE, "the next is granted", granted.recv()).await.unwrap();
        assert!(granted.try_recv().is_err(), "two were granted");
    }
    let cost = requests().iter().sum::<usize>() - before;
    // One leaves, one looks; two more looks for wake-ups that came early.
    let bound = if stage.capabilities().push { 4 * HAND_OVERS } else { usize::MAX };
    assert!(cost <= bound, "{HAND_OVERS} hand-overs cost {cost} requests: {:?}", requests());
    waiters.shutdown().await;
    drop(holding);
}

/// Completes when `changed` was called `count` times.
pub(super) async fn changing(backend: &Tap, count: usize) {
    eventually(PATIENCE, "they watch", async || {
        let calls = backend.calls(Verb::Changed);
        if calls >= count { Ok(()) } else { Err(calls) }
    })
    .await;
}
