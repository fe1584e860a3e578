//! The statements, as the locks need them.

use async_trait::async_trait;
use futures_util::future::{join, join_all};
use portunus_core::backend::{Attempt, AttemptId, Entry, EntryId, Record, SessionId};
use portunus_core::beat::Sighting;
use portunus_core::clock::Moment;
use portunus_core::error::{Error, ErrorKind};
use portunus_core::token::Incarnation;
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::enter::Sought;
use super::error::{STORE, constraint, harmless, is, moved};
use super::rows::{self, bytes, entry, get, natural, number, row_id};
use super::sql;
use super::wire::Wire;
use crate::server::failure::{Failure, Fallible};
use crate::server::tables::{Before, Change, Entering, Inserted, Own, Standing, Tables};
use crate::sessions::Beating;

/// A connection to the tables.
pub(super) struct PgTables {
    pub(super) wire: Wire,
    incarnation: Incarnation,
    life: String,
}

impl PgTables {
    pub(super) fn new(wire: Wire, incarnation: Incarnation, life: String) -> Self {
        Self { wire, incarnation, life }
    }

    /// Whether it still is the database that the connection was made to.
    pub(super) fn check(&self, life: &str) -> Fallible<()> {
        if life == self.life { Ok(()) } else { Err(moved()) }
    }
}

#[async_trait]
impl Tables for PgTables {
    fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    fn is_over(&self) -> bool {
        self.wire.is_over()
    }

    async fn open(&mut self, session: SessionId, ttl: Duration) -> Fallible<()> {
        let ttl = i64::try_from(ttl.as_nanos()).unwrap_or(i64::MAX);
        let life = self.life.clone();
        let opened = self.wire.write(&sql::OPEN, &[&row_id(session), &ttl, &life]).await?;
        if opened.is_empty() { Err(moved()) } else { Ok(()) }
    }

    async fn renew(&mut self, session: SessionId) -> Fallible<Option<u64>> {
        let life = self.life.clone();
        let renewed = self.wire.write(&sql::RENEW, &[&row_id(session), &life]).await?;
        if let Some(row) = renewed.first() {
            return Ok(Some(natural(get(row, 0)?)));
        }
        // A connection to another life must not be used on, least of all to open the next session.
        for row in self.wire.read(&sql::LIFE, &[]).await? {
            self.check(get(&row, 0)?)?;
        }
        Ok(None)
    }

    async fn missing(
        &mut self,
        session: SessionId,
        attempts: &[AttemptId],
    ) -> Fallible<Vec<AttemptId>> {
        let attempts: Vec<Vec<u8>> = attempts.iter().map(|id| bytes(*id).to_vec()).collect();
        let missing = self.wire.read(&sql::MISSING, &[&row_id(session), &attempts]).await?;
        let attempt = |row: &Row| {
            let bytes = <[u8; 16]>::try_from(get::<&[u8]>(row, 0)?).unwrap_or_default();
            Ok(AttemptId(u128::from_be_bytes(bytes)))
        };
        missing.iter().map(attempt).collect()
    }

    async fn close(&mut self, session: SessionId) -> Fallible<()> {
        self.wire.write(&sql::CLOSE, &[&row_id(session)]).await.map(drop)
    }

    async fn sessions(&mut self) -> Fallible<Vec<Beating>> {
        let beating = |row: &Row| {
            Ok(Beating {
                id: rows::session(get(row, 0)?),
                beat: natural(get(row, 1)?),
                ttl: Duration::from_nanos(natural(get(row, 2)?)),
            })
        };
        self.wire.read(&sql::SESSIONS, &[]).await?.iter().map(beating).collect()
    }

    async fn end_dead(&mut self, dead: &[(SessionId, u64)]) -> Fallible<()> {
        for (session, beat) in dead {
            self.wire.write(&sql::END_DEAD, &[&row_id(*session), &number(*beat)]).await?;
        }
        Ok(())
    }

    async fn sightings(&mut self, kernel: &str) -> Fallible<Vec<(SessionId, Sighting)>> {
        let sighting = |row: &Row| {
            let since = Moment::from_nanos(natural(get(row, 2)?));
            Ok((rows::session(get(row, 0)?), Sighting { beat: natural(get(row, 1)?), since }))
        };
        self.wire.read(&sql::SIGHTINGS, &[&kernel]).await?.iter().map(sighting).collect()
    }

    async fn keep_sightings(
        &mut self,
        kernel: &str,
        seen: &[(SessionId, Sighting)],
    ) -> Fallible<()> {
        let sessions: Vec<i64> = seen.iter().map(|(session, _)| row_id(*session)).collect();
        let beats: Vec<i64> = seen.iter().map(|(_, seen)| number(seen.beat)).collect();
        let since: Vec<i64> = seen.iter().map(|(_, seen)| number(seen.since.nanos())).collect();
        let kept =
            self.wire.write(&sql::KEEP_SIGHTINGS, &[&kernel, &sessions, &beats, &since]).await;
        match kept {
            // One of them has just ended.
            Err(failure) if is(&failure, &SqlState::FOREIGN_KEY_VIOLATION) => Ok(()),
            kept => kept.map(drop),
        }
    }

    async fn begin_enter(
        &mut self,
        _session: SessionId,
        attempt: &Attempt,
        key: &str,
    ) -> Fallible<Entering> {
        for _ in 0..3 {
            match self.enter(attempt, key).await {
                Ok(Some(entering)) => return Ok(entering),
                Ok(None) => self.wire.roll_back().await?,
                Err(failure) => {
                    let failure = self.wire.abandon(failure).await;
                    let is_busy = is(&failure, &SqlState::LOCK_NOT_AVAILABLE);
                    return if is_busy { Ok(Entering::Busy) } else { Err(failure) };
                }
            }
        }
        let error = Error::new(ErrorKind::Unavailable, STORE, "enter");
        Err(error.with_detail("the rows of the attempt and of its key come and go").into())
    }

    async fn insert(
        &mut self,
        session: SessionId,
        attempt: &Attempt,
        key: &str,
        position: u64,
        marked: bool,
    ) -> Fallible<Inserted> {
        let (mode, permits) = rows::mode(attempt.mode);
        let holder = &attempt.holder;
        let (id, session, pid) = (bytes(attempt.id), row_id(session), i64::from(holder.pid));
        let (id, position) = (id.as_slice(), number(position));
        let columns: [&(dyn ToSql + Sync); 11] = [
            &id,
            &session,
            &key,
            &position,
            &mode,
            &permits,
            &marked,
            &holder.host,
            &pid,
            &holder.app,
            &attempt.value,
        ];
        match self.wire.finish(&sql::INSERT, &columns).await {
            Ok(_) => Ok(Inserted::Done),
            Err(failure) if is(&failure, &SqlState::FOREIGN_KEY_VIOLATION) => {
                Ok(Inserted::NoSession)
            }
            Err(failure) if constraint(&failure) == Some("portunus_entry_pkey") => {
                Ok(Inserted::Overtaken)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn undo(&mut self) -> Fallible<()> {
        self.wire.roll_back().await
    }

    async fn look(&mut self, attempt: &Attempt, key: &str) -> Fallible<Option<(Own, Before)>> {
        Ok(match self.find(attempt, key).await? {
            (Sought::Entry(own), before) => Some((own, before)),
            (Sought::Tombstone | Sought::Nothing, _) => None,
        })
    }

    async fn remove(&mut self, session: SessionId, attempt: AttemptId) -> Fallible<bool> {
        let id = bytes(attempt);
        let gone = self.wire.write(&sql::REMOVE, &[&id.as_slice(), &row_id(session)]).await?;
        Ok(!gone.is_empty())
    }

    async fn withdraw(&mut self, session: SessionId, attempt: AttemptId) -> Fallible<bool> {
        let id = bytes(attempt);
        match self.wire.write(&sql::WITHDRAW, &[&id.as_slice(), &row_id(session)]).await {
            Ok(rows) => rows.first().map_or(Ok(false), |row| Ok(!get::<&str>(row, 0)?.is_empty())),
            // The session ends at this moment: nothing of it can arrive any more.
            Err(failure) if is(&failure, &SqlState::FOREIGN_KEY_VIOLATION) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn change(
        &mut self,
        attempt: AttemptId,
        position: u64,
        change: &Change,
    ) -> Fallible<bool> {
        let (id, position) = (bytes(attempt), number(position));
        let id = id.as_slice();
        let changed = match change {
            Change::Mark => self.wire.write(&sql::MARK, &[&id, &position]).await?,
            Change::Share => self.wire.write(&sql::SHARE, &[&id, &position]).await?,
            Change::Publish(value) => {
                let found = self.wire.read(&sql::REVISION, &[&id, &position]).await?;
                let Some(row) = found.first() else { return Ok(false) };
                let revision: i64 = get(row, 0)?;
                let columns: [&(dyn ToSql + Sync); 4] = [&id, &position, value, &revision];
                let written = self.wire.write(&sql::PUBLISH, &columns).await?;
                if written.is_empty() {
                    let error = Error::new(ErrorKind::Unavailable, STORE, "publish");
                    return Err(error.with_detail("the entry changed meanwhile").into());
                }
                written
            }
        };
        Ok(!changed.is_empty())
    }

    async fn queue(&mut self, key: &str) -> Fallible<Vec<Entry>> {
        self.wire.read(&sql::QUEUE, &[&key]).await?.iter().map(|row| entry(key, row, 0)).collect()
    }

    async fn records(&mut self, key: &str, limit: u32) -> Fallible<(Vec<(EntryId, Record)>, u64)> {
        let found = self.wire.read(&sql::RECORDS, &[&key, &i64::from(limit)]).await?;
        let highest = found.first().map_or(Ok(0), |row| get(row, 0))?;
        let mut records = Vec::new();
        for row in &found {
            // An empty queue is one row that has but the number.
            if get::<Option<i64>>(row, 1)?.is_some() {
                records.push(rows::record(key, row, 1)?);
            }
        }
        Ok((records, natural(highest)))
    }

    async fn keys(
        &mut self,
        begin: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Fallible<Vec<String>> {
        let after = after.unwrap_or_default();
        let found = self.wire.read(&sql::KEYS, &[&begin, &after, &i64::from(limit)]).await?;
        found.iter().map(|row| get(row, 0)).collect()
    }

    async fn evict(&mut self, key: &str, position: u64) -> Fallible<bool> {
        let gone = self.wire.write(&sql::EVICT, &[&key, &number(position)]).await?;
        Ok(!gone.is_empty())
    }

    async fn standing(&mut self, keys: &[String], limit: u32) -> Fallible<Vec<Standing>> {
        let standing = |row: &Row| {
            let (position, revision) = (natural(get(row, 1)?), natural(get(row, 2)?));
            Ok(Standing { key: get(row, 0)?, position, revision })
        };
        let found = self.wire.read(&sql::STANDING, &[&keys, &i64::from(limit)]).await?;
        found.iter().map(standing).collect()
    }

    async fn probe(&mut self) -> Fallible<(String, Vec<String>)> {
        let asked = join_all([sql::VERSION, sql::DANGERS].map(|sql| self.wire.ask(sql))).await;
        let mut answers = Vec::new();
        for rows in asked {
            answers.push(rows.map_err(harmless)?);
        }
        let version = answers[0].first().map_or(Ok(String::new()), |row| get(row, 0))?;
        let warnings = answers[1].iter().map(|row| get(row, 0)).collect::<Fallible<_>>()?;
        Ok((version, warnings))
    }

    async fn prune(&mut self) -> Fallible<u64> {
        let mut pruned = 0;
        loop {
            // Who locks a name for the first time waits for the end of this, so each is a small part.
            let locking = self.wire.run(&sql::LOCK_META, &[]);
            let (begun, locked) = join(self.wire.begin(), locking).await;
            if let Err(cause) = begun.and(locked) {
                return Err(self.wire.abandon(harmless(cause)).await);
            }
            let some = self.wire.finish(&sql::PRUNE, &[&BATCH]).await?;
            let some = some.first().map_or(Ok(0), |row| get::<i64>(row, 0))?;
            pruned += natural(some);
            if some < BATCH {
                return Ok(pruned);
            }
        }
    }

    async fn listen(&mut self) -> Fallible<()> {
        self.wire.listen().await
    }

    async fn told(&mut self) -> Fallible<Vec<String>> {
        self.wire.told().await.ok_or_else(|| Failure::Sql {
            kind: ErrorKind::Unavailable,
            detail: "".into(),
            cause: "the connection has ended".into(),
            spares_connection: false,
        })
    }
}

/// How many names are pruned at once.
const BATCH: i64 = 500;
