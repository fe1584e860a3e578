//! What a failure of SQLite means: one decision per error, in one table.

use portunus_core::error::ErrorKind;

use crate::sql::Failure;

pub(super) fn classify(error: &rusqlite::Error) -> Failure {
    use rusqlite::{Error as E, ErrorCode as C};
    let (code, message) = match error {
        E::SqliteFailure(failure, message) => (failure.code, message.as_deref().unwrap_or("")),
        E::SqlInputError { error, msg, .. } => (error.code, msg.as_str()),
        E::InvalidColumnType(..) | E::IntegralValueOutOfRange(..) | E::Utf8Error(..) => {
            return Failure::Shape;
        }
        _ => return Failure::Kind(ErrorKind::Protocol),
    };
    match code {
        // SQLITE_ERROR, that is, the statement is wrong: the table must be.
        C::Unknown if message.starts_with("no such table") => Failure::NoTable,
        C::Unknown | C::ConstraintViolation | C::TypeMismatch | C::SchemaChanged => Failure::Shape,
        C::ReadOnly | C::PermissionDenied | C::AuthorizationForStatementDenied => {
            Failure::Kind(ErrorKind::Denied)
        }
        C::DatabaseBusy
        | C::DatabaseLocked
        | C::CannotOpen
        | C::DiskFull
        | C::FileLockingProtocolFailed
        | C::OperationAborted
        | C::OperationInterrupted
        | C::OutOfMemory => Failure::Kind(ErrorKind::Unavailable),
        C::SystemIoFailure => Failure::Kind(ErrorKind::Unconfirmed),
        _ => Failure::Kind(ErrorKind::Protocol),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn a_code_says_what_to_do() {
        for (code, failure) in [
            (ffi::SQLITE_ERROR, Failure::Shape),
            (ffi::SQLITE_CONSTRAINT_CHECK, Failure::Shape),
            (ffi::SQLITE_READONLY, Failure::Kind(ErrorKind::Denied)),
            (ffi::SQLITE_BUSY_SNAPSHOT, Failure::Kind(ErrorKind::Unavailable)),
            (ffi::SQLITE_FULL, Failure::Kind(ErrorKind::Unavailable)),
            (ffi::SQLITE_IOERR_FSYNC, Failure::Kind(ErrorKind::Unconfirmed)),
            (ffi::SQLITE_NOTADB, Failure::Kind(ErrorKind::Protocol)),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(classify(&error), failure, "{code}");
        }
        let disk = Failure::Kind(ErrorKind::Unconfirmed).uncommitted();
        assert_eq!(disk, Failure::Kind(ErrorKind::Unavailable));
    }
}
