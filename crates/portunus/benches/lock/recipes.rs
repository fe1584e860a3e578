//! What is built on the lock: fail-over of a leader, readers that come together, permits.

use super::{Raw, Result, Store, WAITERS, micros, nanos, spread};
use hdrhistogram::Histogram;
use portunus::{LockManager, RwLock, SharedGuard};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
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

    /// 100 readers in one process, beside one: those who come to a lock that nobody holds, and those
    /// whom a writer lets in.
    async fn readers(&self, url: &str) -> Result<()> {
        let manager = portunus::connect(url).await?;
        let lock = manager.rwlock("readers")?;
        let (mut come, mut woken) = (Crowd::default(), Crowd::default());
        for _ in 0..ROUNDS {
            let mut times = [(); 4].map(|()| Histogram::<u64>::new(3).expect("3 is a precision"));
            for _ in 0..TERMS {
                for (times, count) in times.chunks_mut(2).zip([1, READERS]) {
                    let begun = Instant::now();
                    let readers = all(read(&lock, count)).await?;
                    times[0].record(nanos(begun))?;
                    release(readers).await?;
                    let writer = lock.write().await?;
                    let reading = read(&lock, count);
                    while manager.contenders("readers").await?.len() <= count {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    // They look once more when their watch stands.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let begun = Instant::now();
                    let (released, readers) = tokio::join!(writer.release(), all(reading));
                    times[1].record(nanos(begun))?;
                    released?;
                    release(readers?).await?;
                }
            }
            let [one_comes, one_is_woken, all_come, all_are_woken] = &times;
            come.note(one_comes, all_come);
            woken.note(one_is_woken, all_are_woken);
        }
        println!("{}: {READERS} readers acquire together, p50 of {TERMS}", self.name);
        come.print("come to a free lock");
        woken.print("are let in by a writer");
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
        // Tasks that begin together need not enter in the order in which they were made.
        let mut waiting = JoinSet::new();
        for _ in 0..waiters {
            let semaphore = semaphore.clone();
            waiting.spawn(async move { semaphore.acquire().await });
        }
        while manager.contenders("permits").await?.len() < waiters + held.len() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The watches of those who came last are being opened still.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = self.total()?;
        for _ in 0..RELEASES {
            held.remove(0).release().await?;
            held.push(waiting.join_next().await.expect("more wait than are let in")??);
        }
        let cost = (self.total()? - before) / RELEASES as f64;
        println!("{}: a semaphore of {LIMIT}, {waiters} wait in one process", self.name);
        println!("  {cost:.2} requests of all kinds per release");
        end([manager]).await
    }
}

/// What many take, and how many times what one takes.
#[derive(Default)]
struct Crowd {
    times: Vec<f64>,
    ratios: Vec<f64>,
}

impl Crowd {
    fn note(&mut self, one: &Histogram<u64>, all: &Histogram<u64>) {
        self.times.push(micros(all, 0.5));
        self.ratios.push(micros(all, 0.5) / micros(one, 0.5));
    }

    fn print(self, title: &str) {
        let Self { times, ratios } = self;
        println!("  {title:<24} {} µs, {} times one reader", spread(times, 0), spread(ratios, 2));
    }
}

type Reading = JoinHandle<portunus::Result<SharedGuard>>;

fn read(lock: &RwLock, count: usize) -> Vec<Reading> {
    let reading = (0..count).map(|_| {
        let lock = lock.clone();
        tokio::spawn(async move { lock.read().await })
    });
    reading.collect()
}

async fn all(reading: Vec<Reading>) -> Result<Vec<SharedGuard>> {
    let mut readers = Vec::with_capacity(reading.len());
    for reading in reading {
        readers.push(reading.await??);
    }
    Ok(readers)
}

async fn release(readers: Vec<SharedGuard>) -> Result<()> {
    let released: Vec<_> =
        readers.into_iter().map(|reader| tokio::spawn(reader.release())).collect();
    for released in released {
        released.await??;
    }
    Ok(())
}

async fn end(managers: impl IntoIterator<Item = LockManager>) -> Result<()> {
    for manager in managers {
        manager.shutdown(Duration::from_secs(5)).await?;
    }
    Ok(())
}

const ROUNDS: usize = 5;
const TERMS: usize = 20;
const READERS: usize = 100;
const LIMIT: u32 = 5;
const RELEASES: usize = 40;
