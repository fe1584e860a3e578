//! PostgreSQL: the two durable transactions that make a lock, awaited statement by statement on one
//! connection, and the same over many keys.

use super::{Counts, Raw, Result, spread};
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls, Statement};

/// The same statements as the library's, by hand: the key's row, the queue, the entry; and its deletion.
pub(crate) struct Postgres {
    client: Client,
    raise: Statement,
    read: Statement,
    insert: Statement,
    delete: Statement,
}

impl Postgres {
    pub(crate) async fn connect(place: &str) -> Result<Self> {
        let (client, connection) =
            tokio_postgres::connect(&format!("postgres://{place}"), NoTls).await?;
        tokio::spawn(connection);
        client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS bench_key (key TEXT PRIMARY KEY, counter BIGINT NOT NULL);
                 CREATE TABLE IF NOT EXISTS bench_entry (id TEXT PRIMARY KEY, key TEXT NOT NULL,
                   position BIGINT NOT NULL, UNIQUE (key, position));
                 INSERT INTO bench_key SELECT 'k' || n, 0 FROM generate_series(0, 63) AS n
                   ON CONFLICT DO NOTHING",
            )
            .await?;
        Ok(Self {
            raise: client
                .prepare("UPDATE bench_key SET counter = counter + 1 WHERE key = $1 RETURNING counter")
                .await?,
            read: client
                .prepare(
                    "SELECT position FROM bench_entry WHERE key = $1 ORDER BY position DESC LIMIT 1",
                )
                .await?,
            insert: client.prepare("INSERT INTO bench_entry VALUES ($1, $2, $3)").await?,
            delete: client.prepare("DELETE FROM bench_entry WHERE id = $1").await?,
            client,
        })
    }

    async fn lock(&self, key: &str) -> Result<()> {
        self.client.batch_execute("BEGIN").await?;
        let position: i64 = self.client.query_one(&self.raise, &[&key]).await?.get(0);
        self.client.query(&self.read, &[&key]).await?;
        self.client.execute(&self.insert, &[&key, &key, &position]).await?;
        self.client.batch_execute("COMMIT").await?;
        Ok(())
    }

    async fn unlock(&self, key: &str) -> Result<()> {
        self.client.batch_execute("BEGIN").await?;
        self.client.execute(&self.delete, &[&key]).await?;
        self.client.batch_execute("COMMIT").await?;
        Ok(())
    }
}

impl Raw for Postgres {
    const TRIPS: u64 = 8;

    async fn pair(&mut self) -> Result<()> {
        self.lock("k0").await?;
        self.unlock("k0").await
    }
}

/// Pairs in a second over 64 keys, a task for each, by one connection for all requests.
pub(crate) async fn throughput(place: &str) -> Result<()> {
    let raw = Arc::new(Mutex::new(Postgres::connect(place).await?));
    let url = format!("postgres://{place}?namespace=portunus-bench");
    let manager = portunus::connect(url).await?;
    let (mut by_hand, mut by_library) = (Vec::new(), Vec::new());
    for round in 0..=super::ROUNDS {
        let begun = Instant::now();
        let mut tasks = JoinSet::<Result<()>>::new();
        for key in 0..KEYS {
            let raw = Arc::clone(&raw);
            tasks.spawn(async move {
                for _ in 0..TURNS {
                    let key = format!("k{key}");
                    raw.lock().await.lock(&key).await?;
                    raw.lock().await.unlock(&key).await?;
                }
                Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
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
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        // The first round warms up.
        if round > 0 {
            by_hand.push(hand);
            by_library.push(rate(begun));
        }
    }
    let ratios = by_library.iter().zip(&by_hand).map(|(library, hand)| library / hand).collect();
    println!("postgres: pairs in a second over {KEYS} keys, median of {} rounds", super::ROUNDS);
    println!("  by hand, one connection {}", spread(by_hand, 0));
    println!("  portunus {}, ratio {}", spread(by_library, 0), spread(ratios, 2));
    manager.shutdown(std::time::Duration::from_secs(5)).await?;
    Ok(())
}

fn rate(begun: Instant) -> f64 {
    (KEYS * TURNS) as f64 / begun.elapsed().as_secs_f64()
}

/// The server counts commits, of its own tasks too.
pub(crate) fn requests(_: &str) -> Result<Counts> {
    Ok(Counts::new())
}

const KEYS: usize = 64;
const TURNS: usize = 10;
