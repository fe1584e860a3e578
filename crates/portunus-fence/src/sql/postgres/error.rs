//! What a failure of PostgreSQL means: one decision per error, in one table.

use std::error::Error as _;

use portunus_core::error::ErrorKind;
use tokio_postgres::types::WrongType;

use crate::sql::Failure;

pub(super) fn classify(error: &tokio_postgres::Error) -> Failure {
    match error.code() {
        Some(state) => classify_state(state.code()),
        None if error.source().is_some_and(|cause| cause.is::<WrongType>()) => Failure::Shape,
        // The connection ended, and nobody says whether the server had read the statement by then.
        None => Failure::Kind(ErrorKind::Unconfirmed),
    }
}

/// By SQLSTATE. What the server refuses it has not applied.
fn classify_state(state: &str) -> Failure {
    Failure::Kind(match (state, state.get(..2).unwrap_or_default()) {
        ("42P01", _) => return Failure::NoTable,
        ("42501", _) | (_, "28") => ErrorKind::Denied,
        // Nobody knows what became of the commit; others than PostgreSQL say so.
        ("40003", _) => ErrorKind::Unconfirmed,
        // Serialization, deadlock, lock_timeout; a transaction that had failed before; a server that
        // is a replica, full, or starting.
        (_, "40" | "25" | "53" | "55" | "58") | ("57014" | "57P03", _) => ErrorKind::Unavailable,
        // A connection, or a server, that ends under the statement.
        (_, "08" | "57") => ErrorKind::Unconfirmed,
        (_, "0A" | "21" | "22" | "23" | "42" | "54") => return Failure::Shape,
        // No such database, no schema.
        (_, "3D" | "3F") => ErrorKind::Unsupported,
        _ => ErrorKind::Protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_says_what_to_do() {
        for (state, failure) in [
            ("42P01", Failure::NoTable),
            ("42703", Failure::Shape),
            ("23502", Failure::Shape),
            ("42501", Failure::Kind(ErrorKind::Denied)),
            ("28P01", Failure::Kind(ErrorKind::Denied)),
            ("25006", Failure::Kind(ErrorKind::Unavailable)),
            ("3F000", Failure::Kind(ErrorKind::Unsupported)),
            ("40001", Failure::Kind(ErrorKind::Unavailable)),
            ("40003", Failure::Kind(ErrorKind::Unconfirmed)),
            ("40P01", Failure::Kind(ErrorKind::Unavailable)),
            ("55P03", Failure::Kind(ErrorKind::Unavailable)),
            ("57014", Failure::Kind(ErrorKind::Unavailable)),
            ("57P01", Failure::Kind(ErrorKind::Unconfirmed)),
            ("08007", Failure::Kind(ErrorKind::Unconfirmed)),
            ("XX001", Failure::Kind(ErrorKind::Protocol)),
            ("", Failure::Kind(ErrorKind::Protocol)),
        ] {
            assert_eq!(classify_state(state), failure, "{state}");
        }
    }
}
