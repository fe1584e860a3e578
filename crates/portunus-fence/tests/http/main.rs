//! The HTTP layers, under axum and under plain tower.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod holds;
mod refusals;
mod wire;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Request};
use axum::routing::any;
use portunus_fence::http::{FenceLayer, RequireTokenLayer};
use portunus_fence::{FencingToken, MemoryFence, SharedToken};
use tower::ServiceExt;

const HEADER: &str = FencingToken::HEADER;

fn token(value: u64) -> FencingToken {
    format!("{value};origin=0178{}", hex("stock")).parse().unwrap()
}

fn foreign(value: u64) -> FencingToken {
    format!("{value};origin=0178{}", hex("stack")).parse().unwrap()
}

fn shared(value: u64) -> SharedToken {
    format!("{};shared", token(value)).parse().unwrap()
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn path(parts: &Parts) -> String {
    parts.uri.path().to_owned()
}

fn request(path: &str, values: &[&[u8]]) -> Request<Body> {
    let mut request = Request::get(path).header(AUTHORIZATION, "hunter2");
    for value in values {
        request = request.header(HEADER, HeaderValue::from_bytes(value).unwrap());
    }
    request.body(Body::empty()).unwrap()
}

fn with(path: &str, token: impl ToString) -> Request<Body> {
    request(path, &[token.to_string().as_bytes()])
}

/// What the handlers of these tests say when they are reached.
async fn show(request: Request<Body>) -> String {
    let exclusive = request.extensions().get::<FencingToken>();
    let shared = request.extensions().get::<SharedToken>();
    match (exclusive, shared) {
        (Some(token), None) => format!("exclusive {token}"),
        (None, Some(token)) => format!("shared {token}"),
        other => panic!("{other:?}"),
    }
}

fn reading() -> Router {
    Router::new().route("/{*item}", any(show)).route_layer(RequireTokenLayer::new())
}

fn fenced(fence: &MemoryFence) -> Router {
    let layer = FenceLayer::new(fence.clone(), path);
    Router::new().route("/{*item}", any(show)).route_layer(layer)
}

async fn send(app: &Router, request: Request<Body>) -> (u16, String) {
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let kind = response.headers().get(CONTENT_TYPE).cloned();
    let body = String::from_utf8(to_bytes(response.into_body(), 9999).await.unwrap().into());
    let body = body.unwrap();
    assert_eq!(kind.unwrap() == "application/problem+json", status >= 400, "{body}");
    assert!(!body.contains("hunter2"), "{body}");
    (status, body)
}

/// Sends what is refused; returns the status, the end of the type, and the detail.
async fn refused(app: &Router, request: Request<Body>) -> (u16, String, String) {
    let (status, body) = send(app, request).await;
    let body: serde_json::Value = serde_json::from_str(&body).expect(&body);
    assert_eq!(body["status"], status);
    assert!(!body["title"].as_str().unwrap().is_empty());
    assert_eq!(body.as_object().unwrap().len(), 4);
    let text = |field: &str| body[field].as_str().unwrap().to_owned();
    let name = text("type").strip_prefix("urn:portunus:fence:").unwrap().to_owned();
    (status, name, text("detail"))
}
