//! A failed piece of work, before it is known what it was for.

use std::borrow::Cow;

use portunus_core::error::{Error, ErrorKind};

/// The result of work on a connection.
pub(crate) type Fallible<T> = Result<T, Failure>;

/// What failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server or the way to it; its client's error was classified by the database's `error.rs`.
    Sql {
        kind: ErrorKind,
        /// For people; empty where the cause says it all.
        detail: Cow<'static, str>,
        cause: Box<dyn std::error::Error + Send + Sync>,
        /// Whether the connection can be used on: the server refused one transaction, which was
        /// rolled back, and nothing is wrong with the rest.
        spares_connection: bool,
    },
    /// Decided here; nothing is wrong with the connection.
    Ours(Error),
}

impl Failure {
    pub(crate) fn spares_connection(&self) -> bool {
        match self {
            Self::Sql { spares_connection, .. } => *spares_connection,
            Self::Ours(_) => true,
        }
    }

    pub(crate) fn into_error(
        self,
        store: &'static str,
        operation: &'static str,
        key: Option<&str>,
    ) -> Error {
        let (kind, detail, cause) = match self {
            Self::Ours(error) if error.key().is_some() => return error,
            Self::Ours(error) => return key.map_or(error.clone(), |key| error.with_key(key)),
            Self::Sql { kind, detail, cause, .. } => (kind, detail, cause),
        };
        let mut error = Error::new(kind, store, operation).with_source(cause);
        if let Some(key) = key {
            error = error.with_key(key);
        }
        if detail.is_empty() { error } else { error.with_detail(detail) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}
