//! What a failure means: one decision per message of the server, in one table.

use std::error::Error as StdError;
use std::fmt;

use etcd_client::Error as ClientError;
use portunus_core::error::{Error, ErrorKind};
use tonic::{Code, ConnectError, Status};

/// The word for this store in every error.
pub(crate) const STORE: &str = "etcd";

/// Whether a request can change anything: a lost answer to a read leaves no doubt behind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effect {
    Read,
    Write,
}

/// What [`classify`] decides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) kind: ErrorKind,
    /// Whether a working server answered; otherwise the next request goes to another one.
    pub(crate) answered: bool,
    detail: &'static str,
}

/// A failed request, before it is known what it was for.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) verdict: Verdict,
    /// The member that did not answer.
    member: Option<String>,
    cause: Cause,
}

impl Fault {
    pub(crate) fn new(error: ClientError, effect: Effect) -> Self {
        Self { verdict: classify(&error, effect), member: None, cause: Cause(error) }
    }

    /// Names the member that did not answer.
    pub(crate) fn at(&mut self, member: &str) {
        self.member = Some(member.to_owned());
    }

    /// Says what to look at when no request was ever answered and connections just close: a server
    /// that refuses a TLS 1.3 client's certificate does no more than that.
    pub(crate) fn hint(&mut self) {
        let ClientError::GRpcStatus(status) = &self.cause.0 else { return };
        let chain: String = causes(status).map(|cause| cause.to_string()).collect();
        if CLOSED_TEXTS.iter().any(|text| chain.contains(text)) {
            self.verdict.detail = "the server closed the connection: TLS on one side only, or it \
                                   wants a client certificate (`cert`, `key`), or another one";
        }
    }

    /// Whether the store refuses writes for want of space; deletions still work.
    pub(crate) fn is_no_space(&self) -> bool {
        matches!(&self.cause.0, ClientError::GRpcStatus(status)
            if status.message().contains(NO_SPACE))
    }

    pub(crate) fn into_error(self, operation: &'static str, key: Option<&str>) -> Error {
        let mut error = Error::new(self.verdict.kind, STORE, operation).with_source(self.cause);
        if let Some(key) = key {
            error = error.with_key(key);
        }
        match (self.verdict.detail, self.member) {
            ("", None) => error,
            (detail, None) => error.with_detail(detail),
            ("", Some(member)) => error.with_detail(format!("at {member}")),
            (detail, Some(member)) => error.with_detail(format!("{detail} (at {member})")),
        }
    }
}

/// Whether the server wants a newer token. The request was not applied.
pub(crate) fn is_stale_token(error: &ClientError) -> bool {
    matches!(error, ClientError::GRpcStatus(status) if is_stale_token_text(status.message()))
}

/// The same for the reason with which a watch was refused. Server 3.4 says `permission denied` in
/// all cases, so there a new token is worth one try.
pub(crate) fn is_stale_token_reason(reason: &str) -> bool {
    is_stale_token_text(reason) || reason.contains("permission denied") || reason.is_empty()
}

fn is_stale_token_text(text: &str) -> bool {
    text.contains("invalid auth token") || text.contains("revision of auth store is old")
}

/// Decides what a failure means. `Unavailable` only when the request was certainly not applied.
pub(crate) fn classify(error: &ClientError, effect: Effect) -> Verdict {
    use ErrorKind::{Invalid, Lost, Protocol, Unconfirmed};
    let verdict = |kind, answered| Verdict { kind, answered, detail: "" };
    let mut verdict = match error {
        ClientError::GRpcStatus(status) => classify_status(status),
        ClientError::LeaseKeepAliveError(text) if text == "lease not found" => {
            Verdict { detail: "the lease expired or was revoked", ..verdict(Lost, true) }
        }
        ClientError::InvalidArgs(_)
        | ClientError::InvalidUri(_)
        | ClientError::InvalidMetadataValue(_)
        | ClientError::TransportError(_) => verdict(Invalid, true),
        ClientError::Utf8Error(_)
        | ClientError::ElectError(_)
        | ClientError::EndpointsNotManaged => verdict(Protocol, true),
        ClientError::IoError(_)
        | ClientError::WatchError(_)
        | ClientError::LeaseKeepAliveError(_)
        | ClientError::EndpointError(_)
        | ClientError::Internal(_) => verdict(Unconfirmed, false),
        // A variant that a feature adds which another crate of the build turned on.
        #[allow(unreachable_patterns)]
        _ => verdict(Unconfirmed, false),
    };
    if verdict.kind == Unconfirmed && effect == Effect::Read {
        verdict.kind = ErrorKind::Unavailable;
    }
    verdict
}

fn classify_status(status: &Status) -> Verdict {
    use ErrorKind::{Denied, Protocol, Unavailable, Unconfirmed, Unsupported};
    let chain: String = causes(status).map(|cause| cause.to_string()).collect();
    let known = TEXTS.iter().find(|(text, ..)| status.message().contains(text));
    if let Some(&(_, kind, answered, detail)) = known {
        return Verdict { kind, answered, detail };
    }
    if let Some((_, detail)) = TLS_TEXTS.iter().find(|(text, _)| chain.contains(text)) {
        return Verdict { kind: Denied, answered: false, detail };
    }
    if causes(status).any(<dyn StdError>::is::<ConnectError>) {
        return Verdict { kind: Unavailable, answered: false, detail: "no connection" };
    }
    let (kind, answered) = match status.code() {
        Code::PermissionDenied => (Denied, true),
        Code::Unauthenticated => (Unavailable, true),
        Code::Unimplemented => (Unsupported, true),
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => (Protocol, true),
        Code::Unavailable
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss => (Unconfirmed, false),
    };
    Verdict { kind, answered, detail: "" }
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
}

const NO_SPACE: &str = "database space exceeded";

/// Texts of the server (`api/v3rpc/rpctypes/error.go`), which are stabler than its codes; whether
/// a working server said it; and what people should know.
const TEXTS: &[(&str, ErrorKind, bool, &str)] = &[
    ("requested lease not found", ErrorKind::Lost, true, "the lease expired or was revoked"),
    ("lease already exists", ErrorKind::Unavailable, true, "another session has this lease id"),
    ("permission denied", ErrorKind::Denied, true, "the user's role lacks a permission"),
    ("invalid user ID or password", ErrorKind::Denied, true, "wrong user or password"),
    ("user name is empty", ErrorKind::Denied, true, "the server wants `user:password@` in the URL"),
    ("user name not found", ErrorKind::Denied, true, "no such user"),
    (
        "authentication is not enabled",
        ErrorKind::Denied,
        true,
        "the server has no users; drop `user:password@` from the URL",
    ),
    ("invalid auth token", ErrorKind::Unavailable, true, "the new token is not known yet"),
    ("revision of auth store is old", ErrorKind::Unavailable, true, "users or roles just changed"),
    ("too large", ErrorKind::Invalid, true, "the request is larger than the server's limit"),
    // Applied all the same when it is this very request that crosses the limit
    // (`quotaApplierV3.Txn` applies, then replaces the answer).
    (
        NO_SPACE,
        ErrorKind::Unconfirmed,
        true,
        "the store is full: compact and defragment it, then disarm the alarm",
    ),
    ("too many requests", ErrorKind::Unavailable, false, "the server is overloaded"),
    ("etcdserver: no leader", ErrorKind::Unavailable, false, "this member sees no leader"),
    ("not supported for learner", ErrorKind::Unavailable, false, "this member is a learner"),
];

/// Failures of the TLS handshake: no retry cures them.
const TLS_TEXTS: &[(&str, &str)] = &[
    ("invalid peer certificate", "the server's certificate is not signed by `ca`, or not for it"),
    ("CertificateRequired", "the server wants a client certificate: `cert` and `key`"),
    ("BadCertificate", "the server refuses the client certificate"),
    ("UnknownCA", "the server does not know who signed the client certificate"),
    ("CertificateUnknown", "the server refuses the client certificate"),
];

/// How a closed connection reads, depending on who notices when.
const CLOSED_TEXTS: &[&str] =
    &["connection closed", "handshake eof", "Connection reset", "Broken pipe", "broken pipe"];

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
    use ErrorKind::{Denied, Invalid, Lost, Protocol, Unavailable, Unconfirmed, Unsupported};

    fn status(code: Code, text: &str) -> ClientError {
        ClientError::GRpcStatus(Status::new(code, text))
    }

    #[test]
    fn every_failure_has_one_meaning() {
        #[rustfmt::skip]
        let table = [
            (status(Code::NotFound, "etcdserver: requested lease not found"), Lost, true),
            (status(Code::PermissionDenied, "etcdserver: permission denied"), Denied, true),
            (status(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"), Denied, true),
            (status(Code::InvalidArgument, "etcdserver: user name is empty"), Denied, true),
            (status(Code::FailedPrecondition, "etcdserver: authentication is not enabled"), Denied, true),
            (status(Code::Unauthenticated, "etcdserver: invalid auth token"), Unavailable, true),
            (status(Code::InvalidArgument, "etcdserver: revision of auth store is old"), Unavailable, true),
            (status(Code::InvalidArgument, "etcdserver: request is too large"), Invalid, true),
            (status(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), Unconfirmed, true),
            (status(Code::ResourceExhausted, "etcdserver: too many requests"), Unavailable, false),
            (status(Code::Unavailable, "etcdserver: no leader"), Unavailable, false),
            (status(Code::Unavailable, "etcdserver: rpc not supported for learner"), Unavailable, false),
            (status(Code::Unavailable, "etcdserver: leader changed"), Unconfirmed, false),
            (status(Code::Unavailable, "etcdserver: request timed out"), Unconfirmed, false),
            (status(Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"), Unconfirmed, false),
            (status(Code::Unavailable, "etcdserver: server stopped"), Unconfirmed, false),
            (status(Code::Unavailable, "keep-alive timed out"), Unconfirmed, false),
            (status(Code::Cancelled, "operation was canceled"), Unconfirmed, false),
            (status(Code::Unknown, "h2 protocol error: error reading a body from connection"), Unconfirmed, false),
            (status(Code::Internal, "anything"), Unconfirmed, false),
            (status(Code::DataLoss, "etcdserver: corrupt cluster"), Unconfirmed, false),
            (status(Code::DeadlineExceeded, "context deadline exceeded"), Unconfirmed, false),
            (status(Code::Unimplemented, "unknown service"), Unsupported, true),
            (status(Code::InvalidArgument, "etcdserver: duplicate key given in txn request"), Protocol, true),
            (status(Code::FailedPrecondition, "etcdserver: lease already exists"), Unavailable, true),
            (ClientError::LeaseKeepAliveError("lease not found".into()), Lost, true),
            (ClientError::LeaseKeepAliveError("channel closed".into()), Unconfirmed, false),
            (ClientError::WatchError("channel closed".into()), Unconfirmed, false),
            (ClientError::IoError(std::io::Error::other("x")), Unconfirmed, false),
            (ClientError::Internal("x".into()), Unconfirmed, false),
            (ClientError::InvalidArgs("x".into()), Invalid, true),
        ];
        for (error, kind, answered) in table {
            let verdict = classify(&error, Effect::Write);
            assert_eq!((verdict.kind, verdict.answered), (kind, answered), "{error}");
            let read = if kind == Unconfirmed { Unavailable } else { kind };
            assert_eq!(classify(&error, Effect::Read).kind, read, "{error}");
        }
    }

    #[test]
    fn a_refused_connection_was_certainly_not_sent() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(ConnectError(Box::new(refused))));
        let fault = Fault::new(ClientError::GRpcStatus(status), Effect::Write);
        assert_eq!(fault.verdict.kind, Unavailable);
        let error = fault.into_error("enter", Some("jobs/7"));
        assert!(format!("{error:#}").contains("connection refused"), "{error:#}");
        let tls = std::io::Error::other("invalid peer certificate: UnknownIssuer");
        let status = Status::from_error(Box::new(ConnectError(Box::new(tls))));
        assert_eq!(classify(&ClientError::GRpcStatus(status), Effect::Write).kind, Denied);
    }
}
