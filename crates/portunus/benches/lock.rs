//! What the library costs beside the least requests that make a lock, in one run.
//!
//! ```text
//! PORTUNUS_BENCH_ETCD=127.0.0.1:2379 cargo bench -p portunus --features etcd --bench lock
//! ```
//!
//! Without that variable only the memory store is measured. Each figure stands beside its baseline;
//! on a shared machine the ratios tell, the absolute figures only their order of magnitude.

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use hdrhistogram::Histogram;
use portunus::{Guard, LockManager};
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    // The runtime that `#[tokio::main]` gives to most users.
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(memory_pair())?;
    let Ok(hosts) = std::env::var("PORTUNUS_BENCH_ETCD") else {
        println!("etcd: not measured; set PORTUNUS_BENCH_ETCD=host:port,host:port");
        return Ok(());
    };
    let url = format!("etcd://{hosts}?ttl=6s&namespace=portunus-bench");
    pair(&runtime, &hosts, &url)?;
    runtime.block_on(hand_over(&hosts, &url))?;
    runtime.block_on(held(&hosts, &url))?;
    Ok(())
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

/// The same on etcd, in rounds that alternate with the two raw requests of the same client.
fn pair(runtime: &Runtime, hosts: &str, url: &str) -> Result<()> {
    let single = Builder::new_current_thread().enable_all().build()?;
    let mut raw = runtime.block_on(Raw::connect(hosts))?;
    let mut raw_single = single.block_on(Raw::connect(hosts))?;
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
    println!("etcd: acquire + release, p50 of {PAIRS} pairs, median of {ROUNDS} rounds (min–max)");
    let titles = ["raw, etcd-client", "raw, on a current-thread runtime", "portunus"];
    for (title, times) in titles.iter().zip(&rounds) {
        let ratios = times.iter().zip(&rounds[0]).map(|(time, raw)| time / raw).collect();
        println!("  {title:<34} {} µs, ratio {}", spread(times.clone(), 0), spread(ratios, 2));
    }
    runtime.block_on(manager.shutdown(Duration::from_secs(5)))?;
    Ok(())
}

/// What one release costs the store while 500 wait: requests of all kinds, by the servers' own
/// counters, while the queue is drained.
async fn hand_over(hosts: &str, url: &str) -> Result<()> {
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
    let before = requests(hosts)?;
    let begun = Instant::now();
    first.release().await?;
    for waiter in waiters {
        waiter.await??;
    }
    let taken = begun.elapsed();
    let after = requests(hosts)?;
    println!("etcd: a queue of {WAITERS} in one process is drained");
    println!("  {:.0} hand-overs/s", WAITERS as f64 / taken.as_secs_f64());
    let mut sum = 0.0;
    for (method, count) in &after {
        let old = before.iter().find(|(other, _)| other == method).map_or(0.0, |(_, count)| *count);
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
async fn held(hosts: &str, url: &str) -> Result<()> {
    let manager = portunus::connect(url).await?;
    let mut guards = hold(&manager, 0, 1_000).await?;
    let (renewals, kept_alive) = (manager.stats().renewals, keep_alives(hosts)?);
    // The period is a third of the time to live.
    let periods = 6;
    tokio::time::sleep(periods * Duration::from_secs(2)).await;
    let renewals = manager.stats().renewals - renewals;
    let kept_alive = keep_alives(hosts)? - kept_alive;
    println!("etcd: 1,000 held locks");
    println!("  {renewals} renewals in {periods} periods; the servers counted {kept_alive}");
    let before = resident_kib()?;
    let more = 10_000;
    guards.extend(hold(&manager, 1_000, more).await?);
    // Holds older than 1 s are watched, which costs something as well.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = resident_kib()?;
    let each = after.saturating_sub(before) * 1024 / u64::from(more);
    println!("etcd: {more} more held locks");
    println!("  {each} bytes of resident memory each");
    let lost = guards.iter().filter(|guard| !guard.is_held()).count();
    println!("  {lost} of {} were lost meanwhile", guards.len());
    for guard in guards {
        drop(guard);
    }
    manager.shutdown(Duration::from_secs(30)).await?;
    Ok(())
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

/// The least that makes a lock with this client: put if absent under a lease, delete.
struct Raw {
    client: Client,
    lease: i64,
}

impl Raw {
    async fn connect(hosts: &str) -> Result<Self> {
        let mut client = Client::connect(hosts.split(',').collect::<Vec<_>>(), None).await?;
        let lease = client.lease_grant(600, None).await?.id();
        Ok(Self { client, lease })
    }

    async fn pair(&mut self) -> Result<()> {
        let key = format!("portunus-bench-raw/{:x}", self.lease);
        let absent = Compare::create_revision(&*key, CompareOp::Equal, 0);
        let put = TxnOp::put(&*key, "", Some(PutOptions::new().with_lease(self.lease)));
        let txn = Txn::new().when([absent]).and_then([put]);
        let entered = self.client.txn(txn).await?;
        self.client.delete(key, None).await?;
        entered.succeeded().then_some(()).ok_or_else(|| "the raw lock was taken".into())
    }
}

/// Messages that the servers received, by method, over all hosts.
fn requests(hosts: &str) -> Result<Vec<(String, f64)>> {
    let mut counts: Vec<(String, f64)> = Vec::new();
    for host in hosts.split(',') {
        let mut stream = TcpStream::connect(host)?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        for line in text.lines().filter(|line| line.starts_with("grpc_server_msg_received_total{"))
        {
            let method =
                line.split("grpc_method=\"").nth(1).and_then(|rest| rest.split('"').next());
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
            let (Some(method), Some(count)) = (method, count) else { continue };
            match counts.iter_mut().find(|(other, _)| other == method) {
                Some((_, sum)) => *sum += count,
                None => counts.push((method.to_owned(), count)),
            }
        }
    }
    Ok(counts)
}

fn keep_alives(hosts: &str) -> Result<f64> {
    let counts = requests(hosts)?;
    Ok(counts.iter().filter(|(method, _)| method == "LeaseKeepAlive").map(|(_, count)| count).sum())
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
