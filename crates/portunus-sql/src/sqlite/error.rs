//! What a failure means: one decision per code of SQLite, in one table, and the transactions in which
//! failures arise.

use portunus_core::error::{Error, ErrorKind};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

/// The word for this store in every error.
pub(crate) const STORE: &str = "sqlite";

/// The result of work on a connection.
pub(super) type Fallible<T> = Result<T, Failure>;

/// A failed piece of work, before it is known what it was for.
#[derive(Debug)]
pub(super) enum Failure {
    /// SQLite refused.
    Sql { cause: rusqlite::Error, committing: bool },
    /// Decided here.
    Ours(Error),
}

impl Failure {
    fn committing(cause: rusqlite::Error) -> Self {
        Self::Sql { cause, committing: true }
    }

    pub(super) fn into_error(self, operation: &'static str, key: Option<&str>) -> Error {
        let (cause, committing) = match self {
            Self::Ours(error) if error.key().is_some() => return error,
            Self::Ours(error) => return key.map_or(error.clone(), |key| error.with_key(key)),
            Self::Sql { cause, committing } => (cause, committing),
        };
        let (kind, detail) = classify(&cause, committing);
        let mut error = Error::new(kind, STORE, operation).with_source(cause);
        if let Some(key) = key {
            error = error.with_key(key);
        }
        if detail.is_empty() { error } else { error.with_detail(detail) }
    }

    /// Whether the connection may be at fault, so that the next request gets a new one.
    pub(super) fn spoils_connection(&self) -> bool {
        use ErrorCode::{DatabaseBusy, DatabaseLocked};
        match self {
            Self::Ours(_) => false,
            Self::Sql { cause, .. } => {
                !matches!(cause.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
            }
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(cause: rusqlite::Error) -> Self {
        Self::Sql { cause, committing: false }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

/// Runs `work` in a transaction that writes; two that read first and then want to write would make
/// each other fail.
pub(super) fn write<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Fallible<T>,
) -> Fallible<T> {
    write_if(connection, |transaction| Ok((work(transaction)?, true)))
}

/// The same for work that says whether it is to stay.
pub(super) fn write_if<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Fallible<(T, bool)>,
) -> Fallible<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (done, stays) = work(&transaction)?;
    match stays {
        true => transaction.commit().map_err(Failure::committing)?,
        false => transaction.rollback()?,
    }
    Ok(done)
}

/// Runs `work` on one state of the file.
pub(super) fn read<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Fallible<T>,
) -> Fallible<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let done = work(&transaction)?;
    transaction.rollback()?;
    Ok(done)
}

/// Decides what a failure means. Nothing is in doubt but a commit that the disk failed.
fn classify(cause: &rusqlite::Error, committing: bool) -> (ErrorKind, &'static str) {
    use ErrorCode as C;
    use ErrorKind::{Denied, Invalid, Protocol, Unavailable, Unconfirmed};
    let Some(code) = cause.sqlite_error_code() else { return (Protocol, "") };
    match code {
        C::DatabaseBusy | C::DatabaseLocked => {
            (Unavailable, "another program has been writing to the file all the time")
        }
        C::DiskFull => (Unavailable, "the disk is full"),
        C::OutOfMemory | C::OperationAborted | C::OperationInterrupted => (Unavailable, ""),
        C::FileLockingProtocolFailed => (Unavailable, "the file's locks can't be had"),
        C::CannotOpen => (Unavailable, "the file can't be opened"),
        C::SystemIoFailure if committing => (Unconfirmed, "the disk failed"),
        C::SystemIoFailure => (Unavailable, "the disk failed"),
        C::ReadOnly | C::PermissionDenied | C::AuthorizationForStatementDenied => {
            (Denied, "this process may not write to the file, or not into its directory")
        }
        C::NotADatabase => (Invalid, "the file is something else than an SQLite database"),
        C::DatabaseCorrupt => (Protocol, "the file is damaged: see `PRAGMA integrity_check`"),
        C::Unknown | C::ConstraintViolation | C::TypeMismatch | C::SchemaChanged => {
            (Protocol, "the tables are not as this crate made them")
        }
        _ => (Protocol, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::{Denied, Invalid, Protocol, Unavailable, Unconfirmed};
    use rusqlite::ffi;

    #[test]
    fn every_failure_has_one_meaning() {
        let table = [
            (ffi::SQLITE_BUSY, Unavailable, Unavailable),
            (ffi::SQLITE_LOCKED, Unavailable, Unavailable),
            (ffi::SQLITE_FULL, Unavailable, Unavailable),
            (ffi::SQLITE_NOMEM, Unavailable, Unavailable),
            (ffi::SQLITE_PROTOCOL, Unavailable, Unavailable),
            (ffi::SQLITE_CANTOPEN, Unavailable, Unavailable),
            (ffi::SQLITE_IOERR, Unavailable, Unconfirmed),
            (ffi::SQLITE_READONLY, Denied, Denied),
            (ffi::SQLITE_PERM, Denied, Denied),
            (ffi::SQLITE_NOTADB, Invalid, Invalid),
            (ffi::SQLITE_CORRUPT, Protocol, Protocol),
            (ffi::SQLITE_ERROR, Protocol, Protocol),
            (ffi::SQLITE_CONSTRAINT, Protocol, Protocol),
        ];
        for (code, before, committing) in table {
            let cause = || rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            let kind = Failure::from(cause()).into_error("enter", Some("a")).kind();
            assert_eq!(kind, before, "{code}");
            assert_eq!(Failure::committing(cause()).into_error("enter", None).kind(), committing);
        }
    }

    #[test]
    fn a_busy_file_spoils_no_connection() {
        let failed =
            |code| Failure::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        assert!(!failed(ffi::SQLITE_BUSY).spoils_connection());
        assert!(failed(ffi::SQLITE_IOERR).spoils_connection());
    }
}
