//! Redis: the two requests that make a lock, and what the server counts.

use super::{Counts, Raw, Result, micros, nanos, spread};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use redis::Script;
use redis::aio::MultiplexedConnection;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The least that makes a lock with this client: `SET NX PX`, and a script that compares and deletes.
/// Clones share a connection, which sends what they ask for without waiting for answers.
#[derive(Clone)]
pub(crate) struct Redis(MultiplexedConnection, Script);

impl Redis {
    pub(crate) async fn connect(host: &str) -> Result<Self> {
        let client = redis::Client::open(format!("redis://{host}"))?;
        let connection = client.get_multiplexed_async_connection().await?;
        let release = "if redis.call('get', KEYS[1]) == ARGV[1] then \
                       return redis.call('del', KEYS[1]) else return 0 end";
        Ok(Self(connection, Script::new(release)))
    }

    async fn acquire(&mut self, key: &str) -> Result<()> {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(OWNER).arg("NX").arg("PX").arg(6000);
        let taken: Option<String> = set.query_async(&mut self.0).await?;
        taken.map(drop).ok_or_else(|| "the raw lock is taken".into())
    }

    async fn release(&mut self, key: &str) -> Result<()> {
        let mut release = self.1.prepare_invoke();
        release.key(key).arg(OWNER);
        let deleted: u8 = release.invoke_async(&mut self.0).await?;
        (deleted == 1).then_some(()).ok_or_else(|| "the raw lock vanished".into())
    }
}

impl Raw for Redis {
    const TRIPS: u64 = 2;

    async fn pair(&mut self) -> Result<()> {
        self.acquire("portunus-bench-raw").await?;
        self.release("portunus-bench-raw").await
    }
}

/// Pairs in a second over 64 keys, a task for each.
pub(crate) async fn throughput(host: &str) -> Result<()> {
    let raw = Redis::connect(host).await?;
    let manager = portunus::connect(format!("redis://{host}?namespace=portunus-bench")).await?;
    let (mut by_hand, mut by_library) = (Vec::new(), Vec::new());
    for round in 0..=super::ROUNDS {
        let begun = Instant::now();
        let mut tasks = JoinSet::<Result<()>>::new();
        for key in 0..KEYS {
            let mut raw = raw.clone();
            tasks.spawn(async move {
                let key = format!("portunus-bench-raw/{key}");
                for _ in 0..TURNS {
                    raw.acquire(&key).await?;
                    raw.release(&key).await?;
                }
                Ok(())
            });
        }
        all(tasks).await?;
        let hand = rate(begun);
        let begun = Instant::now();
        let mut tasks = JoinSet::<Result<()>>::new();
        for key in 0..KEYS {
            let lock = manager.lock(format!("many/{key}"))?;
            tasks.spawn(async move {
                for _ in 0..TURNS {
                    lock.acquire().await?.release().await?;
                }
                Ok(())
            });
        }
        all(tasks).await?;
        // The first round warms up.
        if round > 0 {
            by_hand.push(hand);
            by_library.push(rate(begun));
        }
    }
    let ratios = by_library.iter().zip(&by_hand).map(|(library, hand)| library / hand).collect();
    println!("redis: pairs in a second over {KEYS} keys, median of {} rounds", super::ROUNDS);
    println!("  raw requests, pipelined {}", spread(by_hand, 0));
    println!("  portunus {}, ratio {}", spread(by_library, 0), spread(ratios, 2));
    manager.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// An acquire by Redlock, beside the third-fastest answer to one raw request of all masters; it takes two.
pub(crate) async fn redlock(hosts: &str) -> Result<()> {
    let mut raw = Vec::new();
    for host in hosts.split(',') {
        raw.push(Redis::connect(host).await?);
    }
    let quorum = raw.len() / 2 + 1;
    let url = format!("redlock://{hosts}?namespace=portunus-bench&ttl=6s");
    let manager = portunus::connect(url).await?;
    let lock = manager.lock("pair")?;
    let (mut raws, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=super::ROUNDS {
        let mut times = [Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?];
        for _ in 0..super::PAIRS / super::BATCH {
            for _ in 0..super::BATCH {
                let begun = Instant::now();
                let asked: FuturesUnordered<_> =
                    raw.iter_mut().map(|raw| raw.acquire("portunus-bench-raw")).collect();
                let mut answers = asked.enumerate();
                while let Some((number, answer)) = answers.next().await {
                    answer?;
                    if number + 1 == quorum {
                        times[0].record(nanos(begun))?;
                    }
                }
                drop(answers);
                for raw in &mut raw {
                    raw.release("portunus-bench-raw").await?;
                }
            }
            for _ in 0..super::BATCH {
                let begun = Instant::now();
                let guard = lock.acquire().await?;
                times[1].record(nanos(begun))?;
                guard.release().await?;
            }
        }
        // The first round warms up.
        if round > 0 {
            let [raw, our] = [0, 1].map(|at| micros(&times[at], 0.5));
            raws.push(raw);
            ours.push(our);
            ratios.push(our / (2.0 * raw));
        }
    }
    println!(
        "redlock: an acquire on {} masters, p50, median of {} rounds",
        raw.len(),
        super::ROUNDS
    );
    println!("  the answer that makes a majority {} µs", spread(raws, 0));
    println!("  portunus {} µs, ratio to two of them {}", spread(ours, 0), spread(ratios, 2));
    manager.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// What it costs to keep 1,000 locks, once they are watched.
pub(crate) async fn renewals(host: &str) -> Result<()> {
    let url = format!("redis://{host}?namespace=portunus-bench&ttl=6s");
    let manager = portunus::connect(url).await?;
    let guards = super::hold(&manager, 0, 1_000).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (renewals, before) = (manager.stats().renewals, requests(host)?);
    tokio::time::sleep(Duration::from_secs(12)).await;
    let renewals = manager.stats().renewals - renewals;
    let commands = requests(host)?[0].1 - before[0].1;
    println!("redis: 1,000 held locks for 12 s");
    println!("  {renewals} renewals, {:.1} commands each", commands / renewals as f64);
    drop(guards);
    manager.shutdown(Duration::from_secs(30)).await?;
    Ok(())
}

async fn all(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

fn rate(begun: Instant) -> f64 {
    (KEYS * TURNS) as f64 / begun.elapsed().as_secs_f64()
}

/// Scripts that the server has run for clients; what they did inside is not counted.
pub(crate) fn requests(host: &str) -> Result<Counts> {
    let mut stream = TcpStream::connect(host)?;
    stream.write_all(b"INFO commandstats\r\nQUIT\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    let count = line.and_then(|line| line.split(',').next()).unwrap_or("0");
    Ok(vec![("evalsha".to_owned(), count.parse()?)])
}

const OWNER: &str = "0123456789abcdef0123456789abcdef";
const KEYS: usize = 64;
const TURNS: usize = 50;
