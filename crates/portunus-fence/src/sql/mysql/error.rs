//! What a failure of MySQL or MariaDB means: one decision per error, in one table.

use mysql_async::DriverError;
use portunus_core::error::ErrorKind;

use crate::sql::Failure;

pub(super) fn classify(error: &mysql_async::Error) -> Failure {
    use mysql_async::Error as E;
    match error {
        E::Server(error) => classify_code(error.code),
        E::Driver(DriverError::PoolDisconnected) => Failure::Kind(ErrorKind::Unavailable),
        E::Driver(DriverError::FromRow { .. } | DriverError::FromValue { .. }) => Failure::Shape,
        E::Driver(DriverError::PacketOutOfOrder | DriverError::UnexpectedPacket { .. }) => {
            Failure::Kind(ErrorKind::Protocol)
        }
        E::Url(_) => Failure::Kind(ErrorKind::Invalid),
        E::Driver(_) | E::Io(_) | E::Other(_) => Failure::Kind(ErrorKind::Unconfirmed),
    }
}

/// By the number of the server's error, of MySQL and of MariaDB.
fn classify_code(code: u16) -> Failure {
    Failure::Kind(match code {
        1146 => return Failure::NoTable,
        // Host, database, user, password, table, column, routine; SUPER; a user without a plugin.
        1130 | 1044 | 1045 | 1142 | 1143 | 1370 | 1227 | 1698 => ErrorKind::Denied,
        // A transaction that is READ ONLY, a packet that is too large.
        1792 | 1153 => ErrorKind::Invalid,
        // No database, or an unknown one.
        1046 | 1049 => ErrorKind::Unsupported,
        // Lock timeout, deadlock, snapshot too old (MariaDB), too many locks.
        1205 | 1213 | 1020 | 1206
        // Too many connections, of all or of this user.
        | 1040 | 1203 | 1226
        // A server that is read-only, as a replica is.
        | 1290 | 1836
        // Memory, disk, table full.
        | 1021 | 1030 | 1037 | 1038 | 1041 | 1114 => ErrorKind::Unavailable,
        // Interrupted, or too slow, or the server goes down, or the connection was killed.
        1053 | 1180 | 1317 | 1927 | 1969 | 3024 => ErrorKind::Unconfirmed,
        // A null, a column, a default, a duplicate of another key, no table but a view, foreign keys,
        // range, length, text, check.
        1048 | 1054 | 1364 | 1062 | 1347 | 1471 | 1451 | 1452 | 1264 | 1265 | 1267 | 1366 | 1406
        | 3819 | 4025 => return Failure::Shape,
        _ => ErrorKind::Protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_says_what_to_do() {
        for (code, failure) in [
            (1146, Failure::NoTable),
            (1054, Failure::Shape),
            (1792, Failure::Kind(ErrorKind::Invalid)),
            (1049, Failure::Kind(ErrorKind::Unsupported)),
            (1044, Failure::Kind(ErrorKind::Denied)),
            (1045, Failure::Kind(ErrorKind::Denied)),
            (1142, Failure::Kind(ErrorKind::Denied)),
            (1143, Failure::Kind(ErrorKind::Denied)),
            (1020, Failure::Kind(ErrorKind::Unavailable)),
            (1205, Failure::Kind(ErrorKind::Unavailable)),
            (1213, Failure::Kind(ErrorKind::Unavailable)),
            (1290, Failure::Kind(ErrorKind::Unavailable)),
            (1053, Failure::Kind(ErrorKind::Unconfirmed)),
            (1, Failure::Kind(ErrorKind::Protocol)),
        ] {
            assert_eq!(classify_code(code), failure, "{code}");
        }
    }
}
