//! Readiness, the client's layer, and a socket.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{Request, Response};
use axum::routing::get;
use axum::{Extension, Router};
use portunus_fence::http::{AttachTokenLayer, FenceLayer, RequireTokenLayer, attach, read};
use portunus_fence::{FencingToken, MemoryFence};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{fenced, path, request, shared, token, with};

/// Panics when it is called without having been polled ready, as tower allows.
struct Strict {
    ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false, calls: Arc::clone(&self.calls) }
    }
}

impl Service<Request<String>> for Strict {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called before it was ready");
        self.calls.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(Response::new(String::new())))
    }
}

#[tokio::test]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    let calls = Arc::new(AtomicUsize::new(0));
    let strict = Strict { ready: false, calls: Arc::clone(&calls) };
    let service = FenceLayer::new(MemoryFence::new(), path).layer(strict);
    let service = RequireTokenLayer::new().layer(service);
    let mut service = AttachTokenLayer::new(token(7)).layer(service);
    for expected in 1..=3 {
        let request = Request::get("/a").body(String::new()).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(calls.load(Ordering::Relaxed), expected);
    }
}

#[tokio::test]
async fn a_client_layer_is_understood_by_the_service() {
    let client = service_fn({
        let app = fenced(&MemoryFence::new());
        move |request: Request<Body>| app.clone().oneshot(request)
    });
    let status = async |layer: AttachTokenLayer, request: Request<Body>| {
        let response = layer.layer(client.clone()).oneshot(request).await.unwrap();
        response.status().as_u16()
    };
    let holder = AttachTokenLayer::new(token(7));
    assert_eq!(status(holder.clone(), request("/a", &[])).await, 200);
    // What is there already is replaced, be it one value or two.
    let stale = token(1).to_string();
    let twice = request("/a", &[stale.as_bytes(), b"\xff"]);
    assert_eq!(status(holder, twice).await, 200);
    assert_eq!(status(AttachTokenLayer::new(token(6)), request("/a", &[])).await, 409);
    assert_eq!(status(AttachTokenLayer::new(shared(7)), request("/a", &[])).await, 200);
    assert_eq!(status(AttachTokenLayer::new(shared(6)), request("/a", &[])).await, 409);

    // The service decides about it, whatever the client accepts.
    let weak: FencingToken = format!("{};weak", token(9)).parse().unwrap();
    assert_eq!(status(AttachTokenLayer::new(weak.allow_weak()), request("/a", &[])).await, 403);

    let mut request = with("/a", token(1));
    attach(request.headers_mut(), shared(9));
    assert_eq!(read(request.headers()).unwrap(), Some(shared(9).into()));
}

#[tokio::test]
async fn both_layers_serve_a_socket() {
    async fn holder(Extension(token): Extension<FencingToken>) -> String {
        token.value().to_string()
    }
    let app = Router::new()
        .route("/reading", get(holder).layer(RequireTokenLayer::new()))
        .route("/fenced", get(holder).layer(FenceLayer::new(MemoryFence::new(), path)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async { axum::serve(listener, app).await });

    let seven = format!("fencing-token: {}\r\n", token(7)).into_bytes();
    let twice = [&seven[..], &seven].concat();
    for path in ["/reading", "/fenced"] {
        for (headers, status, body) in [
            (&b""[..], "428 ", "missing-token"),
            (b"Fencing-Token: 7;origin=017873\xff\r\n", "400 ", "urn:portunus:fence:invalid"),
            (&twice, "400 ", "given more than once"),
            (&seven, "200 ", "7"),
        ] {
            let answer = exchange(address, path, headers).await;
            let (head, content) = answer.split_once("\r\n\r\n").expect(&answer);
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
            let problem = head.contains("content-type: application/problem+json");
            assert_eq!(problem, status != "200 ", "{answer}");
            assert!(content.contains(body), "{path}: {answer}");
        }
    }
    let stale = format!("FENCING-TOKEN:   {}  \r\n", token(6));
    let answer = exchange(address, "/fenced", stale.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 409 ") && answer.contains("stale-token"), "{answer}");
    server.abort();
}

/// One request on a connection of its own, and all that comes back.
async fn exchange(address: SocketAddr, path: &str, headers: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let first = format!("GET {path} HTTP/1.1\r\nhost: stock\r\nconnection: close\r\n");
    stream.write_all(&[first.as_bytes(), headers, b"\r\n"].concat()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
