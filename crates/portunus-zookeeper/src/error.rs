//! What a failure means: one decision per error of the client library, in one table.

use std::fmt;

use portunus_core::error::{Error, ErrorKind};
use zookeeper_client::Error as ClientError;

/// The word for this store in every error.
pub(crate) const STORE: &str = "zookeeper";

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
    pub(crate) cause: ClientError,
    /// The server that did not answer.
    host: Option<String>,
}

impl Fault {
    pub(crate) fn new(cause: ClientError, effect: Effect) -> Self {
        Self { verdict: classify(&cause, effect), cause, host: None }
    }

    /// A failure to connect. `attached` is whether a session was to be continued.
    pub(crate) fn connecting(cause: ClientError, attached: bool) -> Self {
        let mut verdict = classify(&cause, Effect::Read);
        match cause {
            // The leader itself says so when a session is to be continued.
            ClientError::SessionExpired if attached => return Self::lost(),
            _ if !verdict.answered => verdict.detail = NO_CONNECTION,
            _ => {}
        }
        Self { verdict, cause, host: None }
    }

    /// The ensemble does not know the session any more.
    pub(crate) fn lost() -> Self {
        let verdict = Verdict { kind: ErrorKind::Lost, answered: true, detail: EXPIRED };
        Self { verdict, cause: ClientError::SessionExpired, host: None }
    }

    /// The session is being closed, and takes no requests. Its nodes may stand still.
    pub(crate) fn closing() -> Self {
        let detail = "the session is being closed";
        let verdict = Verdict { kind: ErrorKind::Unavailable, answered: true, detail };
        Self { verdict, cause: ClientError::ClientClosed, host: None }
    }

    /// The same fault for one who has no session to lose.
    pub(crate) fn for_observer(mut self) -> Self {
        if self.is_lost() {
            self.verdict.kind = ErrorKind::Unavailable;
        }
        self
    }

    /// The server refused to speak TLS with this client, or this client with it.
    pub(crate) fn refused(detail: &'static str, cause: &dyn fmt::Display) -> Self {
        let verdict = Verdict { kind: ErrorKind::Denied, answered: true, detail };
        Self { verdict, cause: ClientError::UnexpectedError(cause.to_string()), host: None }
    }

    /// Names the server that did not answer.
    pub(crate) fn at(&mut self, host: &str) {
        self.host = Some(host.to_owned());
    }

    /// Whether the session is gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.verdict.kind == ErrorKind::Lost
    }

    pub(crate) fn into_error(self, operation: &'static str, key: Option<&str>) -> Error {
        let mut error = Error::new(self.verdict.kind, STORE, operation);
        if let Some(key) = key {
            error = error.with_key(key);
        }
        let at = self.host.map(|host| format!("at {host}")).unwrap_or_default();
        let detail = match (self.verdict.detail, &*at) {
            ("", "") => return error.with_source(Cause(self.cause)),
            ("", at) => at.to_owned(),
            (detail, "") => detail.to_owned(),
            (detail, at) => format!("{detail} ({at})"),
        };
        error.with_detail(detail).with_source(Cause(self.cause))
    }
}

/// Decides what a failure means. `Unavailable` only when the request was certainly not applied.
///
/// What is not on the list is in doubt: a server that hangs, one that is reset and one that closes
/// the connection give three different errors, and each of them may have applied the request.
pub(crate) fn classify(error: &ClientError, effect: Effect) -> Verdict {
    use ErrorKind::{Denied, Invalid, Overloaded, Protocol, Unavailable, Unconfirmed, Unsupported};
    let verdict = |kind, answered, detail| Verdict { kind, answered, detail };
    let mut verdict = match error {
        ClientError::NoAuth => verdict(Denied, true, "the ACL of the node forbids it to this user"),
        ClientError::InvalidAcl => {
            verdict(Denied, true, "the server takes no such ACL from who is not authenticated")
        }
        ClientError::AuthFailed => verdict(Denied, true, "the server refuses the credentials"),
        ClientError::QuotaExceeded => {
            verdict(Overloaded, true, "the path's quota is used up; nothing was written")
        }
        ClientError::Throttled => verdict(Unavailable, true, "the server is overloaded"),
        ClientError::NotReadOnly => verdict(Unavailable, false, "the server lost the ensemble"),
        ClientError::SessionMoved => {
            verdict(Unavailable, false, "the session is connected to another server")
        }
        ClientError::NoHosts => verdict(Unavailable, false, NO_CONNECTION),
        ClientError::Unimplemented => {
            verdict(Unsupported, true, "the server is older than 3.5, or has this switched off")
        }
        ClientError::BadArguments(_) => verdict(Invalid, true, ""),
        ClientError::NoNode
        | ClientError::NodeExists
        | ClientError::BadVersion
        | ClientError::NotEmpty
        | ClientError::NoChildrenForEphemerals
        | ClientError::NoWatcher
        | ClientError::MarshallingError
        | ClientError::ReconfigDisabled
        | ClientError::RuntimeInconsistent => verdict(Protocol, true, ""),
        ClientError::UnexpectedErrorCode(_) => verdict(Unconfirmed, true, ""),
        // The library says it also of its own accord; connecting anew brings the truth.
        ClientError::SessionExpired => verdict(Unconfirmed, false, ""),
        _ => verdict(Unconfirmed, false, ""),
    };
    if verdict.kind == Unconfirmed && effect == Effect::Read {
        verdict.kind = ErrorKind::Unavailable;
    }
    verdict
}

const EXPIRED: &str = "the session expired or was closed";
const NO_CONNECTION: &str = "no connection: the server is down, the port is another one, or one \
                             side speaks TLS (`tls`, `ca`, `cert`, `key`) and the other does not \
                             accept it";

/// The client's error, whose own words name no store.
#[derive(Debug)]
struct Cause(ClientError);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::{
        Denied, Invalid, Lost, Overloaded, Protocol, Unavailable, Unconfirmed, Unsupported,
    };

    #[test]
    fn every_failure_has_one_meaning() {
        #[rustfmt::skip]
        let table = [
            (ClientError::NoAuth, Denied, true),
            (ClientError::InvalidAcl, Denied, true),
            (ClientError::AuthFailed, Denied, true),
            (ClientError::QuotaExceeded, Overloaded, true),
            (ClientError::Throttled, Unavailable, true),
            (ClientError::NotReadOnly, Unavailable, false),
            (ClientError::SessionMoved, Unavailable, false),
            (ClientError::NoHosts, Unavailable, false),
            (ClientError::Unimplemented, Unsupported, true),
            (ClientError::BadArguments(&"x"), Invalid, true),
            (ClientError::NoNode, Protocol, true),
            (ClientError::NodeExists, Protocol, true),
            (ClientError::BadVersion, Protocol, true),
            (ClientError::NotEmpty, Protocol, true),
            (ClientError::MarshallingError, Protocol, true),
            (ClientError::RuntimeInconsistent, Protocol, true),
            (ClientError::UnexpectedErrorCode(-1), Unconfirmed, true),
            (ClientError::ConnectionLoss, Unconfirmed, false),
            (ClientError::SessionExpired, Unconfirmed, false),
            (ClientError::ClientClosed, Unconfirmed, false),
            (ClientError::Timeout, Unconfirmed, false),
            (ClientError::UnexpectedError("x".into()), Unconfirmed, false),
            (ClientError::UnmarshalError { entity: "x", reason: &"y" }, Unconfirmed, false),
        ];
        for (error, kind, answered) in table {
            let verdict = classify(&error, Effect::Write);
            assert_eq!((verdict.kind, verdict.answered), (kind, answered), "{error}");
            let read = if kind == Unconfirmed { Unavailable } else { kind };
            assert_eq!(classify(&error, Effect::Read).kind, read, "{error}");
        }
    }

    #[test]
    fn only_the_ensemble_can_say_that_a_session_is_gone() {
        let continued = Fault::connecting(ClientError::SessionExpired, true);
        assert_eq!((continued.verdict.kind, continued.verdict.answered), (Lost, true));
        let fresh = Fault::connecting(ClientError::SessionExpired, false);
        assert_eq!(fresh.verdict.kind, Unavailable);
        let error = Fault::connecting(ClientError::NoHosts, true).into_error("enter", Some("a"));
        assert_eq!(error.kind(), Unavailable);
        assert!(error.to_string().contains("no connection"), "{error}");
    }
}
