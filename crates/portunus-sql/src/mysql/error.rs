//! What a failure of MySQL or MariaDB means: one decision per error, in one table.

use std::borrow::Cow;

use mysql_async::{DriverError, IoError, TlsError};
use portunus_core::error::{Error, ErrorKind};

use crate::server::failure::Failure;

/// The word for this store in every error.
pub(super) const STORE: &str = "mysql";

/// How far a request may have come when it fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// Nothing of it can be applied any more: it only reads, or its transaction is not committed.
    Uncommitted,
    /// A statement that is a transaction of its own. What the server refuses is not applied.
    Alone,
    /// A commit, of which the server does not say how far it came.
    Committing,
}

pub(super) fn failure(cause: mysql_async::Error, stage: Stage) -> Failure {
    let (kind, detail) = classify(&cause);
    let kind = match (stage, kind) {
        (Stage::Uncommitted, ErrorKind::Unconfirmed) => ErrorKind::Unavailable,
        // What is refused here was rolled back for a deadlock between nodes.
        (Stage::Committing, kind) if kind != ErrorKind::Unavailable => ErrorKind::Unconfirmed,
        (_, kind) => kind,
    };
    let spares_connection = matches!(code(&cause), Some(code) if PASSING.contains(&code));
    Failure::Sql { kind, detail: detail.into(), cause: Box::new(cause), spares_connection }
}

/// The server has become a replica since it was connected to.
pub(super) fn read_only() -> Failure {
    Failure::Sql {
        kind: ErrorKind::Unavailable,
        detail: READ_ONLY.into(),
        cause: "`read_only` is on".into(),
        spares_connection: false,
    }
}

/// The server's answer makes no sense.
pub(super) fn shape(cause: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Sql {
        kind: ErrorKind::Protocol,
        detail: STRANGE_TABLES.into(),
        cause: Box::new(cause),
        spares_connection: false,
    }
}

pub(super) fn unsuited(kind: ErrorKind, detail: impl Into<Cow<'static, str>>) -> Failure {
    Error::new(kind, STORE, "connect").with_detail(detail).into()
}

/// The number of the server's error, if it is the server's.
pub(super) fn code(cause: &mysql_async::Error) -> Option<u16> {
    match cause {
        mysql_async::Error::Server(error) => Some(error.code),
        _ => None,
    }
}

fn classify(cause: &mysql_async::Error) -> (ErrorKind, &'static str) {
    use mysql_async::Error as E;
    match cause {
        E::Server(error) => classify_code(error.code),
        E::Driver(error) => classify_driver(error),
        E::Io(IoError::Tls(_)) => (ErrorKind::Invalid, TLS_FAILS),
        E::Io(IoError::Io(error)) if is_tls(error) => (ErrorKind::Denied, TLS_FAILS),
        E::Url(_) => (ErrorKind::Invalid, ""),
        E::Io(_) | E::Other(_) => (ErrorKind::Unconfirmed, ""),
    }
}

fn classify_driver(error: &DriverError) -> (ErrorKind, &'static str) {
    use DriverError as D;
    match error {
        D::NoClientSslFlagFromServer => {
            (ErrorKind::Invalid, "the server offers no TLS: leave out `tls`, or turn it on there")
        }
        D::UnknownAuthPlugin { .. } | D::MysqlOldPasswordDisabled | D::CleartextPluginDisabled => {
            (ErrorKind::Unsupported, "the user's way of authentication is none that is known here")
        }
        D::FromRow { .. } | D::FromValue { .. } => (ErrorKind::Protocol, STRANGE_TABLES),
        D::PacketOutOfOrder | D::UnexpectedPacket { .. } | D::StmtParamsMismatch { .. } => {
            (ErrorKind::Protocol, "")
        }
        _ => (ErrorKind::Unconfirmed, ""),
    }
}

/// By the number of the server's error, of MySQL and of MariaDB.
fn classify_code(code: u16) -> (ErrorKind, &'static str) {
    use ErrorKind::{Denied, Invalid, Protocol, Unavailable, Unconfirmed, Unsupported};
    match code {
        // User or password; a user who may not come from this host, is locked, or has to change it.
        1045 | 1698 => (
            Denied,
            "the user or the password is refused; or the user may come only over TLS, by `tls=true`",
        ),
        1130 | 1131 | 1820 | 1862 | 3118 | 4151 => (Denied, "the server refuses the user"),
        1129 => (Denied, "the server has blocked this host for failed logins: `FLUSH HOSTS`"),
        1044 => (Denied, "the user may not use the database"),
        1142 | 1143 | 1227 | 1370 => (Denied, LACKS_PRIVILEGE),
        1046 | 1049 => (Invalid, "there is no such database: `CREATE DATABASE` makes it"),
        3159 => (Invalid, "the server accepts only TLS: add `tls=true` and `ca`"),
        1665 => {
            (Unsupported, "the server's `binlog_format` is STATEMENT; accepted are ROW and MIXED")
        }
        1146 => (Unavailable, "the tables are gone"),
        BUSY | 3572 => (Unavailable, "somebody's transaction holds a row of the locks for long"),
        DEADLOCK | 1020 | 1206 => (Unavailable, "it was in conflict with another transaction"),
        1040 | 1203 | 1226 => (Unavailable, "the server has too many connections"),
        1290 | 1792 | 1836 => (Unavailable, READ_ONLY),
        1021 | 1030 | 1114 => (Unavailable, "the server's disk is full, or fails"),
        1037 | 1038 | 1041 | 1135 => (Unavailable, "the server is short of memory"),
        // It was interrupted, was too slow, or the connection was killed; or the server goes down, or
        // this node of a cluster is none for now.
        1047 | 1053 | 1180 | 1317 | 1927 | 1969 | 3024 | 4031 => (Unconfirmed, ""),
        NO_PARENT | DUPLICATE | 1048 | 1054 | 1064 | 1264 | 1265 | 1366 | 1406 => {
            (Protocol, STRANGE_TABLES)
        }
        _ => (Protocol, ""),
    }
}

fn is_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<rustls::Error>())
}

/// Whether the private key is not that of the certificate.
pub(super) fn is_mismatch(cause: &mysql_async::Error) -> bool {
    let mysql_async::Error::Io(IoError::Tls(TlsError::Tls(error))) = cause else { return false };
    matches!(error, rustls::Error::InconsistentKeys(_))
}

/// A row could not be had in time; the transaction goes on.
pub(super) const BUSY: u16 = 1205;
const DEADLOCK: u16 = 1213;
/// A row that another refers to is not there.
pub(super) const NO_PARENT: u16 = 1452;
pub(super) const DUPLICATE: u16 = 1062;

/// After these there is nothing wrong with the connection.
const PASSING: [u16; 6] = [BUSY, 3572, DEADLOCK, 1020, NO_PARENT, DUPLICATE];

const READ_ONLY: &str = "the server is read-only now, as a replica is";
const STRANGE_TABLES: &str = "the tables are not as this crate made them";
const TLS_FAILS: &str = "TLS with the server fails";
const LACKS_PRIVILEGE: &str = "the user lacks a privilege: SELECT, INSERT, UPDATE and DELETE on the \
    tables `portunus_%`, and CREATE and REFERENCES on the database, unless somebody else makes them by \
    `portunus_sql::mysql::schema_sql()`";

#[cfg(test)]
mod tests {
    use mysql_async::ServerError;

    use super::*;
    use ErrorKind::{Denied, Invalid, Protocol, Unavailable, Unconfirmed, Unsupported};

    fn server(code: u16) -> mysql_async::Error {
        let (message, state) = (String::new(), String::new());
        mysql_async::Error::Server(ServerError { code, message, state })
    }

    fn io() -> mysql_async::Error {
        mysql_async::Error::Io(IoError::Io(std::io::ErrorKind::BrokenPipe.into()))
    }

    fn kind(cause: mysql_async::Error, stage: Stage) -> ErrorKind {
        failure(cause, stage).into_error(STORE, "enter", None).kind()
    }

    #[test]
    fn every_failure_has_one_meaning() {
        for (code, kinds) in [
            (1045, [Denied, Denied, Unconfirmed]),
            (1142, [Denied, Denied, Unconfirmed]),
            (1049, [Invalid, Invalid, Unconfirmed]),
            (3159, [Invalid, Invalid, Unconfirmed]),
            (1665, [Unsupported, Unsupported, Unconfirmed]),
            (1205, [Unavailable; 3]),
            (1213, [Unavailable; 3]),
            (1290, [Unavailable; 3]),
            (1114, [Unavailable; 3]),
            (1053, [Unavailable, Unconfirmed, Unconfirmed]),
            (1180, [Unavailable, Unconfirmed, Unconfirmed]),
            (1317, [Unavailable, Unconfirmed, Unconfirmed]),
            (1927, [Unavailable, Unconfirmed, Unconfirmed]),
            (1054, [Protocol, Protocol, Unconfirmed]),
            (9999, [Protocol, Protocol, Unconfirmed]),
        ] {
            let stages = [Stage::Uncommitted, Stage::Alone, Stage::Committing];
            assert_eq!(stages.map(|stage| kind(server(code), stage)), kinds, "{code}");
        }
        assert_eq!(kind(io(), Stage::Uncommitted), Unavailable);
        assert_eq!(kind(io(), Stage::Alone), Unconfirmed);
        assert_eq!(kind(io(), Stage::Committing), Unconfirmed);
    }

    #[test]
    fn only_what_passes_spares_the_connection() {
        let spares = |cause| failure(cause, Stage::Uncommitted).spares_connection();
        assert!(spares(server(BUSY)) && spares(server(DEADLOCK)) && spares(server(DUPLICATE)));
        assert!(!spares(server(1290)) && !spares(server(1317)) && !spares(io()));
    }
}
