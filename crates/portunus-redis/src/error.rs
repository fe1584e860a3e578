//! What a failure of a server means: one decision per answer, in one table.

use portunus_core::error::{Error, ErrorKind};
use redis::{ErrorKind as ClientKind, RedisError, ServerErrorKind};

/// The store's name in errors and tables.
pub(crate) const STORE: &str = "redis";

pub(crate) fn failed(operation: &'static str, server: &str, error: RedisError) -> Error {
    let kind = classify(&error);
    let detail = match kind {
        ErrorKind::Denied => format!("{server} refused the credentials or a command"),
        _ => format!("by {server}"),
    };
    Error::new(kind, STORE, operation).with_detail(detail).with_source(error)
}

pub(crate) fn error(kind: ErrorKind, operation: &'static str) -> Error {
    Error::new(kind, STORE, operation)
}

/// Decides what a failure means. `Unavailable` only when the request certainly changed nothing: a
/// script of ours ends with an error only before its first change.
pub(crate) fn classify(error: &RedisError) -> ErrorKind {
    use ErrorKind::{Denied, Invalid, Protocol, Unavailable, Unconfirmed};
    if error.is_connection_refusal() {
        return Unavailable;
    }
    match error.kind() {
        ClientKind::AuthenticationFailed => Denied,
        ClientKind::InvalidClientConfig => Invalid,
        ClientKind::Server(kind) => match kind {
            ServerErrorKind::NoPerm => Denied,
            ServerErrorKind::BusyLoading
            | ServerErrorKind::NoScript
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly => Unavailable,
            _ if denied(&error.to_string()) => Denied,
            _ => Protocol,
        },
        ClientKind::Extension => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => Denied,
            Some("BUSY" | "MISCONF" | "NOREPLICAS" | "OOM") => Unavailable,
            _ => Unconfirmed,
        },
        _ => Unconfirmed,
    }
}

/// Whether a command inside a script was refused: it ends the script with another code.
fn denied(text: &str) -> bool {
    text.contains("ACL failure") || text.contains("NOPERM")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::{Denied, Invalid, Protocol, Unavailable, Unconfirmed};

    fn server(line: &str) -> RedisError {
        let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        reply.extract_error().unwrap_err()
    }

    #[test]
    fn every_failure_has_one_meaning() {
        let io = |kind| RedisError::from(std::io::Error::from(kind));
        for (error, kind) in [
            (server("NOPERM this user has no permissions to run 'evalsha'"), Denied),
            (server("ERR ACL failure in script: this user has no permissions"), Denied),
            (server("NOAUTH Authentication required."), Denied),
            (server("WRONGPASS invalid username-password pair"), Denied),
            (RedisError::from((ClientKind::AuthenticationFailed, "x")), Denied),
            (server("LOADING Redis is loading the dataset in memory"), Unavailable),
            (server("READONLY You can't write against a read only replica."), Unavailable),
            (server("NOREPLICAS Not enough good replicas to write."), Unavailable),
            (server("MISCONF Redis is configured to save RDB snapshots"), Unavailable),
            (server("OOM command not allowed when used memory > 'maxmemory'."), Unavailable),
            (server("BUSY Redis is busy running a script."), Unavailable),
            (server("MOVED 3999 127.0.0.1:6381"), Unavailable),
            (server("CLUSTERDOWN Hash slot not served"), Unavailable),
            (server("ERR unknown command 'EVALSHA'"), Protocol),
            (server("STRANGE and new"), Unconfirmed),
            (io(std::io::ErrorKind::ConnectionRefused), Unavailable),
            (io(std::io::ErrorKind::BrokenPipe), Unconfirmed),
            (io(std::io::ErrorKind::TimedOut), Unconfirmed),
            (RedisError::from((ClientKind::Parse, "x")), Unconfirmed),
            (RedisError::from((ClientKind::InvalidClientConfig, "x")), Invalid),
        ] {
            assert_eq!(classify(&error), kind, "{error}");
        }
    }
}
