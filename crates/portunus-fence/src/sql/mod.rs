//! Marks in a table, compared inside the caller's transaction: what the databases have in common.

use std::error::Error as StdError;

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::{FencingToken, SharedToken};

use crate::call::Call;

#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

/// The columns of a row with an exclusive token, and the call that brings it.
#[derive(Clone, Debug)]
struct Entry {
    call: Call,
    token: FencingToken,
    origin: String,
    number: i64,
}

impl Entry {
    fn new(call: Call, token: &FencingToken) -> Result<Self> {
        call.exclusive(token, MAX_TOKEN)?;
        let (origin, number) = (token.origin().to_string(), token.value().cast_signed());
        Ok(Self { call, token: token.clone(), origin, number })
    }

    /// Words the database's refusal by the mark that was read after it.
    fn refused(&self, mark: Option<&FencingToken>) -> Error {
        match self.call.pass(mark, &self.token) {
            Err(error) => error,
            Ok(()) => self
                .call
                .error(ErrorKind::Unavailable)
                .with_detail("refused by a mark that was changed by hand since"),
        }
    }
}

/// Begins a call with a shared token.
fn shared(call: Call, token: &SharedToken) -> Result<Call> {
    call.shared(token, MAX_TOKEN)?;
    Ok(call)
}

/// Reads the mark of a row.
fn mark(call: &Call, origin: &str, number: i64) -> Result<FencingToken> {
    format!("{number};origin={origin}")
        .parse()
        .map_err(|error: Error| call.garbled("the row is no mark").with_source(error))
}

/// Why a statement failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Failure {
    Kind(ErrorKind),
    /// There is no table of marks.
    NoTable,
    /// The table of marks has not the columns that are needed.
    Shape,
}

impl Failure {
    /// Of a statement in a transaction that nobody has asked to commit, nothing is in doubt.
    fn uncommitted(self) -> Self {
        match self {
            Self::Kind(ErrorKind::Unconfirmed) => Self::Kind(ErrorKind::Unavailable),
            other => other,
        }
    }

    fn kind(self) -> ErrorKind {
        match self {
            Self::Kind(kind) => kind,
            Self::NoTable | Self::Shape => ErrorKind::Unsupported,
        }
    }

    /// Adds what is to be done about it, and the cause.
    fn word(
        self,
        error: Error,
        schema: &str,
        module: &str,
        cause: impl StdError + Send + Sync + 'static,
    ) -> Error {
        let error = match self {
            Self::Kind(_) => error,
            Self::NoTable => error.with_detail(format!(
                "there is no table `portunus_fence`; `portunus_fence::{module}::create_table` \
                 makes it, and so does: {schema}"
            )),
            Self::Shape => {
                error.with_detail(format!("the table `portunus_fence` is another than: {schema}"))
            }
        };
        error.with_source(cause)
    }
}

/// The largest token of a `BIGINT`.
const MAX_TOKEN: u64 = i64::MAX.unsigned_abs();
