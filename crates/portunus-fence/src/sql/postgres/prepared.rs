//! The fence's statement, prepared once for a connection.

use portunus_core::error::{Error, Result};
use portunus_core::token::FencingToken;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement, Transaction};

use super::{FENCE, MODULE, OPEN, SCHEMA, classify, step};
use crate::call::Call;
use crate::sql::Entry;

/// The statement of [`open`](super::open()), prepared on one connection, for writes that come often.
///
/// To parse and to plan it takes the server longer than to run it. A pooler that hands the session to
/// others between two transactions has to know of prepared statements.
#[derive(Clone, Debug)]
pub struct PreparedFence(Statement);

impl PreparedFence {
    /// Prepares it, in one round trip.
    ///
    /// # Errors
    ///
    /// As [`open`](super::open()).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn new(client: &Client) -> Result<Self> {
        let types = [Type::TEXT, Type::TEXT, Type::INT8];
        let prepared = client.prepare_typed(OPEN, &types).await;
        prepared.map(Self).map_err(|cause| {
            let failure = classify(&cause).uncommitted();
            failure.word(Error::new(failure.kind(), FENCE, "prepare"), SCHEMA, MODULE, cause)
        })
    }

    /// Raises the mark to `token`, as [`open`](super::open()) does, in a transaction of the same
    /// connection.
    ///
    /// A write that needs no read may share its round trip (`tokio::join!`): a refusal rolls it back.
    ///
    /// # Errors
    ///
    /// As [`open`](super::open()).
    ///
    /// # Cancel safety
    ///
    /// As [`open`](super::open()).
    pub async fn open(
        &self,
        transaction: &Transaction<'_>,
        resource: &str,
        token: &FencingToken,
    ) -> Result<()> {
        let entry = Entry::new(Call::new(FENCE, "open", resource)?, token)?;
        let columns = [&resource as _, &entry.origin as _, &entry.number as _];
        let written = transaction.execute(&self.0, &columns).await;
        step(transaction, &resource, &entry, written).await
    }
}
