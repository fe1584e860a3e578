//! The layer that compares: a resource in this process is held open while the handler runs.

use std::fmt;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response};
use portunus_core::error::Result;
use tower_layer::Layer;
use tower_service::Service;

use super::header::Token;
use super::problem::problem;
use super::require::{Accepted, Answer, extend, required};
use crate::memory::MemoryFence;

/// Fences a resource that lives in this process's memory: a request with an exclusive token opens it
/// and **holds it while the handler runs**, so that the comparison and the effect are one step.
///
/// Requests with shared tokens run beside each other, and not beside an exclusive one. They may do
/// what shared holders may do; where that is nothing, say
/// [`exclusive_only`](Self::exclusive_only). Requests for two resources do not wait for each other.
/// Those that wait are served in the order of their arrival, and compared when their turn has come. A
/// token that does not pass is [answered](super#refusals), and the handler never sees the request; one
/// that does is among its extensions, as with [`RequireTokenLayer`](super::RequireTokenLayer).
///
/// # Names
///
/// `resource` names what a request is for, by 1 to 512 bytes without NUL; any other name is answered
/// with 400. **One resource needs one name**: a path may be spelt in many ways that reach the same
/// handler (`/stock/a`, `/stock/%61`), and each would have a mark of its own.
///
/// Every name that is asked for stays in memory with its mark. So use `route_layer`, which leaves
/// unknown paths out, and let `resource` answer with the empty string to names of things that can't
/// exist.
///
/// # Limits
///
/// - One process. Two of them do not know each other's marks, and a restart forgets them: so it has to
///   forget the resource. For anything that outlives the process, or is reached by two, take
///   [`RequireTokenLayer`](super::RequireTokenLayer) and compare where the resource is.
/// - The hold ends when the handler has its response, or is dropped, or panics. What it spawned, and a
///   body that is still streamed then, are not covered.
/// - A handler that hangs holds the resource, and so does a client that is slow with a body which the
///   handler reads. Put a timeout layer *outside* this one: it bounds the wait for the resource, too,
///   and drops the handler before the hold. (Inside, it would bound the handler alone.)
/// - A timeout, or a client that goes away, drops the handler at an await: change what is fenced
///   without one in between, or so that it can be half done.
/// - Waiting requests are not limited: a concurrency limit belongs outside as well.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use axum::Router;
/// use axum::routing::post;
/// use portunus_fence::MemoryFence;
/// use portunus_fence::http::FenceLayer;
///
/// static VISITORS: AtomicU64 = AtomicU64::new(0);
///
/// async fn count() -> String {
///     // Nothing with a lower token comes between these two.
///     let before = VISITORS.load(Ordering::Relaxed);
///     VISITORS.store(before + 1, Ordering::Relaxed);
///     before.to_string()
/// }
///
/// let fence = FenceLayer::new(MemoryFence::new(), |_| "visitors".to_owned()).exclusive_only();
/// let app: Router = Router::new().route("/visitors", post(count)).route_layer(fence);
/// ```
#[derive(Clone)]
pub struct FenceLayer<F> {
    fence: MemoryFence,
    resource: F,
    accepted: Accepted,
}

/// What [`FenceLayer`] makes of a service.
#[derive(Clone)]
pub struct Fenced<S, F> {
    inner: S,
    layer: FenceLayer<F>,
}

impl<F> FenceLayer<F>
where
    F: Fn(&Parts) -> String,
{
    /// Takes the fence, whose marks are shared with its clones, and what names a request's resource.
    /// Accepted are exclusive and shared tokens that are not weak.
    #[must_use]
    pub fn new(fence: MemoryFence, resource: F) -> Self {
        Self { fence, resource, accepted: Accepted::default() }
    }

    /// Refuses shared tokens, with 403.
    #[must_use]
    pub fn exclusive_only(mut self) -> Self {
        self.accepted.exclusive_only = true;
        self
    }

    /// Accepts weak tokens, too: two holders may pass after a fail-over of the lock's store. See
    /// [`FencingToken::allow_weak`](crate::FencingToken::allow_weak).
    #[must_use]
    pub fn allow_weak(mut self) -> Self {
        self.accepted.weak = true;
        self
    }
}

impl<S, F: Clone> Layer<S> for FenceLayer<F> {
    type Service = Fenced<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Fenced { inner, layer: self.clone() }
    }
}

impl<S, F, B, ResBody> Service<Request<B>> for Fenced<S, F>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    F: Fn(&Parts) -> String,
    B: Send + 'static,
    ResBody: From<String> + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<ResBody, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let FenceLayer { fence, resource, accepted } = &self.layer;
        let (mut parts, body) = request.into_parts();
        let token = match required(&parts.headers, *accepted) {
            Ok(token) => token,
            Err(refusal) => return Box::pin(std::future::ready(Ok(refusal))),
        };
        let resource = resource(&parts);
        extend(&mut parts.extensions, token.clone());
        let request = Request::from_parts(parts, body);
        let fence = fence.clone();
        // The one that was polled ready is called, and a clone is left to be polled the next time.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            match token {
                Token::Exclusive(token) => {
                    run(fence.hold(&resource, &token).await, inner, request).await
                }
                Token::Shared(token) => {
                    run(fence.hold_shared(&resource, &token).await, inner, request).await
                }
            }
        })
    }
}

impl<F> fmt::Debug for FenceLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FenceLayer").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

impl<S: fmt::Debug, F> fmt::Debug for Fenced<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fenced").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

/// Runs the handler while the resource is `held`, or answers why it is not.
async fn run<H, S, B, ResBody>(
    held: Result<H>,
    mut inner: S,
    request: Request<B>,
) -> Result<Response<ResBody>, S::Error>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: From<String>,
{
    match held {
        Ok(held) => {
            // The handler's future ends with this statement, and when it is dropped before, goes first.
            let response = inner.call(request).await;
            drop(held);
            response
        }
        Err(error) => Ok(problem(&error)),
    }
}
