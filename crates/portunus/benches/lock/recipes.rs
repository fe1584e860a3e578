//! What is built on the lock: fail-over of a leader, readers that come together, permits.

use super::{Raw, Result, Store, WAITERS, micros, nanos, spread};
use hdrhistogram::Histogram;
use portunus::LockManager;
use std::time::Duration;
use tokio::time::Instant;

impl Store<'_> {
    pub(crate) async fn recipes<R: Raw>(&self, mut raw: R, url: &str) -> Result<()> {
        self.fail_over(&mut raw, url).await?;
        self.readers(url).await?;
        for waiters in [WAITERS / 10, WAITERS] {
            self.permits(url, waiters).await?;
        }
        Ok(())
    }

    /// From the call of `resign` until a candidate of another manager is elected, beside one raw
    /// request.
    async fn fail_over<R: Raw>(&self, raw: &mut R, url: &str) -> Result<()> {
        let managers = [portunus::connect(url).await?, portunus::connect(url).await?];
        let elections = [managers[0].election("fail-over")?, managers[1].election("fail-over")?];
        let (mut times, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let mut trips = Histogram::<u64>::new(3)?;
            let mut takes = Histogram::<u64>::new(3)?;
            let mut leadership = elections[0].campaign("first").await?;
            for at in 1..=TERMS {
                let begun = Instant::now();
                raw.pair().await?;
                trips.record(nanos(begun) / R::TRIPS)?;
                let election = elections[at % 2].clone();
                let next = tokio::spawn(async move { election.campaign("next").await });
                while managers[0].contenders("fail-over").await?.len() < 2 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                // It looks once more when its watch stands.
                tokio::time::sleep(Duration::from_millis(5)).await;
                let begun = Instant::now();
                let (_, elected) = tokio::join!(leadership.resign(), next);
                takes.record(nanos(begun))?;
                leadership = elected??;
            }
            leadership.resign().await?;
            times.push(micros(&takes, 0.5));
            ratios.push(micros(&takes, 0.5) / micros(&trips, 0.5));
        }
        println!("{}: resign until the next is elected, p50 of {TERMS} terms", self.name);
        println!("  {} µs, {} raw round trips", spread(times, 0), spread(ratios, 2));
        end(managers).await
    }

    /// 100 readers in one process, beside one.
    async fn readers(&self, url: &str) -> Result<()> {
        let manager = portunus::connect(url).await?;
        let lock = manager.rwlock("readers")?;
        let (mut times, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let mut one = Histogram::<u64>::new(3)?;
            let mut all = Histogram::<u64>::new(3)?;
            for _ in 0..TERMS {
                let begun = Instant::now();
                let reader = lock.read().await?;
                one.record(nanos(begun))?;
                reader.release().await?;
                let begun = Instant::now();
                let reading: Vec<_> = (0..READERS)
                    .map(|_| {
                        let lock = lock.clone();
                        tokio::spawn(async move { lock.read().await })
                    })
                    .collect();
                let mut readers = Vec::with_capacity(READERS);
                for reading in reading {
                    readers.push(reading.await??);
                }
                all.record(nanos(begun))?;
                for reader in readers {
                    reader.release().await?;
                }
            }
            times.push(micros(&all, 0.5));
            ratios.push(micros(&all, 0.5) / micros(&one, 0.5));
        }
        println!("{}: {READERS} readers acquire together, p50 of {TERMS}", self.name);
        println!("  {} µs, {} times one reader", spread(times, 0), spread(ratios, 2));
        end([manager]).await
    }

    /// What one release of a permit costs the store, by the servers' own counters.
    async fn permits(&self, url: &str, waiters: usize) -> Result<()> {
        let manager = portunus::connect(url).await?;
        let semaphore = manager.semaphore("permits", LIMIT)?;
        let mut held = Vec::new();
        for _ in 0..LIMIT {
            held.push(semaphore.acquire().await?);
        }
        let waiting: Vec<_> = (0..waiters)
            .map(|_| {
                let semaphore = semaphore.clone();
                tokio::spawn(async move { semaphore.acquire().await })
            })
            .collect();
        while manager.contenders("permits").await?.len() < waiters + held.len() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The watches of those who came last are being opened still.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = self.total()?;
        for waiting in waiting.into_iter().take(RELEASES) {
            held.remove(0).release().await?;
            held.push(waiting.await??);
        }
        let cost = (self.total()? - before) / RELEASES as f64;
        println!("{}: a semaphore of {LIMIT}, {waiters} wait in one process", self.name);
        println!("  {cost:.2} requests of all kinds per release");
        end([manager]).await
    }
}

async fn end(managers: impl IntoIterator<Item = LockManager>) -> Result<()> {
    for manager in managers {
        manager.shutdown(Duration::from_secs(5)).await?;
    }
    Ok(())
}

const ROUNDS: usize = 5;
const TERMS: usize = 50;
const READERS: usize = 100;
const LIMIT: u32 = 5;
const RELEASES: usize = 40;
