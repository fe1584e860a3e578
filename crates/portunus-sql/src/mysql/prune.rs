//! Removing the rows of keys that nobody uses.

use mysql_async::Row;

use super::connection::Connection;
use super::rows::{all, literal};
use crate::server::failure::Fallible;

/// Removes them, so many in a transaction, and raises the floor to the highest number that any of them
/// gave: a key that comes back counts on from there.
pub(super) async fn prune(connection: &mut Connection) -> Fallible<u64> {
    let mut pruned = 0;
    loop {
        connection.begin().await?;
        let batch = match some(connection).await {
            Ok(batch) => batch,
            Err(failed) => return Err(connection.give_up(failed).await),
        };
        connection.commit().await?;
        pruned += batch.removed;
        if batch.found < BATCH {
            return Ok(pruned);
        }
    }
}

struct Batch {
    found: u64,
    removed: u64,
}

async fn some(connection: &mut Connection) -> Fallible<Batch> {
    // Who makes a row of a key meanwhile waits for the floor.
    connection.rows(FLOOR, ()).await?;
    // Those of which somebody has the row are in use, and are not waited for.
    let idle: Vec<(Vec<u8>, u64)> = all(connection.rows(IDLE, (BATCH,)).await?)?;
    let found = u64::try_from(idle.len()).unwrap_or(u64::MAX);
    let Some(highest) = idle.iter().map(|(_, counter)| *counter).max() else {
        return Ok(Batch { found, removed: 0 });
    };
    let keys: Vec<String> = idle.iter().map(|(key, _)| literal(key)).collect();
    // Now that the rows are ours, whether they still are idle: who had one may have used it.
    let used = format!(
        "SELECT DISTINCT lock_key FROM portunus_entry WHERE lock_key IN ({})",
        keys.join(", ")
    );
    let used: Vec<(Vec<u8>,)> = all(connection.rows_of(used).await?)?;
    let used: Vec<String> = used.iter().map(|(key,)| literal(key)).collect();
    let keys: Vec<String> = keys.into_iter().filter(|key| !used.contains(key)).collect();
    if keys.is_empty() {
        return Ok(Batch { found, removed: 0 });
    }
    connection.rows(RAISE, (highest,)).await?;
    let remove = format!("DELETE FROM portunus_key WHERE lock_key IN ({})", keys.join(", "));
    let _: Vec<Row> = connection.rows_of(remove).await?;
    Ok(Batch { found, removed: u64::try_from(keys.len()).unwrap_or(u64::MAX) })
}

const BATCH: u64 = 500;
const FLOOR: &str = "SELECT floor FROM portunus_meta FOR UPDATE";
const IDLE: &str = "SELECT lock_key, counter FROM portunus_key WHERE NOT EXISTS \
    (SELECT 1 FROM portunus_entry WHERE portunus_entry.lock_key = portunus_key.lock_key) \
    LIMIT ? FOR UPDATE SKIP LOCKED";
const RAISE: &str = "UPDATE portunus_meta SET floor = GREATEST(floor, ?)";
