//! A process that counts in a vault under a lock, to be stopped between its check and its write:
//! `teller URL NAME VAULT`, then a command a line on stdin and an answer a line on stdout.
//!
//! - `acquire`: acquires the lock; `token N`.
//! - `read`: reads each kind of the counter; `read`.
//! - `check`: asks the guard for the last time; `checked true`.
//! - `write`: writes one more to each kind, with no further check; `wrote GUARDED UNOPENED PLAIN`, the
//!   status of each.
//! - `release`: `released`.

use std::io::{BufRead, stdin};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use portunus::{FencingToken, Guard};
use portunus_fence::http::AttachTokenLayer;
use tower::{Layer, ServiceExt};

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, name, vault] = &arguments[..] else { panic!("teller URL NAME VAULT") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let manager = runtime.block_on(portunus::connect(url)).expect("a manager");
    let lock = manager.lock(name).expect("a lock");
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let (mut held, mut counts) = (None::<Guard>, [0; KINDS.len()]);
    println!("ready");
    for command in stdin().lock().lines() {
        match (command.expect("a line").as_str(), held.as_ref()) {
            ("acquire", None) => {
                let guard = runtime.block_on(lock.acquire()).expect("a guard");
                println!("token {}", guard.token().value());
                held = Some(guard);
            }
            ("read", Some(guard)) => {
                for (kind, count) in KINDS.iter().zip(&mut counts) {
                    let uri = format!("http://{vault}/{kind}/{name}");
                    let asked = ask(&client, Method::GET, uri, String::new(), guard.token());
                    let (status, body) = runtime.block_on(asked);
                    assert_eq!(status, StatusCode::OK, "{body}");
                    *count = body.parse().expect("a number");
                }
                println!("read");
            }
            ("check", Some(guard)) => println!("checked {}", guard.is_held()),
            ("write", Some(guard)) => {
                let write = |(kind, count): (&&str, &i64)| {
                    let uri = format!("http://{vault}/{kind}/{name}");
                    let one_more = (count + 1).to_string();
                    let asked = ask(&client, Method::PUT, uri, one_more, guard.token());
                    runtime.block_on(asked).0.as_u16().to_string()
                };
                let statuses: Vec<_> = KINDS.iter().zip(&counts).map(write).collect();
                println!("wrote {}", statuses.join(" "));
            }
            ("release", Some(_)) => {
                let guard = held.take().expect("a guard");
                runtime.block_on(guard.release()).expect("an answer");
                println!("released");
            }
            (other, _) => panic!("`{other}` makes no sense here"),
        }
    }
    drop(held);
    runtime.block_on(manager.shutdown(Duration::from_secs(1))).expect("a clean end");
}

async fn ask(
    client: &Client<HttpConnector, Body>,
    method: Method,
    uri: String,
    body: String,
    token: FencingToken,
) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(uri).body(Body::from(body));
    let client = AttachTokenLayer::new(token).layer(client.clone());
    let response = client.oneshot(request.expect("a request")).await.expect("an answer");
    let status = response.status();
    let body = to_bytes(Body::new(response.into_body()), 1 << 16).await.expect("a body");
    (status, String::from_utf8_lossy(&body).into_owned())
}

const KINDS: [&str; 3] = ["guarded", "unopened", "plain"];
