//! What a failure of etcd means: one decision per message of the server, in one table.

use std::error::Error as StdError;
use std::fmt;

use etcd_client::Error as ClientError;
use portunus_core::error::{Error, ErrorKind};
use tonic::{Code, ConnectError, Status};

use crate::call::{Call, Effect};

pub(super) fn failed(call: &Call, error: ClientError, effect: Effect) -> Error {
    let kind = effect.kind(classify(&error));
    call.error(kind).with_source(Cause(error))
}

/// Decides what a failure means. `Unavailable` only when the request was certainly not applied.
fn classify(error: &ClientError) -> ErrorKind {
    match error {
        ClientError::GRpcStatus(status) => classify_status(status),
        ClientError::InvalidArgs(_)
        | ClientError::InvalidUri(_)
        | ClientError::InvalidMetadataValue(_) => ErrorKind::Invalid,
        ClientError::TransportError(_) => ErrorKind::Unavailable,
        _ => ErrorKind::Unconfirmed,
    }
}

fn classify_status(status: &Status) -> ErrorKind {
    use ErrorKind::{Denied, Invalid, Protocol, Unavailable, Unconfirmed, Unsupported};
    if let Some((_, kind)) = TEXTS.iter().find(|(text, _)| status.message().contains(text)) {
        return *kind;
    }
    if causes(status).any(<dyn StdError>::is::<ConnectError>) {
        return Unavailable;
    }
    match status.code() {
        Code::PermissionDenied => Denied,
        Code::Unauthenticated => Unavailable,
        Code::Unimplemented => Unsupported,
        Code::InvalidArgument => Invalid,
        Code::Ok
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => Protocol,
        _ => Unconfirmed,
    }
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
}

/// Texts of the server (`api/v3rpc/rpctypes/error.go`), which are stabler than its codes.
const TEXTS: &[(&str, ErrorKind)] = &[
    ("permission denied", ErrorKind::Denied),
    ("invalid user ID or password", ErrorKind::Denied),
    ("user name is empty", ErrorKind::Denied),
    ("user name not found", ErrorKind::Denied),
    ("authentication is not enabled", ErrorKind::Denied),
    ("invalid auth token", ErrorKind::Unavailable),
    ("revision of auth store is old", ErrorKind::Unavailable),
    // Of a lease in the caller's own step: nothing of it was done.
    ("requested lease not found", ErrorKind::Invalid),
    // Applied all the same when it is this very request that crosses the limit
    // (`quotaApplierV3.Txn` applies, then replaces the answer).
    ("database space exceeded", ErrorKind::Unconfirmed),
    // Of gRPC, before the server looks at a request.
    ("received message larger than max", ErrorKind::Invalid),
    ("too many requests", ErrorKind::Unavailable),
    ("etcdserver: no leader", ErrorKind::Unavailable),
    ("not supported for learner", ErrorKind::Unavailable),
];

/// The client's error with the chain that it hides: its `source` is always `None`.
#[derive(Debug)]
struct Cause(ClientError);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ClientError::GRpcStatus(status) => {
                write!(f, "{:?}: {}", status.code(), status.message())
            }
            other => fmt::Display::fmt(other, f),
        }
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            ClientError::GRpcStatus(status) => status.source(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::{Denied, Invalid, Unavailable, Unconfirmed, Unsupported};

    fn status(code: Code, text: &str) -> ClientError {
        ClientError::GRpcStatus(Status::new(code, text))
    }

    #[test]
    fn every_failure_has_one_meaning() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let refused = Status::from_error(Box::new(ConnectError(Box::new(refused))));
        #[rustfmt::skip]
        let table = [
            (ClientError::GRpcStatus(refused), Unavailable),
            (status(Code::PermissionDenied, "etcdserver: permission denied"), Denied),
            (status(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"), Denied),
            (status(Code::InvalidArgument, "etcdserver: user name is empty"), Denied),
            (status(Code::Unauthenticated, "etcdserver: invalid auth token"), Unavailable),
            (status(Code::InvalidArgument, "etcdserver: revision of auth store is old"), Unavailable),
            (status(Code::InvalidArgument, "etcdserver: request is too large"), Invalid),
            (status(Code::InvalidArgument, "etcdserver: too many operations in txn request"), Invalid),
            (status(Code::InvalidArgument, "etcdserver: duplicate key given in txn request"), Invalid),
            (status(Code::NotFound, "etcdserver: requested lease not found"), Invalid),
            (status(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), Unconfirmed),
            (status(Code::ResourceExhausted, "grpc: received message larger than max (3 vs. 2)"), Invalid),
            (status(Code::ResourceExhausted, "etcdserver: too many requests"), Unavailable),
            (status(Code::Unavailable, "etcdserver: no leader"), Unavailable),
            (status(Code::Unavailable, "etcdserver: request timed out"), Unconfirmed),
            (status(Code::Unavailable, "etcdserver: leader changed"), Unconfirmed),
            (status(Code::Cancelled, "Timeout expired"), Unconfirmed),
            (status(Code::Unknown, "h2 protocol error"), Unconfirmed),
            (status(Code::Unimplemented, "unknown service"), Unsupported),
            (ClientError::IoError(std::io::Error::other("x")), Unconfirmed),
            (ClientError::InvalidArgs("x".into()), Invalid),
        ];
        for (error, kind) in table {
            assert_eq!(classify(&error), kind, "{error}");
            let call = Call::new("etcd fence", "check", "a").unwrap();
            let read = if kind == Unconfirmed { Unavailable } else { kind };
            assert_eq!(failed(&call, error, Effect::Read).kind(), read);
        }
    }
}
