//! The layer that only reads the token, for a handler that compares it in its own transaction.

use std::future::{self, Future};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Extensions, HeaderMap, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::header::{Token, read};
use super::problem::{missing, not_exclusive, problem, weak};

/// Asks each request for a token and hands it to the handler. **It compares nothing**: the handler has
/// to, in the transaction that changes the resource; the modules of the databases show how.
///
/// The handler finds a [`FencingToken`](crate::FencingToken) or a [`SharedToken`](crate::SharedToken)
/// among the request's extensions. One that looks for the first alone should be behind
/// [`exclusive_only`](Self::exclusive_only).
///
/// Requests without a token, or with a malformed or a [weak](crate::FencingToken#weak-tokens) one, are
/// [answered](super#refusals) here. Whether the number is in a fence's range is the fence's to say.
///
/// ```
/// use axum::body::Bytes;
/// use axum::extract::State;
/// use axum::http::StatusCode;
/// use axum::response::{IntoResponse, Response};
/// use axum::routing::put;
/// use axum::{Extension, Router};
/// use portunus_fence::http::{RequireTokenLayer, problem};
/// use portunus_fence::{Fence, FencingToken, MemoryFence};
///
/// async fn set(
///     State(fence): State<MemoryFence>, // in place of a database
///     Extension(token): Extension<FencingToken>,
///     level: Bytes,
/// ) -> Response {
///     match fence.admit("stock", &token, &level).await {
///         Ok(()) => StatusCode::NO_CONTENT.into_response(),
///         Err(error) => problem(&error),
///     }
/// }
///
/// let app: Router = Router::new()
///     .route("/stock", put(set))
///     .route_layer(RequireTokenLayer::new().exclusive_only())
///     .with_state(MemoryFence::new());
/// ```
#[derive(Clone, Debug, Default)]
pub struct RequireTokenLayer {
    accepted: Accepted,
}

/// What [`RequireTokenLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct RequireToken<S> {
    inner: S,
    accepted: Accepted,
}

impl RequireTokenLayer {
    /// Accepts exclusive and shared tokens that are not weak.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses shared tokens, with 403.
    #[must_use]
    pub fn exclusive_only(mut self) -> Self {
        self.accepted.exclusive_only = true;
        self
    }

    /// Accepts weak tokens, too, and so do the fences that the handler asks: two holders may pass after
    /// a fail-over of the lock's store. See [`FencingToken::allow_weak`](crate::FencingToken::allow_weak).
    #[must_use]
    pub fn allow_weak(mut self) -> Self {
        self.accepted.weak = true;
        self
    }
}

impl<S> Layer<S> for RequireTokenLayer {
    type Service = RequireToken<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireToken { inner, accepted: self.accepted }
    }
}

impl<S, B, ResBody> Service<Request<B>> for RequireToken<S>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    ResBody: From<String> + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<ResBody, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match required(request.headers(), self.accepted) {
            Ok(token) => {
                extend(request.extensions_mut(), token);
                Box::pin(self.inner.call(request))
            }
            Err(refusal) => Box::pin(future::ready(Ok(refusal))),
        }
    }
}

/// The future of both of a service's layers.
pub(super) type Answer<ResBody, E> =
    Pin<Box<dyn Future<Output = Result<Response<ResBody>, E>> + Send>>;

/// Which tokens a layer lets through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Accepted {
    pub(super) exclusive_only: bool,
    pub(super) weak: bool,
}

/// The token of a request, or the answer to a request without one that is accepted.
///
/// A weak one is refused here and not left to a fence: a handler that compares in a table of its own
/// would not ask.
pub(super) fn required<B: From<String>>(
    headers: &HeaderMap,
    accepted: Accepted,
) -> Result<Token, Response<B>> {
    let token = match read(headers) {
        Ok(Some(token)) => token,
        Ok(None) => return Err(missing()),
        Err(error) => return Err(problem(&error)),
    };
    let token = if accepted.weak { token.allow_weak() } else { token };
    match token {
        Token::Shared(_) if accepted.exclusive_only => Err(not_exclusive()),
        token if !token.may_fence() => Err(weak()),
        token => Ok(token),
    }
}

/// Hands the token to the handler, by the type of its kind.
pub(super) fn extend(extensions: &mut Extensions, token: Token) {
    match token {
        Token::Exclusive(token) => extensions.insert(token).is_some(),
        Token::Shared(token) => extensions.insert(token).is_some(),
    };
}
