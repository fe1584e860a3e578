//! The client's layer: each request carries the token.

use std::task::{Context, Poll};

use http::{HeaderValue, Request};
use tower_layer::Layer;
use tower_service::Service;

use super::header::{NAME, Token};

/// Sets [`FencingToken::HEADER`](crate::FencingToken::HEADER) on every request of a tower client; one
/// that is there already is replaced.
///
/// The token is that of one grant: after the lock is acquired again, make another layer.
///
/// ```
/// use http::{Request, Response};
/// use portunus_fence::FencingToken;
/// use portunus_fence::http::AttachTokenLayer;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let token: FencingToken = "42;origin=0178616263".parse()?; // a guard's `token()`
/// let client = service_fn(async |request: Request<String>| {
///     assert_eq!(request.headers()[FencingToken::HEADER], "42;origin=0178616263");
///     Ok::<_, std::io::Error>(Response::new(String::new()))
/// });
/// let client = AttachTokenLayer::new(&token).layer(client);
/// client.oneshot(Request::put("http://stock.example/42").body("3".to_owned())?).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AttachTokenLayer {
    value: HeaderValue,
}

/// What [`AttachTokenLayer`] makes of a client.
#[derive(Clone, Debug)]
pub struct AttachToken<S> {
    inner: S,
    value: HeaderValue,
}

impl AttachTokenLayer {
    /// Takes the token of a grant: a `FencingToken`, a `SharedToken`, or a reference to one.
    #[must_use]
    pub fn new(token: impl Into<Token>) -> Self {
        Self { value: token.into().header() }
    }
}

impl<S> Layer<S> for AttachTokenLayer {
    type Service = AttachToken<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AttachToken { inner, value: self.value.clone() }
    }
}

impl<S, B> Service<Request<B>> for AttachToken<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.headers_mut().insert(&NAME, self.value.clone());
        self.inner.call(request)
    }
}
