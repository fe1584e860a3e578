//! A refusal as the client reads it (RFC 9457).

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use portunus_core::error::{Error, ErrorKind};
use serde_json::json;

/// Answers with an error of a fence; the [table](super#refusals) says with what.
///
/// `detail` is the error's own line for what the client can see to (`Stale`, `Conflict`, `Invalid`):
/// it names the resource, the two tokens' values or their locks. Of any other kind it is a fixed
/// sentence, for a store's words are not the client's business: log the error where it comes up.
///
/// `Unconfirmed` is 500 and not 503, because much software repeats a request by itself after a 503:
/// a value that is written twice is the same, but a transaction of yours may not be.
#[must_use]
pub fn problem<B: From<String>>(error: &Error) -> Response<B> {
    let own = || error.to_string();
    let fixed = str::to_owned;
    match error.kind() {
        ErrorKind::Stale => CONFLICT_STALE.response(own()),
        ErrorKind::Conflict => CONFLICT_FOREIGN.response(own()),
        ErrorKind::Invalid => INVALID.response(own()),
        ErrorKind::Denied => DENIED.response(fixed("The service may not change the resource.")),
        ErrorKind::Overloaded | ErrorKind::Unavailable => {
            UNAVAILABLE.response(fixed("Nothing was applied. Retry with the same token."))
        }
        ErrorKind::Unconfirmed => {
            UNCONFIRMED.response(fixed("The request was applied, or was not."))
        }
        _ => INTERNAL.response(fixed("The service failed.")),
    }
}

/// The answer to a request without a token.
pub(super) fn missing<B: From<String>>() -> Response<B> {
    MISSING.response("The request needs the header `Fencing-Token`, of a lock that is held.".into())
}

/// The answer to a shared token where only exclusive ones are accepted.
pub(super) fn not_exclusive<B: From<String>>() -> Response<B> {
    NOT_EXCLUSIVE.response("The token is of a shared grant; accepted are exclusive ones.".into())
}

/// The answer to a weak token where they are not accepted.
pub(super) fn weak<B: From<String>>() -> Response<B> {
    WEAK.response(
        "The token is weak: after a fail-over its lock's store may give it again, or a lower one. \
         Accepted are tokens of other stores."
            .into(),
    )
}

struct Problem {
    status: StatusCode,
    urn: &'static str,
    title: &'static str,
}

impl Problem {
    const fn new(status: StatusCode, urn: &'static str, title: &'static str) -> Self {
        Self { status, urn, title }
    }

    fn response<B: From<String>>(&self, detail: String) -> Response<B> {
        let Self { status, urn, title } = *self;
        let body = json!({
            "type": urn,
            "title": title,
            "status": status.as_u16(),
            "detail": detail,
        });
        let mut response = Response::new(B::from(body.to_string()));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

const MISSING: Problem = Problem::new(
    StatusCode::PRECONDITION_REQUIRED,
    "urn:portunus:fence:missing-token",
    "A fencing token is required",
);
const NOT_EXCLUSIVE: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "urn:portunus:fence:exclusive-token-required",
    "An exclusive fencing token is required",
);
const WEAK: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "urn:portunus:fence:weak-token",
    "A fencing token that can't go back is required",
);
const INVALID: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "urn:portunus:fence:invalid", "The request is invalid");
const CONFLICT_STALE: Problem = Problem::new(
    StatusCode::CONFLICT,
    "urn:portunus:fence:stale-token",
    "Another holder of the lock came later",
);
const CONFLICT_FOREIGN: Problem = Problem::new(
    StatusCode::CONFLICT,
    "urn:portunus:fence:foreign-token",
    "The token is of another origin than the resource's mark",
);
const DENIED: Problem =
    Problem::new(StatusCode::FORBIDDEN, "urn:portunus:fence:denied", "Access denied");
const UNAVAILABLE: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "urn:portunus:fence:unavailable",
    "The resource is unavailable",
);
const UNCONFIRMED: Problem = Problem::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "urn:portunus:fence:unconfirmed",
    "The outcome is unknown",
);
const INTERNAL: Problem = Problem::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "urn:portunus:fence:internal",
    "Internal error",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_answer_and_only_three_tell_their_text() {
        let secret = "postgres://root:hunter2@db";
        for (kind, status, urn, told) in [
            (ErrorKind::Conflict, 409, "foreign-token", true),
            (ErrorKind::Denied, 403, "denied", false),
            (ErrorKind::Invalid, 400, "invalid", true),
            (ErrorKind::Lost, 500, "internal", false),
            (ErrorKind::Overloaded, 503, "unavailable", false),
            (ErrorKind::Protocol, 500, "internal", false),
            (ErrorKind::Regression, 500, "internal", false),
            (ErrorKind::Stale, 409, "stale-token", true),
            (ErrorKind::Unavailable, 503, "unavailable", false),
            (ErrorKind::Unconfirmed, 500, "unconfirmed", false),
            (ErrorKind::Unsupported, 500, "internal", false),
        ] {
            let error = Error::new(kind, "store", "admit")
                .with_key("stock/\"42\"\n")
                .with_detail("words of the fence")
                .with_source(std::io::Error::other(secret));
            let response: Response<String> = problem(&error);
            assert_eq!(response.status(), status, "{kind:?}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            assert_eq!(response.headers().len(), 1);
            let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
            assert_eq!(body["type"], format!("urn:portunus:fence:{urn}"), "{kind:?}");
            assert_eq!(body["status"], status, "{kind:?}");
            assert!(body["title"].is_string(), "{kind:?}");
            let detail = body["detail"].as_str().unwrap();
            assert_eq!(detail == error.to_string(), told, "{kind:?}: {detail}");
            assert_eq!(detail.contains("words of the fence"), told, "{kind:?}: {detail}");
            assert!(!response.body().contains("hunter2"), "{kind:?}");
        }
    }
}
