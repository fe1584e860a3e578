//! What a failure of a server means: one decision per answer, in one table.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

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

/// Why there is no connection. Nothing of ours was sent.
pub(crate) fn unconnected(operation: &'static str, server: &str, error: RedisError) -> Error {
    let kind = match classify(&error) {
        kind @ (ErrorKind::Denied | ErrorKind::Invalid) => kind,
        _ if is_tls(&error) => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    };
    let detail = match kind {
        ErrorKind::Denied if is_tls(&error) => format!("TLS with {server} fails"),
        // Neither side says what it takes the other's bytes for.
        ErrorKind::Unavailable if error.is_io_error() && !error.is_connection_refusal() => format!(
            "{server} can't be connected to; it may be that one side speaks TLS and the other does not"
        ),
        _ => format!("{server} can't be connected to"),
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

/// Whether TLS failed, by what either side found wrong with the other.
fn is_tls(error: &RedisError) -> bool {
    // The client keeps its causes in this, and the input error does not show its own as a source.
    let cause =
        error.source().and_then(|cause| cause.downcast_ref::<Arc<dyn StdError + Send + Sync>>());
    let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.and_then(io::Error::get_ref).is_some_and(|cause| cause.is::<rustls::Error>())
}

/// Two names lead to the server of this run id.
#[derive(Debug)]
pub(crate) struct SameServer(pub(crate) String);

impl fmt::Display for SameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "both have the run id {}", self.0)
    }
}

impl StdError for SameServer {}

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

    #[test]
    fn without_a_connection_nothing_is_in_doubt() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        for (error, kind, text) in [
            (io::Error::other(tls), Denied, "TLS with a:1 fails"),
            (io::ErrorKind::BrokenPipe.into(), Unavailable, "one side speaks TLS"),
            (io::ErrorKind::ConnectionRefused.into(), Unavailable, "can't be connected to: "),
        ] as [(io::Error, _, _); 3]
        {
            let told = unconnected("connect", "a:1", error.into());
            assert_eq!(told.kind(), kind, "{told:#}");
            assert!(format!("{told:#}").contains(text), "{told:#}");
        }
        assert_eq!(unconnected("connect", "a:1", server("NOAUTH x")).kind(), Denied);
    }
}
