//! What the library costs beside the least requests that make a lock, in one run.
//!
//! ```text
//! PORTUNUS_BENCH_ETCD=127.0.0.1:2379 cargo bench -p portunus --features etcd --bench lock
//! PORTUNUS_BENCH_ZOOKEEPER=127.0.0.1:2181 cargo bench -p portunus --features zookeeper --bench lock
//! PORTUNUS_BENCH_MYSQL=user:password@127.0.0.1:3306/database \
//!     cargo bench -p portunus --features mysql --bench lock
//! PORTUNUS_BENCH_POSTGRES=user:password@127.0.0.1:5432/database cargo bench -p portunus --features postgres --bench lock
//! PORTUNUS_BENCH_REDIS=127.0.0.1:6379 PORTUNUS_BENCH_REDLOCK=127.0.0.1:6380,127.0.0.1:6381,127.0.0.1:6382 \
//!     cargo bench -p portunus --features redis --bench lock
//! PORTUNUS_BENCH_SQLITE=/var/tmp/bench.db cargo bench -p portunus --features sqlite --bench lock
//! ```
//!
//! Without these variables only the memory store is measured. Each figure stands beside its baseline;
//! on a shared machine the ratios tell, the absolute figures only their order of magnitude.
#![cfg_attr(
    not(any(
        feature = "etcd",
        feature = "mysql",
        feature = "postgres",
        feature = "sqlite",
        feature = "zookeeper"
    )),
    allow(dead_code, reason = "Redis has exclusive locks alone, and none of the recipes")
)]

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(
    feature = "etcd",
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "sqlite",
    feature = "zookeeper"
))]
mod recipes;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "zookeeper")]
mod zookeeper;

use hdrhistogram::Histogram;
use portunus::{Guard, LockManager};
use std::error::Error;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;
/// What the servers counted, by kind.
type Counts = Vec<(String, f64)>;

fn main() -> Result<()> {
    // The runtime that `#[tokio::main]` gives to most users.
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(memory_pair())?;
    #[cfg(feature = "etcd")]
    if let Some(hosts) = hosts("etcd", "PORTUNUS_BENCH_ETCD") {
        let store = Store { name: "etcd", ttl: 6, hosts: &hosts, requests: etcd::requests };
        store.measure(&runtime, async || etcd::Etcd::connect(&hosts).await)?;
    }
    #[cfg(feature = "zookeeper")]
    if let Some(hosts) = hosts("zookeeper", "PORTUNUS_BENCH_ZOOKEEPER") {
        let requests = zookeeper::requests;
        let store = Store { name: "zookeeper", ttl: 6, hosts: &hosts, requests };
        store.measure(&runtime, async || zookeeper::ZooKeeper::connect(&hosts).await)?;
    }
    #[cfg(feature = "mysql")]
    if let Some(server) = hosts("mysql", "PORTUNUS_BENCH_MYSQL") {
        let store = Store { name: "mysql", ttl: 6, hosts: &server, requests: mysql::requests };
        store.measure(&runtime, async || mysql::Mysql::connect(&server).await)?;
    }
    #[cfg(feature = "postgres")]
    if let Some(place) = hosts("postgres", "PORTUNUS_BENCH_POSTGRES") {
        let store = Store { name: "postgres", ttl: 6, hosts: &place, requests: postgres::requests };
        runtime.block_on(postgres::throughput(&place))?;
        store.measure(&runtime, async || postgres::Postgres::connect(&place).await)?;
    }
    #[cfg(feature = "redis")]
    if let Some(host) = hosts("redis", "PORTUNUS_BENCH_REDIS") {
        let store = Store { name: "redis", ttl: 6, hosts: &host, requests: redis::requests };
        runtime.block_on(redis::throughput(&host))?;
        runtime.block_on(redis::renewals(&host))?;
        store.measure_exclusive(&runtime, async || redis::Redis::connect(&host).await)?;
    }
    #[cfg(feature = "redis")]
    if let Some(hosts) = hosts("redlock", "PORTUNUS_BENCH_REDLOCK") {
        runtime.block_on(redis::redlock(&hosts))?;
    }
    #[cfg(feature = "sqlite")]
    if let Some(path) = hosts("sqlite", "PORTUNUS_BENCH_SQLITE") {
        let store = Store { name: "sqlite", ttl: 6, hosts: &path, requests: sqlite::requests };
        store.measure(&runtime, async || sqlite::Sqlite::open(&path))?;
    }
    Ok(())
}

fn hosts(store: &str, variable: &str) -> Option<String> {
    let hosts = std::env::var(variable).ok();
    if hosts.is_none() {
        println!("{store}: not measured; set {variable} to host:port,host:port, or to a file");
    }
    hosts
}

/// A lock made by hand with the same client library.
trait Raw {
    /// How many round trips it is.
    const TRIPS: u64;

    /// One acquire and release.
    async fn pair(&mut self) -> Result<()>;
}

/// A store to measure.
struct Store<'a> {
    name: &'static str,
    /// In seconds.
    ttl: u32,
    hosts: &'a str,
    requests: fn(&str) -> Result<Counts>,
}

impl Store<'_> {
    fn measure<R: Raw>(
        &self,
        runtime: &Runtime,
        connect: impl AsyncFn() -> Result<R>,
    ) -> Result<()> {
        runtime.block_on(async { self.recipes(connect().await?, &self.url()).await })?;
        self.measure_exclusive(runtime, connect)
    }

    /// The same for a store that has exclusive locks alone.
    fn measure_exclusive<R: Raw>(
        &self,
        runtime: &Runtime,
        connect: impl AsyncFn() -> Result<R>,
    ) -> Result<()> {
        let url = self.url();
        self.pair(runtime, &connect, &url)?;
        runtime.block_on(self.hand_over(&url))?;
        runtime.block_on(self.held(&url))
    }

    fn url(&self) -> String {
        let Self { name, ttl, hosts, .. } = self;
        format!("{name}://{hosts}?ttl={ttl}s&namespace=portunus-bench")
    }
}

/// An uncontended acquire and release on the memory store; the goal is 2 µs.
async fn memory_pair() -> Result<()> {
    let manager = portunus::connect("memory:").await?;
    let lock = manager.lock("pair")?;
    let mut times = Histogram::<u64>::new(3)?;
    for _ in 0..50_000 {
        let begun = Instant::now();
        lock.acquire().await?.release().await?;
        times.record(nanos(begun))?;
    }
    println!("memory: acquire + release");
    println!("  p50 {:.2} µs, p99 {:.2} µs", micros(&times, 0.5), micros(&times, 0.99));
    Ok(())
}

impl Store<'_> {
    /// The same on a store, in rounds that alternate with the raw requests of the same client.
    fn pair<R: Raw>(
        &self,
        runtime: &Runtime,
        connect: impl AsyncFn() -> Result<R>,
        url: &str,
    ) -> Result<()> {
        let single = Builder::new_current_thread().enable_all().build()?;
        let mut raw = runtime.block_on(connect())?;
        let mut raw_single = single.block_on(connect())?;
        let manager = runtime.block_on(portunus::connect(url))?;
        let lock = manager.lock("pair")?;
        let mut rounds: [Vec<f64>; 3] = Default::default();
        for round in 0..=ROUNDS {
            let mut times = [(); 3].map(|()| Histogram::<u64>::new(3).expect("3 is a precision"));
            // The first round warms up.
            let pairs = if round == 0 { PAIRS / 4 } else { PAIRS };
            for _ in 0..pairs / BATCH {
                runtime.block_on(async {
                    for _ in 0..BATCH {
                        let begun = Instant::now();
                        raw.pair().await?;
                        times[0].record(nanos(begun))?;
                    }
                    Ok::<_, Box<dyn Error + Send + Sync>>(())
                })?;
                single.block_on(async {
                    for _ in 0..BATCH {
                        let begun = Instant::now();
                        raw_single.pair().await?;
                        times[1].record(nanos(begun))?;
                    }
                    Ok::<_, Box<dyn Error + Send + Sync>>(())
                })?;
                runtime.block_on(async {
                    for _ in 0..BATCH {
                        let begun = Instant::now();
                        lock.acquire().await?.release().await?;
                        times[2].record(nanos(begun))?;
                    }
                    Ok::<_, Box<dyn Error + Send + Sync>>(())
                })?;
            }
            if round > 0 {
                for (round, times) in rounds.iter_mut().zip(&times) {
                    round.push(micros(times, 0.5));
                }
            }
        }
        let name = self.name;
        println!(
            "{name}: acquire + release, p50 of {PAIRS} pairs, median of {ROUNDS} rounds (min–max)"
        );
        let titles = ["raw requests", "raw, on a current-thread runtime", "portunus"];
        for (title, times) in titles.iter().zip(&rounds) {
            let ratios = times.iter().zip(&rounds[0]).map(|(time, raw)| time / raw).collect();
            println!("  {title:<34} {} µs, ratio {}", spread(times.clone(), 0), spread(ratios, 2));
        }
        runtime.block_on(manager.shutdown(Duration::from_secs(5)))?;
        Ok(())
    }

    /// What one release costs the store while 500 wait: requests of all kinds, by the servers' own
    /// counters, while the queue is drained.
    async fn hand_over(&self, url: &str) -> Result<()> {
        let manager = portunus::connect(url).await?;
        let first = manager.lock("queue")?.acquire().await?;
        let waiters: Vec<_> = (0..WAITERS)
            .map(|_| {
                let lock = manager.lock("queue").expect("a name");
                tokio::spawn(async move { lock.acquire().await?.release().await })
            })
            .collect();
        while manager.contenders("queue").await?.len() <= WAITERS {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The watches of those who came last are being opened still.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = (self.requests)(self.hosts)?;
        let begun = Instant::now();
        first.release().await?;
        for waiter in waiters {
            waiter.await??;
        }
        let taken = begun.elapsed();
        let after = (self.requests)(self.hosts)?;
        println!("{}: a queue of {WAITERS} in one process is drained", self.name);
        println!("  {:.0} hand-overs/s", WAITERS as f64 / taken.as_secs_f64());
        let mut sum = 0.0;
        for (method, count) in &after {
            let old =
                before.iter().find(|(other, _)| other == method).map_or(0.0, |(_, count)| *count);
            if count - old > 0.0 {
                println!("  {method:<16} {:.2} per release", (count - old) / WAITERS as f64);
                sum += count - old;
            }
        }
        println!("  {:<16} {:.2} per release", "sum", sum / WAITERS as f64);
        manager.shutdown(Duration::from_secs(5)).await?;
        Ok(())
    }

    /// What held locks cost: renewals of 1,000, and memory of 10,000.
    async fn held(&self, url: &str) -> Result<()> {
        let manager = portunus::connect(url).await?;
        let mut guards = hold(&manager, 0, 1_000).await?;
        let (renewals, requests) = (manager.stats().renewals, self.total()?);
        let span = 2 * Duration::from_secs(u64::from(self.ttl));
        tokio::time::sleep(span).await;
        let renewals = manager.stats().renewals - renewals;
        let requests = self.total()? - requests;
        println!("{}: 1,000 held locks for {span:?}", self.name);
        println!("  {renewals} renewals; the servers counted {requests} requests of all kinds");
        let before = resident_kib()?;
        let more = 10_000;
        guards.extend(hold(&manager, 1_000, more).await?);
        // Holds older than 1 s are watched, which costs something as well.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let after = resident_kib()?;
        let each = after.saturating_sub(before) * 1024 / u64::from(more);
        println!("{}: {more} more held locks", self.name);
        println!("  {each} bytes of resident memory each");
        let lost = guards.iter().filter(|guard| !guard.is_held()).count();
        println!("  {lost} of {} were lost meanwhile", guards.len());
        for guard in guards {
            drop(guard);
        }
        manager.shutdown(Duration::from_secs(30)).await?;
        Ok(())
    }

    /// Everything that the servers counted.
    fn total(&self) -> Result<f64> {
        Ok((self.requests)(self.hosts)?.iter().map(|(_, count)| count).sum())
    }
}

async fn hold(manager: &LockManager, from: u32, count: u32) -> Result<Vec<Guard>> {
    let mut guards = Vec::new();
    let numbers: Vec<u32> = (from..from + count).collect();
    for chunk in numbers.chunks(100) {
        let tasks: Vec<_> = chunk
            .iter()
            .map(|number| {
                let lock = manager.lock(format!("held/{number}")).expect("a name");
                tokio::spawn(async move { lock.acquire().await })
            })
            .collect();
        for task in tasks {
            guards.push(task.await??);
        }
    }
    Ok(guards)
}

fn resident_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no VmRSS in /proc/self/status")?.parse()?)
}

fn nanos(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn micros(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1000.0
}

fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[0], values[values.len() - 1]);
    format!("{:.digits$} ({low:.digits$}–{high:.digits$})", values[values.len() / 2])
}

const ROUNDS: usize = 5;
const PAIRS: usize = 1_000;
/// So few that what the machine does beside falls on all alike.
const BATCH: usize = 50;
const WAITERS: usize = 500;
