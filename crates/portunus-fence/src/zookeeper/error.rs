//! What a failure of ZooKeeper means: one decision per error of the client library, in one table.

use portunus_core::error::{Error, ErrorKind};
use zookeeper_client::Error as ClientError;

use crate::call::{Call, Effect};

pub(super) fn failed(call: &Call, error: ClientError, effect: Effect) -> Error {
    let kind = effect.kind(classify(&error));
    let over = matches!(error, ClientError::SessionExpired | ClientError::ClientClosed);
    let error = call.error(kind).with_source(error);
    if over {
        return error.with_detail("the client's session is over: make a fence with another client");
    }
    error
}

/// Decides what a failure means. `Unavailable` only when the request was certainly not applied; what
/// is not on the list is in doubt.
fn classify(error: &ClientError) -> ErrorKind {
    use ErrorKind::{Denied, Invalid, Protocol, Unavailable, Unconfirmed, Unsupported};
    match error {
        ClientError::NoAuth | ClientError::InvalidAcl | ClientError::AuthFailed => Denied,
        ClientError::QuotaExceeded
        | ClientError::Throttled
        | ClientError::NotReadOnly
        | ClientError::SessionMoved
        | ClientError::NoHosts => Unavailable,
        ClientError::Unimplemented => Unsupported,
        ClientError::BadArguments(_) | ClientError::NoChildrenForEphemerals => Invalid,
        ClientError::NoNode
        | ClientError::NodeExists
        | ClientError::BadVersion
        | ClientError::NotEmpty
        | ClientError::NoWatcher
        | ClientError::MarshallingError
        | ClientError::ReconfigDisabled
        | ClientError::RuntimeInconsistent => Protocol,
        _ => Unconfirmed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::{Denied, Invalid, Protocol, Unavailable, Unconfirmed, Unsupported};

    #[test]
    fn every_failure_has_one_meaning() {
        for (error, kind) in [
            (ClientError::NoAuth, Denied),
            (ClientError::InvalidAcl, Denied),
            (ClientError::AuthFailed, Denied),
            (ClientError::QuotaExceeded, Unavailable),
            (ClientError::Throttled, Unavailable),
            (ClientError::NotReadOnly, Unavailable),
            (ClientError::SessionMoved, Unavailable),
            (ClientError::NoHosts, Unavailable),
            (ClientError::Unimplemented, Unsupported),
            (ClientError::BadArguments(&"x"), Invalid),
            (ClientError::NoChildrenForEphemerals, Invalid),
            (ClientError::NoNode, Protocol),
            (ClientError::MarshallingError, Protocol),
            (ClientError::ConnectionLoss, Unconfirmed),
            (ClientError::SessionExpired, Unconfirmed),
            (ClientError::ClientClosed, Unconfirmed),
            (ClientError::Timeout, Unconfirmed),
            (ClientError::UnexpectedErrorCode(-1), Unconfirmed),
            (ClientError::UnexpectedError("x".into()), Unconfirmed),
        ] {
            assert_eq!(classify(&error), kind, "{error}");
            let call = Call::new("zookeeper fence", "check", "a").unwrap();
            let read = if kind == Unconfirmed { Unavailable } else { kind };
            assert_eq!(failed(&call, error, Effect::Read).kind(), read);
        }
    }
}
