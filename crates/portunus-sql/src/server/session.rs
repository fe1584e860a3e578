//! Sessions as rows: made, renewed, and found dead.
//!
//! No time of one machine means anything on another, and the server's least of all, which can be set. So
//! a session is judged by its beat alone, as the observer saw it change.

use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Attempt, AttemptId, Renewal, SessionId};
use portunus_core::beat::Sighting;
use portunus_core::clock::Moment;
use portunus_core::error::{Error, ErrorKind};

use super::failure::{Failure, Fallible};
use super::tables::Tables;
use crate::sessions::{Beating, Liveness};

pub(super) async fn open<T: Tables>(
    tables: &mut T,
    liveness: &Liveness,
    ttl: Duration,
) -> Fallible<SessionId> {
    // Those who crashed while nobody waited for them are found by who comes next.
    settle_for_a_try(tables, liveness).await.map(drop).or_else(spare)?;
    // Below 2^63, and never used again in practice.
    let id = SessionId((rand::random::<u64>() >> 1).into());
    tables.open(id, ttl).await?;
    liveness.confirmed.insert(id, 0);
    Ok(id)
}

/// Raises the beat, then asks for the entries of all that is held: they may have been evicted.
pub(super) async fn renew<T: Tables>(
    tables: &mut T,
    liveness: &Liveness,
    store: &'static str,
    id: SessionId,
    held: &[Arc<Attempt>],
) -> Fallible<Renewal> {
    let lost = || Error::new(ErrorKind::Lost, store, "renew");
    let beat = tables.renew(id).await?.ok_or_else(lost)?;
    if liveness.confirmed.is_old(id, beat) {
        return Err(lost().with_detail("an earlier copy of the database was put back").into());
    }
    liveness.confirmed.insert(id, beat);
    if held.is_empty() {
        return Ok(Renewal::default());
    }
    let held: Vec<AttemptId> = held.iter().map(|attempt| attempt.id).collect();
    Ok(Renewal { lost: tables.missing(id, &held).await? })
}

/// What was found among the sessions.
pub(super) struct Settled {
    /// Some were dead, and are no more.
    pub(super) has_ended_some: bool,
    /// When the next may be found dead, if none is renewed.
    pub(super) look_again: Moment,
    /// The shortest time to live of those that live.
    pub(super) shortest: Duration,
}

/// Ends those sessions that are dead.
pub(super) async fn settle<T: Tables>(tables: &mut T, liveness: &Liveness) -> Fallible<Settled> {
    let rows = tables.sessions().await?;
    end(tables, liveness, &rows).await
}

/// The same for one who only reads. If that is refused the dead are read too.
pub(super) async fn settle_for_a_reader<T: Tables>(
    tables: &mut T,
    liveness: &Liveness,
) -> Fallible<()> {
    settle(tables, liveness).await.map(drop).or_else(spare)
}

/// The same for one who is about to be turned away: what other processes of this kernel saw is taken
/// over, and what is seen is kept for them, so that tries that begin and end in turn come to a verdict
/// too. Says whether anybody was ended.
pub(super) async fn settle_for_a_try<T: Tables>(
    tables: &mut T,
    liveness: &Liveness,
) -> Fallible<bool> {
    // An unknown kernel has no clock that another process could read by.
    if !liveness.kernel.is_known() {
        return Ok(settle(tables, liveness).await?.has_ended_some);
    }
    let kernel = liveness.kernel.id();
    let rows = tables.sessions().await?;
    let kept = tables.sightings(kernel).await?;
    for (session, sighting) in &kept {
        liveness.beats.recall(*session, *sighting);
    }
    let has_ended_some = end(tables, liveness, &rows).await?.has_ended_some;
    let seen = |row: &Beating| Some((row.id, liveness.beats.sighting(row.id)?));
    let is_news = |seen: &(SessionId, Sighting)| !kept.contains(seen);
    let news: Vec<_> = rows.iter().filter_map(seen).filter(is_news).collect();
    if !news.is_empty() {
        tables.keep_sightings(kernel, &news).await?;
    }
    Ok(has_ended_some)
}

async fn end<T: Tables>(
    tables: &mut T,
    liveness: &Liveness,
    rows: &[Beating],
) -> Fallible<Settled> {
    let verdict = liveness.judge_by_beats(rows);
    if !verdict.dead.is_empty() {
        tables.end_dead(&verdict.dead).await?;
    }
    Ok(Settled {
        has_ended_some: !verdict.dead.is_empty(),
        look_again: verdict.look_again,
        shortest: rows.iter().map(|row| row.ttl).min().unwrap_or(Duration::MAX),
    })
}

/// A failure that leaves the connection as it was is somebody else's next chance.
fn spare(failure: Failure) -> Fallible<()> {
    if failure.spares_connection() { Ok(()) } else { Err(failure) }
}
