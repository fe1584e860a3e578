//! Where an attempt stands: the statements of entering, and of looking again.

use futures_util::future::join3;
use portunus_core::backend::Attempt;
use tokio_postgres::Row;

use super::error::harmless;
use super::rows::{bytes, entry, get, natural};
use super::sql;
use super::tables::PgTables;
use crate::server::failure::Fallible;
use crate::server::tables::{Before, Entering, Own};

/// The own row of an attempt.
pub(super) enum Sought {
    Entry(Own),
    Tombstone,
    Nothing,
}

impl PgTables {
    /// `None` when its row, or that of the key, has come or gone in between.
    pub(super) async fn enter(&self, attempt: &Attempt, key: &str) -> Fallible<Option<Entering>> {
        for is_first in [false, true] {
            let (raised, last) = self.raise(attempt, key, is_first).await.map_err(harmless)?;
            if let Some(raised) = raised {
                self.check(get(&raised, 1)?)?;
                let position = natural(get(&raised, 0)?);
                let before = Self::end(key, &last)?;
                return Ok(before.map(|before| Entering::First { position, before }));
            }
            match self.find(attempt, key).await? {
                (Sought::Entry(own), before) => return Ok(Some(Entering::Again(own, before))),
                (Sought::Tombstone, _) => return Ok(Some(Entering::Ended)),
                // There is no row of the key yet.
                (Sought::Nothing, _) => {}
            }
        }
        Ok(None)
    }

    /// The own row, and what is before it.
    pub(super) async fn find(&self, attempt: &Attempt, key: &str) -> Fallible<(Sought, Before)> {
        let id = bytes(attempt.id);
        let (_, look, limit) = sql::window(attempt);
        let found = self.wire.run(look, &[&id.as_slice(), &key, &limit]).await.map_err(harmless)?;
        let (mut own, mut before) = (Sought::Nothing, Vec::new());
        for row in &found {
            if !get::<bool>(row, 0)? {
                before.push((entry(key, row, 1)?, natural(get(row, 4)?)));
                continue;
            }
            self.check(get(row, 7)?)?;
            own = match get(row, 6)? {
                true => Sought::Entry(Own { entry: entry(key, row, 1)?, is_marked: get(row, 5)? }),
                false => Sought::Tombstone,
            };
        }
        Ok((own, Before(before)))
    }

    /// Locks the key's row and reads the end of the queue, in one flight; `is_first` makes the row before.
    async fn raise(
        &self,
        attempt: &Attempt,
        key: &str,
        is_first: bool,
    ) -> Result<(Option<Row>, Vec<Row>), tokio_postgres::Error> {
        let id = bytes(attempt.id);
        let (last, _, limit) = sql::window(attempt);
        let opening = async {
            match is_first {
                true => self.wire.run(&sql::MAKE_KEY, &[&key]).await.map(drop),
                false => self.wire.begin().await,
            }
        };
        let (opened, raised, found) = join3(
            opening,
            self.wire.run(&sql::RAISE, &[&key, &id.as_slice()]),
            self.wire.run(last, &[&id.as_slice(), &key, &limit]),
        )
        .await;
        // What failed first says why.
        opened?;
        Ok((raised?.pop(), found?))
    }

    /// The end of the queue; `None` when the attempt's own row is in it, by a late request.
    fn end(key: &str, last: &[Row]) -> Fallible<Option<Before>> {
        let mut before = Vec::new();
        for row in last {
            if get::<bool>(row, 0)? {
                return Ok(None);
            }
            before.push((entry(key, row, 1)?, natural(get(row, 4)?)));
        }
        Ok(Some(Before(before)))
    }
}
