//! What a failure of Redis means: one decision per answer of the server, in one table.

use portunus_core::error::{Error, ErrorKind};
use redis::{ErrorKind as ClientKind, RedisError, ServerErrorKind};

use crate::call::{Call, Effect};

pub(super) fn failed(call: &Call, error: RedisError, effect: Effect) -> Error {
    let kind = effect.kind(classify(&error));
    call.error(kind).with_source(error)
}

/// One of the caller's commands failed in the script.
pub(super) fn failed_command(call: &Call, number: i64, error: &str) -> Error {
    let begins = |words: &[&str]| words.iter().any(|word| error.starts_with(word));
    let kind = if begins(&["NOPERM"]) || error.contains("ACL failure") {
        ErrorKind::Denied
    } else if number == 1 && begins(&["OOM", "READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN"]) {
        // It takes no writes at all now; none was applied.
        ErrorKind::Unavailable
    } else {
        ErrorKind::Protocol
    };
    call.error(kind).with_detail(format!(
        "command {number} of the step failed; the mark is raised and those before it are applied, \
         this and those after it are not: {error}"
    ))
}

/// Decides what a failure means. `Unavailable` only when the script certainly changed nothing: it
/// ends with an error only before its first change.
fn classify(error: &RedisError) -> ErrorKind {
    use ErrorKind::{Denied, Invalid, Protocol, Unavailable, Unconfirmed};
    if error.is_connection_refusal() {
        return Unavailable;
    }
    match error.kind() {
        ClientKind::AuthenticationFailed => Denied,
        ClientKind::InvalidClientConfig => Invalid,
        ClientKind::ClusterConnectionNotFound
        | ClientKind::MasterNameNotFoundBySentinel
        | ClientKind::NoValidReplicasFoundBySentinel
        | ClientKind::EmptySentinelList => Unavailable,
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
            (server("CROSSSLOT Keys in request don't hash to the same slot"), Protocol),
            (server("STRANGE and new"), Unconfirmed),
            (io(std::io::ErrorKind::ConnectionRefused), Unavailable),
            (io(std::io::ErrorKind::BrokenPipe), Unconfirmed),
            (io(std::io::ErrorKind::TimedOut), Unconfirmed),
            (RedisError::from((ClientKind::Parse, "x")), Unconfirmed),
            (RedisError::from((ClientKind::InvalidClientConfig, "x")), Invalid),
        ] {
            assert_eq!(classify(&error), kind, "{error}");
            let call = Call::new("redis fence", "check", "a").unwrap();
            let read = if kind == Unconfirmed { Unavailable } else { kind };
            assert_eq!(failed(&call, error, Effect::Read).kind(), read);
        }
    }
}
