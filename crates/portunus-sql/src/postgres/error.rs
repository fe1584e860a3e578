//! What a failure of PostgreSQL means: one decision per error, in one table.

use std::borrow::Cow;
use std::error::Error as _;

use portunus_core::error::ErrorKind;
use tokio_postgres::error::{Severity, SqlState};

use crate::server::failure::Failure;

/// The word for this store in every error.
pub(super) const STORE: &str = "postgres";

/// A failure of work that is confirmed by its answer: without one nobody knows whether it was applied.
pub(super) fn doubtful(cause: tokio_postgres::Error) -> Failure {
    let (kind, detail) = match cause.code() {
        Some(state) => classify(state.code()),
        None => (ErrorKind::Unconfirmed, ""),
    };
    Failure::Sql {
        kind,
        detail: detail.into(),
        spares_connection: spares(&cause),
        cause: cause.into(),
    }
}

/// A failure of work that applies nothing by itself: a reading, or what nobody asked yet to commit.
pub(super) fn harmless(cause: tokio_postgres::Error) -> Failure {
    match doubtful(cause) {
        Failure::Sql { kind: ErrorKind::Unconfirmed, detail, cause, .. } => {
            Failure::Sql { kind: ErrorKind::Unavailable, detail, cause, spares_connection: false }
        }
        other => other,
    }
}

/// A failure to connect, or to find the tables.
pub(super) fn refused(cause: tokio_postgres::Error, has_tls: bool) -> Failure {
    let state = cause.code().map(SqlState::code).unwrap_or_default();
    let asks_for_tls = state == "28000" && !has_tls;
    let (kind, detail): (_, Cow<'static, str>) = match state {
        // The certificate, or the lack of TLS, is the server's or ours to mend.
        "" if is_tls(&cause) => (ErrorKind::Denied, "the TLS handshake failed".into()),
        "" => (ErrorKind::Unavailable, "".into()),
        _ if asks_for_tls => (
            ErrorKind::Denied,
            "the server refuses this user from here in the clear; if it demands TLS, add the options \
             `tls=true` and `ca`"
                .into(),
        ),
        state => {
            let (kind, detail) = classify(state);
            (kind, detail.into())
        }
    };
    Failure::Sql { kind, detail, cause: cause.into(), spares_connection: false }
}

/// The connection is at another server than it was, behind a pooler, or at tables that were made anew.
pub(super) fn moved() -> Failure {
    Failure::Sql {
        kind: ErrorKind::Unavailable,
        detail: "another server took over, or the tables were made anew".into(),
        cause: "the database has another life than when the connection was made".into(),
        spares_connection: false,
    }
}

/// The commit was confirmed by this server, but not by its synchronous standby.
pub(super) fn half_confirmed() -> Failure {
    Failure::Sql {
        kind: ErrorKind::Unconfirmed,
        detail: "the server stopped waiting for its synchronous standby".into(),
        cause: "the commit drew a warning".into(),
        spares_connection: false,
    }
}

pub(super) fn is(failure: &Failure, state: &SqlState) -> bool {
    let Failure::Sql { cause, .. } = failure else { return false };
    let cause = cause.downcast_ref::<tokio_postgres::Error>();
    cause.and_then(tokio_postgres::Error::code) == Some(state)
}

/// The constraint that was violated.
pub(super) fn constraint(failure: &Failure) -> Option<&str> {
    let Failure::Sql { cause, .. } = failure else { return None };
    cause.downcast_ref::<tokio_postgres::Error>()?.as_db_error()?.constraint()
}

/// By SQLSTATE. What the server refuses it has not applied.
fn classify(state: &str) -> (ErrorKind, &'static str) {
    match (state, state.get(..2).unwrap_or_default()) {
        ("42501", _) => (ErrorKind::Denied, GRANTS),
        (_, "28") => (ErrorKind::Denied, ""),
        ("42P01" | "42703" | "3F000", _) => (ErrorKind::Unsupported, TABLES),
        ("3D000", _) => (ErrorKind::Invalid, "there is no such database"),
        // Nobody knows what became of the commit; others than PostgreSQL say so.
        ("40003", _) => (ErrorKind::Unconfirmed, ""),
        ("25006", _) => (ErrorKind::Unavailable, "the server is read-only"),
        ("55P03", _) => (ErrorKind::Unavailable, "somebody's transaction holds a row for too long"),
        // A prepared statement that the server does not know: see `Wire::prepare`.
        ("26000" | "42P05", _) => (ErrorKind::Unavailable, ""),
        // Serialization, deadlock; a transaction that had failed before; a server that is a replica,
        // full, or starting; a statement that was cancelled.
        (_, "40" | "25" | "53" | "55" | "58") | ("57014" | "57P03", _) => {
            (ErrorKind::Unavailable, "")
        }
        // A connection, or a server, that ends under the statement.
        (_, "08" | "57") => (ErrorKind::Unconfirmed, ""),
        // A text that the server's encoding has no characters for, or that holds NUL.
        (_, "22") => (ErrorKind::Invalid, ""),
        _ => (ErrorKind::Protocol, ""),
    }
}

/// Whether the server can be asked on: it refused one statement, and is neither ending nor read-only,
/// which it may stay.
fn spares(cause: &tokio_postgres::Error) -> bool {
    cause.as_db_error().is_some_and(|error| {
        error.parsed_severity() == Some(Severity::Error)
            && *error.code() != SqlState::READ_ONLY_SQL_TRANSACTION
    })
}

fn is_tls(cause: &tokio_postgres::Error) -> bool {
    let mut source = cause.source();
    while let Some(error) = source {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        source = error.source();
    }
    // The client's word where the server answered that it speaks none.
    cause.to_string() == "error performing TLS handshake"
}

const GRANTS: &str = "the role needs SELECT, INSERT, UPDATE and DELETE on the tables that \
    `portunus_sql::postgres::schema_sql()` prints, or CREATE on a schema of its search_path, to make them";
const TABLES: &str = "the tables are not those that `portunus_sql::postgres::schema_sql()` prints";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_says_what_to_do() {
        for (state, kind) in [
            ("42P01", ErrorKind::Unsupported),
            ("42501", ErrorKind::Denied),
            ("28P01", ErrorKind::Denied),
            ("25006", ErrorKind::Unavailable),
            ("26000", ErrorKind::Unavailable),
            ("3D000", ErrorKind::Invalid),
            ("40001", ErrorKind::Unavailable),
            ("40003", ErrorKind::Unconfirmed),
            ("40P01", ErrorKind::Unavailable),
            ("55P03", ErrorKind::Unavailable),
            ("57014", ErrorKind::Unavailable),
            ("57P01", ErrorKind::Unconfirmed),
            ("08007", ErrorKind::Unconfirmed),
            ("22021", ErrorKind::Invalid),
            ("53100", ErrorKind::Unavailable),
            ("XX001", ErrorKind::Protocol),
            ("", ErrorKind::Protocol),
        ] {
            assert_eq!(classify(state).0, kind, "{state}");
        }
        assert!(classify("42501").1.contains("DELETE"));
    }
}
