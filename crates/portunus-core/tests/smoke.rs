//! The engine on the memory store, with its real threads.

use portunus_core::guard::{Released, Status};
use portunus_core::manager::LockManager;
use portunus_core::memory::Memory;
use std::time::Duration;

#[tokio::test]
async fn acquires_waits_and_releases() {
    let memory = Memory::new();
    let one = LockManager::builder(memory.clone()).open().await.unwrap();
    let two = LockManager::builder(memory).open().await.unwrap();
    let guard = one.lock("a").unwrap().acquire().await.unwrap();
    assert!(guard.is_held());
    assert_eq!(guard.status(), Status::Held);
    assert!(two.lock("a").unwrap().try_acquire().await.unwrap().is_none());
    let brief = Duration::from_millis(20);
    assert!(two.lock("a").unwrap().acquire_timeout(brief).await.unwrap().is_none());
    let waiter = tokio::spawn(async move { two.lock("a").unwrap().acquire().await.unwrap() });
    let first = guard.token();
    while one.contenders("a").await.unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(guard.release().await.unwrap(), Released::Clean);
    let second = waiter.await.unwrap();
    assert!(second.token() > first);
    drop(second);
    assert_eq!(one.shutdown(Duration::from_secs(1)).await.unwrap(), 0);
}
