//! What a fence adds to a write, beside the same write without it, in one run.
//!
//! ```text
//! cargo bench -p portunus-fence --all-features --bench fence      (needs a Docker engine, and the images)
//! ```
//!
//! `PORTUNUS_BENCH_POSTGRES=postgres://…` names a server that waits for the disk at each commit, as the
//! tests' own does not.
//!
//! Both sides take turns in small batches, so that what else the machine does falls on both. The ratio is
//! that of the medians; the least and the greatest of all rounds stand beside it.

mod http;
mod redis;
mod sql;

use std::error::Error;

use hdrhistogram::Histogram;
use portunus_fence::FencingToken;
use tokio::time::Instant;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> Result<()> {
    sql::sqlite().await?;
    sql::postgres().await?;
    sql::mariadb().await?;
    redis::scripts().await?;
    http::layers().await
}

/// The same write, once without the fence and once with it.
trait Pair {
    async fn bare(&mut self) -> Result<()>;
    async fn fenced(&mut self) -> Result<()>;
}

async fn compare<P: Pair>(what: &str, goal: &str, writes: u64, mut pair: P) -> Result<P> {
    let mut ratios = Vec::new();
    let mut all = [Histogram::<u64>::new(3)?, Histogram::new(3)?];
    for round in 0..=ROUNDS {
        let mut times = [Histogram::<u64>::new(3)?, Histogram::new(3)?];
        for _ in 0..writes / BATCH {
            for _ in 0..BATCH {
                let begun = Instant::now();
                pair.bare().await?;
                times[0].record(nanos(begun))?;
            }
            for _ in 0..BATCH {
                let begun = Instant::now();
                pair.fenced().await?;
                times[1].record(nanos(begun))?;
            }
        }
        // The first round warms up.
        if round > 0 {
            ratios.push(micros(&times[1]) / micros(&times[0]));
            all[0].add(&times[0])?;
            all[1].add(&times[1])?;
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "{what}: bare p50 {:.1} µs, fenced {:.1} µs: {:.2} ({:.2}–{:.2}); the goal is {goal}",
        micros(&all[0]),
        micros(&all[1]),
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1],
    );
    Ok(pair)
}

fn nanos(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn micros(times: &Histogram<u64>) -> f64 {
    times.value_at_quantile(0.5) as f64 / 1_000.0
}

/// A token of one lock, whose number is that of a second grant.
fn token() -> FencingToken {
    "7;origin=046c69666573746f636b".parse().expect("a token")
}

const ROUNDS: usize = 5;
const BATCH: u64 = 25;
