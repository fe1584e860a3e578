//! The statements of the locks, as MySQL and MariaDB know them.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use portunus_core::backend::{Attempt, AttemptId, Entry, EntryId, Record, SessionId};
use portunus_core::beat::Sighting;
use portunus_core::clock::Moment;
use portunus_core::token::Incarnation;

use super::connection::{Connection, writable};
use super::rows::{self, all, entry, hex, literal, number};
use super::{enter, probe, prune};
use crate::server::failure::Fallible;
use crate::server::tables::{Before, Change, Entering, Inserted, Own, Standing, Tables};
use crate::sessions::Beating;

#[async_trait]
impl Tables for Connection {
    fn incarnation(&self) -> &Incarnation {
        Self::incarnation(self)
    }

    /// The driver reads nothing between two statements. What was closed meanwhile is noticed by the next
    /// one, of which the server has heard nothing: the transaction of an entry begins with one that applies
    /// nothing.
    fn is_over(&self) -> bool {
        false
    }

    async fn open(&mut self, session: SessionId, ttl: Duration) -> Fallible<()> {
        self.write_to_primary(OPEN, (number(session), nanos(ttl))).await.map(drop)
    }

    async fn renew(&mut self, session: SessionId) -> Fallible<Option<u64>> {
        let renewed = self.write_to_primary(RENEW, (number(session),)).await?;
        Ok((renewed.rows > 0).then_some(renewed.number))
    }

    async fn missing(
        &mut self,
        session: SessionId,
        attempts: &[AttemptId],
    ) -> Fallible<Vec<AttemptId>> {
        if attempts.is_empty() {
            return Ok(Vec::new());
        }
        let named: Vec<_> = attempts.iter().map(|id| literal(&id.0.to_be_bytes())).collect();
        let find = format!(
            "SELECT HEX(attempt) FROM portunus_entry WHERE attempt IN ({}) AND session = {} \
             AND lock_key IS NOT NULL",
            named.join(", "),
            number(session)
        );
        let found: Vec<(String,)> = all(self.rows_of(find).await?)?;
        let found: HashSet<_> =
            found.iter().filter_map(|(hex,)| u128::from_str_radix(hex, 16).ok()).collect();
        Ok(attempts.iter().filter(|attempt| !found.contains(&attempt.0)).copied().collect())
    }

    async fn close(&mut self, session: SessionId) -> Fallible<()> {
        self.write_to_primary(CLOSE, (number(session),)).await.map(drop)
    }

    async fn sessions(&mut self) -> Fallible<Vec<Beating>> {
        let rows: Vec<(u64, u64, u64)> = all(self.rows(SESSIONS, ()).await?)?;
        let beating = |(id, beat, ttl)| Beating {
            id: SessionId(u128::from(id)),
            beat,
            ttl: Duration::from_nanos(ttl),
        };
        Ok(rows.into_iter().map(beating).collect())
    }

    async fn end_dead(&mut self, dead: &[(SessionId, u64)]) -> Fallible<()> {
        for (session, beat) in dead {
            self.write_to_primary(END, (number(*session), beat)).await?;
        }
        Ok(())
    }

    async fn sightings(&mut self, kernel: &str) -> Fallible<Vec<(SessionId, Sighting)>> {
        let rows: Vec<(u64, u64, u64)> = all(self.rows(SIGHTINGS, (kernel,)).await?)?;
        let sighting = |(session, beat, since)| {
            (SessionId(u128::from(session)), Sighting { beat, since: Moment::from_nanos(since) })
        };
        Ok(rows.into_iter().map(sighting).collect())
    }

    async fn keep_sightings(
        &mut self,
        kernel: &str,
        seen: &[(SessionId, Sighting)],
    ) -> Fallible<()> {
        if seen.is_empty() {
            return Ok(());
        }
        let kernel = literal(kernel.as_bytes());
        let mut rows: Vec<_> = seen
            .iter()
            .map(|(session, seen)| (number(*session), seen.beat, seen.since.nanos()))
            .collect();
        // All take the rows in one order, so that none waits for another that waits for it.
        rows.sort_unstable();
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(session, beat, since)| format!("({kernel}, {session}, {beat}, {since})"))
            .collect();
        // Those of a session that ended meanwhile are left out. From left to right each assignment sees
        // those before it, so `beat` comes last.
        let keep = format!(
            "INSERT IGNORE INTO portunus_sighting (kernel, session, beat, since) VALUES {} \
             ON DUPLICATE KEY UPDATE \
             since = IF(beat = VALUES(beat), LEAST(since, VALUES(since)), VALUES(since)), \
             beat = VALUES(beat)",
            rows.join(", ")
        );
        self.rows_of(keep).await.map(drop)
    }

    async fn begin_enter(
        &mut self,
        _: SessionId,
        attempt: &Attempt,
        key: &str,
    ) -> Fallible<Entering> {
        enter::begin(self, attempt, key).await
    }

    async fn insert(
        &mut self,
        session: SessionId,
        attempt: &Attempt,
        key: &str,
        position: u64,
        marked: bool,
    ) -> Fallible<Inserted> {
        enter::insert(self, session, attempt, key, position, marked).await
    }

    async fn undo(&mut self) -> Fallible<()> {
        self.roll_back().await
    }

    async fn look(&mut self, attempt: &Attempt, key: &str) -> Fallible<Option<(Own, Before)>> {
        enter::look(self, attempt, key).await
    }

    async fn remove(&mut self, session: SessionId, attempt: AttemptId) -> Fallible<bool> {
        let removed = self.write_to_primary(REMOVE, (hex(attempt), number(session))).await?;
        Ok(removed.rows > 0)
    }

    async fn withdraw(&mut self, session: SessionId, attempt: AttemptId) -> Fallible<bool> {
        enter::withdraw(self, session, attempt).await
    }

    async fn change(
        &mut self,
        attempt: AttemptId,
        position: u64,
        change: &Change,
    ) -> Fallible<bool> {
        enter::change(self, attempt, position, change).await
    }

    async fn queue(&mut self, key: &str) -> Fallible<Vec<Entry>> {
        let rows: Vec<rows::Columns> = all(self.rows(QUEUE, (key,)).await?)?;
        rows.into_iter().map(|columns| entry(key, columns)).collect()
    }

    async fn records(&mut self, key: &str, limit: u32) -> Fallible<(Vec<(EntryId, Record)>, u64)> {
        rows::records(key, self.rows(RECORDS, (key, key, limit)).await?)
    }

    async fn keys(
        &mut self,
        begin: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Fallible<Vec<String>> {
        // Behind all that begin so: no byte of a name is as high.
        let end = [begin.as_bytes(), &[0xff]].concat();
        let list = format!(
            "SELECT DISTINCT lock_key FROM portunus_entry WHERE lock_key >= {} AND lock_key > {} \
             AND lock_key < {} ORDER BY lock_key LIMIT {limit}",
            literal(begin.as_bytes()),
            literal(after.unwrap_or_default().as_bytes()),
            literal(&end)
        );
        let keys: Vec<(String,)> = all(self.rows_of(list).await?)?;
        Ok(keys.into_iter().map(|(key,)| key).collect())
    }

    async fn evict(&mut self, key: &str, position: u64) -> Fallible<bool> {
        Ok(self.write_to_primary(EVICT, (key, position)).await?.rows > 0)
    }

    async fn standing(&mut self, keys: &[String], limit: u32) -> Fallible<Vec<Standing>> {
        let queue = |key: &String| {
            format!(
                "(SELECT lock_key, position, revision FROM portunus_entry WHERE lock_key = {} \
                 ORDER BY position LIMIT {limit})",
                literal(key.as_bytes())
            )
        };
        let mut rows: Vec<(String, u64, u64)> = Vec::new();
        for some in keys.chunks(QUEUES) {
            let queues: Vec<_> = some.iter().map(queue).collect();
            rows.extend(all::<(String, u64, u64)>(
                self.rows_of(queues.join(" UNION ALL ")).await?,
            )?);
        }
        rows.sort_unstable();
        let standing = |(key, position, revision)| Standing { key, position, revision };
        Ok(rows.into_iter().map(standing).collect())
    }

    async fn probe(&mut self) -> Fallible<(String, Vec<String>)> {
        probe::probe(&self.settings().await?)
    }

    async fn prune(&mut self) -> Fallible<u64> {
        prune::prune(self).await
    }

    /// The server tells nobody anything.
    async fn listen(&mut self) -> Fallible<()> {
        Ok(())
    }

    async fn told(&mut self) -> Fallible<Vec<String>> {
        std::future::pending().await
    }
}

/// How many queues a statement reads: it has a greatest length, and opens a table for each.
const QUEUES: usize = 200;

/// A time to live is at most a day.
fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

const OPEN: &str = concat!(
    "INSERT INTO portunus_session (id, ttl, beat) SELECT ?, ?, 0 FROM DUAL WHERE ",
    writable!()
);
const RENEW: &str = concat!(
    "UPDATE portunus_session SET beat = LAST_INSERT_ID(beat + 1) WHERE id = ? AND ",
    writable!()
);
const CLOSE: &str = concat!("DELETE FROM portunus_session WHERE id = ? AND ", writable!());
const SESSIONS: &str = "SELECT id, beat, ttl FROM portunus_session";
const END: &str =
    concat!("DELETE FROM portunus_session WHERE id = ? AND beat = ? AND ", writable!());
const SIGHTINGS: &str = "SELECT session, beat, since FROM portunus_sighting WHERE kernel = ?";
const REMOVE: &str = concat!(
    "DELETE FROM portunus_entry WHERE attempt = UNHEX(?) AND session = ? AND lock_key IS NOT NULL AND ",
    writable!()
);
const QUEUE: &str = "SELECT position, mode, permits FROM portunus_entry \
    WHERE lock_key = ? ORDER BY position";
// Both as of one moment. A key that was pruned gave no higher number than the floor.
const RECORDS: &str = "SELECT 0 AS is_entry, COALESCE(\
    (SELECT counter FROM portunus_key WHERE lock_key = ?), (SELECT floor FROM portunus_meta)\
    ) AS position, 'exclusive' AS mode, NULL AS permits, '' AS host, 0 AS pid, '' AS app, '' AS value \
    UNION ALL (SELECT 1, position, mode, permits, host, pid, app, value FROM portunus_entry \
    WHERE lock_key = ? ORDER BY position LIMIT ?)";
const EVICT: &str =
    concat!("DELETE FROM portunus_entry WHERE lock_key = ? AND position = ? AND ", writable!());
