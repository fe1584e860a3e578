//! A web service of which one instance leads: probes, work that stops in time, a clean end.
//!
//! ```text
//! cargo run -p portunus-examples --features axum --example leader
//! cargo run -p portunus-examples --features axum,etcd --example leader -- \
//!     etcd://127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379 --listen 127.0.0.1:8081
//! curl -i 127.0.0.1:8081/readyz
//! ```
//!
//! Start it several times on one store, each with an address of its own. Then kill the leader, or
//! stop it (`kill -STOP`), or end it (`kill`), and ask the others.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 while the process serves; says nothing about the store, which a restart would not mend |
//! | `/readyz` | 200 and the term while this instance leads, and was told so lately; else 503 |
//! | `/leader` | the leader's term and address; 503 with `Retry-After` when nobody leads or the store does not tell |

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use portunus::{
    CancellationToken, Election, ErrorKind, FencingToken, Leadership, Released, Transition,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

#[tokio::main]
async fn main() -> ExitCode {
    let Some((url, listen)) = arguments() else {
        eprintln!("usage: leader [URL] [--listen ADDRESS]  (default: memory: 127.0.0.1:8080)");
        return ExitCode::FAILURE;
    };
    match serve(&url, listen).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(url: &str, listen: SocketAddr) -> Result<(), Box<dyn StdError>> {
    let shutdown = CancellationToken::new();
    cancel_on_signal(shutdown.clone())?;
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let manager = portunus::builder(url)?.app("leader").open().await?;
    let election = manager.election("examples/leader")?;
    println!("listening on {address}");

    let (leads, leading) = watch::channel(None);
    let router = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/leader", get(leader))
        .with_state(Service { election: election.clone(), leading, shutdown: shutdown.clone() });
    let server =
        axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let server = async {
        tokio::select! {
            served = server => served,
            // A client that never ends its request holds up nobody.
            () = async { shutdown.cancelled().await; sleep(DRAIN).await } => Ok(()),
        }
    };
    let candidate = async {
        let run = election.run(address.to_string(), |leadership| {
            leads.send_replace(Some(Arc::clone(&leadership)));
            work(leadership)
        });
        let run = run.on_transition(tell).exit_process_on_overrun(OVERRUN);
        let ended = run.until(shutdown.clone()).await;
        // An election that can't go on ends the service, and its supervisor sees why.
        shutdown.cancel();
        ended
    };
    let (led, served) = tokio::join!(candidate, server);
    // No guard is left to wait for. The session ends, and with it all that is ours in the store.
    manager.shutdown(Duration::ZERO).await?;
    led?;
    Ok(served?)
}

/// What the leader does, until it is told to stop. Each step is short, and can be dropped half-way.
async fn work(leadership: Arc<Leadership>) {
    let (stop, term) = (leadership.cancellation_token(), leadership.term());
    while !stop.is_cancelled() {
        write(&term).await;
        tokio::select! { () = stop.cancelled() => {}, () = sleep(PACE) => {} }
    }
}

/// A real service writes here, and the term goes along: a leader that was paused does not know that
/// it was deposed, but the resource, which has seen a higher one, refuses it.
async fn write(_term: &FencingToken) {}

fn tell(transition: Transition) {
    match transition {
        Transition::Elected(term) => println!("elected term {}", term.value()),
        Transition::Resigned { term, released: Ok(Released::Clean) } => {
            println!("resigned term {}", term.value());
        }
        Transition::Resigned { term, released: Ok(Released::AlreadyLost(reason)) } => {
            println!("lost term {}: {reason:?}", term.value());
        }
        Transition::Resigned { term, released: Err(error) } => {
            println!("ended term {}: {error}", term.value());
        }
        Transition::Failed(error) => println!("failed: {error}"),
        other => println!("{other:?}"),
    }
}

#[derive(Clone)]
struct Service {
    election: Election,
    /// The last term of this instance; whether it lasts, the leadership knows.
    leading: watch::Receiver<Option<Arc<Leadership>>>,
    shutdown: CancellationToken,
}

/// Without I/O: a probe that asks the store fails when the store does, and takes all instances down.
async fn ready(State(service): State<Service>) -> (StatusCode, String) {
    match &*service.leading.borrow() {
        Some(leadership) if leadership.is_fresh() && !service.shutdown.is_cancelled() => {
            (StatusCode::OK, format!("leading term {}\n", leadership.term().value()))
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not leading\n".to_owned()),
    }
}

/// That nobody leads will pass, as will a store that does not answer: the client comes again.
async fn leader(State(service): State<Service>) -> Response {
    use ErrorKind::{Overloaded, Unavailable, Unconfirmed};

    match service.election.leader().await {
        Ok(Some(leader)) => {
            format!("term {} at {}\n", leader.term.value(), leader.value).into_response()
        }
        Ok(None) => later("nobody leads\n"),
        Err(error) if matches!(error.kind(), Overloaded | Unavailable | Unconfirmed) => {
            later("the store does not answer\n")
        }
        Err(error) => {
            eprintln!("{error:#}");
            (StatusCode::INTERNAL_SERVER_ERROR, "see the log\n").into_response()
        }
    }
}

fn later(why: &'static str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], why).into_response()
}

/// Called before anything is held, so that no signal is missed.
#[cfg(unix)]
fn cancel_on_signal(shutdown: CancellationToken) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
        shutdown.cancel();
    });
    Ok(())
}

#[cfg(not(unix))]
fn cancel_on_signal(shutdown: CancellationToken) -> io::Result<()> {
    tokio::spawn(async move { tokio::signal::ctrl_c().await.map(|()| shutdown.cancel()) });
    Ok(())
}

fn arguments() -> Option<(String, SocketAddr)> {
    let (mut url, mut listen) = (None, SocketAddr::from(([127, 0, 0, 1], 8080)));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--listen" => listen = arguments.next()?.parse().ok()?,
            _ if argument.starts_with('-') || url.is_some() => return None,
            _ => url = Some(argument),
        }
    }
    Some((url.unwrap_or_else(|| "memory:".to_owned()), listen))
}

const PACE: Duration = Duration::from_millis(100);
/// How long requests may take that are under way when the service ends.
const DRAIN: Duration = Duration::from_secs(5);
/// The exit code when work blocks its thread while another may lead already.
const OVERRUN: i32 = 70;
