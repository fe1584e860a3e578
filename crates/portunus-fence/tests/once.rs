//! A job once in each period: over many hosts, skewed clocks, crashes and pauses.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use portunus_core::backend::LockObserver;
use portunus_core::lock::Lock;
use portunus_core::manager::LockManager;
use portunus_core::memory::Memory;
use portunus_fence::{
    Error, ErrorKind, Fence, FencingToken, MemoryFence, Outcome, Period, Result, SharedToken, once,
};
use portunus_testkit::async_trait;
use tokio::sync::oneshot;

#[tokio::test]
async fn fifty_hosts_do_it_once_a_night() {
    let (memory, fence) = (Memory::new(), MemoryFence::new());
    let sent = Arc::new(AtomicU32::new(0));
    for night in 1..=3 {
        let mut hosts = Vec::new();
        for _ in 0..50 {
            let (lock, fence, sent) = (lock(&memory).await, fence.clone(), Arc::clone(&sent));
            hosts.push(tokio::spawn(async move {
                let job = once(&lock, &fence, Period::number(night));
                job.run(async |_| Ok::<_, Error>(sent.fetch_add(1, Ordering::SeqCst))).await
            }));
        }
        let mut ran = 0;
        for host in hosts {
            ran += u32::from(matches!(host.await.unwrap().unwrap(), Outcome::Ran(_)));
        }
        assert_eq!(ran, 1);
        assert_eq!(u64::from(sent.load(Ordering::SeqCst)), night);
    }
}

/// A plain lock would let it do the work of last night again.
#[tokio::test]
async fn a_late_host_is_refused_before_it_begins() {
    let (memory, fence) = (Memory::new(), MemoryFence::new());
    assert_eq!(run(&memory, &fence, 8).await.unwrap(), Outcome::Ran(()));
    let error = run(&memory, &fence, 7).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    assert!(error.to_string().contains("period 8 is done, so 7 is past"), "{error}");
    assert_eq!(run(&memory, &fence, 8).await.unwrap(), Outcome::Done);
    // One that a host missed is not in the way.
    assert_eq!(run(&memory, &fence, 10).await.unwrap(), Outcome::Ran(()));
}

#[tokio::test]
async fn work_that_fails_leaves_the_period_open() {
    let (memory, fence) = (Memory::new(), MemoryFence::new());
    let lock = lock(&memory).await;
    let failed = once(&lock, &fence, Period::number(1))
        .run(async |_| Err::<(), Box<dyn std::error::Error>>("no paper".into()))
        .await;
    assert_eq!(failed.unwrap_err().to_string(), "no paper");
    assert_eq!(run(&memory, &fence, 1).await.unwrap(), Outcome::Ran(()));
}

#[tokio::test]
async fn a_host_that_dies_in_the_middle_is_replaced() {
    let (memory, fence) = (Memory::new(), MemoryFence::new());
    let (begun, begins) = oneshot::channel();
    let first = {
        let (lock, fence) = (lock(&memory).await, fence.clone());
        tokio::spawn(async move {
            let job = once(&lock, &fence, Period::number(1));
            job.run(async |_| {
                begun.send(()).unwrap();
                std::future::pending::<Result<()>>().await
            })
            .await
        })
    };
    begins.await.unwrap();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(run(&memory, &fence, 1).await.unwrap(), Outcome::Ran(()));
}

#[tokio::test]
async fn a_lock_that_is_lost_under_the_work_leaves_the_period_open() {
    let (memory, fence) = (Memory::new(), MemoryFence::new());
    let (lock, name) = (lock(&memory).await, lock(&memory).await.name().clone());
    let lost = once(&lock, &fence, Period::number(1))
        .run(async |_| {
            let holder = memory.contenders(&name).await?.remove(0);
            memory.evict(&name, &holder.entry).await?;
            std::future::pending::<Result<()>>().await
        })
        .await;
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::Lost);
    assert_eq!(run(&memory, &fence, 1).await.unwrap(), Outcome::Ran(()));
}

/// It was taken for dead, another did the work of a later night, and it comes back to its record.
#[tokio::test]
async fn a_paused_host_does_not_put_its_record_over_a_newer_one() {
    let (memory, fence) = (Memory::new(), MemoryFence::new());
    let lock = lock(&memory).await;
    let stale = once(&lock, &fence, Period::number(1))
        .run(async |guard| {
            // What a host that has the lock by now does at the fence.
            let (value, origin) = (guard.token().value() + 1, guard.token().origin().clone());
            let later = FencingToken::new(value, origin);
            fence.open("job", &later).await?;
            fence.admit("job", &later, b"2").await
        })
        .await;
    assert_eq!(stale.unwrap_err().kind(), ErrorKind::Stale);
    let mark = fence.mark("job").await.unwrap().unwrap();
    assert_eq!(fence.open("job", &mark).await.unwrap().as_deref(), Some(&b"2"[..]));
}

/// The work is done: it must not be done again because the store was busy for a moment.
#[tokio::test]
async fn a_record_that_fails_is_written_again() {
    let (memory, fence) = (Memory::new(), MemoryFence::new());
    let busy = Busy { fence: fence.clone(), failures: AtomicU32::new(3) };
    let lock = lock(&memory).await;
    let job = once(&lock, &busy, Period::number(1));
    assert_eq!(job.run(async |_| Ok::<_, Error>(())).await.unwrap(), Outcome::Ran(()));
    assert_eq!(run(&memory, &fence, 1).await.unwrap(), Outcome::Done);
    // For good: then the next one has to do it.
    busy.failures.store(u32::MAX, Ordering::SeqCst);
    let job = once(&lock, &busy, Period::number(2));
    let failed = job
        .run(async |guard| {
            let holder = memory.contenders(guard.name()).await?.remove(0);
            memory.evict(guard.name(), &holder.entry).await?;
            Ok::<_, Error>(())
        })
        .await;
    let kind = failed.unwrap_err().kind();
    assert!([ErrorKind::Unavailable, ErrorKind::Lost].contains(&kind), "{kind:?}");
    assert_eq!(run(&memory, &fence, 2).await.unwrap(), Outcome::Ran(()));
}

#[tokio::test]
async fn what_is_no_record_is_told() {
    let (memory, fence) = (Memory::new(), MemoryFence::new());
    assert_eq!(run(&memory, &fence, 1).await.unwrap(), Outcome::Ran(()));
    let mark = fence.mark("job").await.unwrap().unwrap();
    fence.admit("job", &mark, b"yesterday").await.unwrap();
    assert_eq!(run(&memory, &fence, 2).await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[test]
fn periods_begin_at_their_offset() {
    let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
    let at = |time: Duration| Period::at(SystemTime::UNIX_EPOCH + time, day, 2 * hour);
    let second = Duration::from_secs(1);
    assert_eq!(at(2 * hour).unwrap(), Period::number(0));
    assert_eq!(at(day + 2 * hour - second).unwrap(), Period::number(0));
    assert_eq!(at(day + 2 * hour).unwrap(), Period::number(1));
    assert_eq!(at(20_778 * day + 3 * hour).unwrap(), Period::number(20_778));
    assert_eq!(at(hour).unwrap_err().kind(), ErrorKind::Invalid);
    let before = SystemTime::UNIX_EPOCH - second;
    assert_eq!(Period::at(before, day, hour).unwrap_err().kind(), ErrorKind::Invalid);
    let now = SystemTime::UNIX_EPOCH + day;
    let short = Period::at(now, Duration::from_millis(999), Duration::ZERO);
    assert_eq!(short.unwrap_err().kind(), ErrorKind::Invalid);
}

/// A fence that does not admit at first.
struct Busy {
    fence: MemoryFence,
    failures: AtomicU32,
}

#[async_trait]
impl Fence for Busy {
    async fn open(&self, resource: &str, token: &FencingToken) -> Result<Option<Vec<u8>>> {
        self.fence.open(resource, token).await
    }

    async fn admit(&self, resource: &str, token: &FencingToken, value: &[u8]) -> Result<()> {
        let left = self.failures.load(Ordering::SeqCst);
        if left > 0 {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err(Error::new(ErrorKind::Unavailable, "busy fence", "admit"));
        }
        self.fence.admit(resource, token, value).await
    }

    async fn check(&self, resource: &str, token: &SharedToken) -> Result<Option<Vec<u8>>> {
        self.fence.check(resource, token).await
    }

    async fn mark(&self, resource: &str) -> Result<Option<FencingToken>> {
        self.fence.mark(resource).await
    }
}

async fn run(memory: &Memory, fence: &MemoryFence, period: u64) -> Result<Outcome<()>> {
    let lock = lock(memory).await;
    once(&lock, fence, Period::number(period)).run(async |_| Ok(())).await
}

/// That of a host of its own.
async fn lock(memory: &Memory) -> Lock {
    let manager = LockManager::builder(memory.clone()).open().await.unwrap();
    manager.lock("job").unwrap()
}
