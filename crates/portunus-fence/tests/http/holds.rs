//! A resource is held while the handler runs, and no longer.

use std::sync::Arc;
use std::task::{Context, Waker};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::{any, get};
use portunus_fence::http::FenceLayer;
use portunus_fence::{Fence, MemoryFence};
use tokio::sync::{Notify, mpsc};
use tower::ServiceExt;

use super::{path, send, shared, show, token, with};

/// Handlers that say when they run, and end when they are told to.
struct Stage {
    app: Router,
    entered: mpsc::UnboundedReceiver<String>,
    leave: Arc<Notify>,
}

impl Stage {
    fn new() -> Self {
        let (enter, entered) = mpsc::unbounded_channel();
        let leave = Arc::new(Notify::new());
        let may_leave = Arc::clone(&leave);
        let handler = move |request: Request<Body>| async move {
            let quick = request.uri().path() == "/quick";
            enter.send(show(request).await).unwrap();
            if !quick {
                may_leave.notified().await;
            }
        };
        let app = Router::new()
            .route("/{item}", any(handler))
            .route_layer(FenceLayer::new(MemoryFence::new(), path));
        Self { app, entered, leave }
    }

    fn spawn(&self, request: Request<Body>) -> tokio::task::JoinHandle<u16> {
        let app = self.app.clone();
        tokio::spawn(async move { app.oneshot(request).await.unwrap().status().as_u16() })
    }

    async fn entered(&mut self, who: impl std::fmt::Display) {
        assert_eq!(self.entered.recv().await.unwrap(), who.to_string());
    }

    /// Lets every task go as far as it gets; the runtime has one thread.
    async fn settle(&self) {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_stale_write_waits_for_the_newer_holder_and_is_refused() {
    let mut stage = Stage::new();
    let newer = stage.spawn(with("/a", token(8)));
    stage.entered(format!("exclusive {}", token(8))).await;
    let stale = stage.spawn(with("/a", token(7)));
    stage.settle().await;
    assert!(!newer.is_finished() && !stale.is_finished());
    stage.leave.notify_one();
    assert_eq!((newer.await.unwrap(), stale.await.unwrap()), (200, 409));
    assert!(stage.entered.try_recv().is_err(), "the stale one reached the handler");
}

#[tokio::test]
async fn a_newer_holder_waits_for_the_handler_that_runs() {
    let mut stage = Stage::new();
    let older = stage.spawn(with("/a", token(7)));
    stage.entered(format!("exclusive {}", token(7))).await;
    let newer = stage.spawn(with("/a", token(8)));
    let late = stage.spawn(with("/a", token(7)));
    stage.settle().await;
    assert!(stage.entered.try_recv().is_err(), "two of them run");
    stage.leave.notify_one();
    stage.entered(format!("exclusive {}", token(8))).await;
    stage.leave.notify_one();
    let statuses = (older.await.unwrap(), newer.await.unwrap(), late.await.unwrap());
    assert_eq!(statuses, (200, 200, 409));
}

#[tokio::test]
async fn two_resources_do_not_wait_for_each_other() {
    let mut stage = Stage::new();
    let slow = stage.spawn(with("/a", token(7)));
    stage.entered(format!("exclusive {}", token(7))).await;
    assert_eq!(stage.spawn(with("/quick", token(6))).await.unwrap(), 200);
    assert!(!slow.is_finished());
    stage.leave.notify_one();
    assert_eq!(slow.await.unwrap(), 200);
}

#[tokio::test]
async fn shared_holders_run_beside_each_other_and_not_beside_an_exclusive_one() {
    let mut stage = Stage::new();
    let shares = [stage.spawn(with("/a", shared(7))), stage.spawn(with("/a", shared(7)))];
    for _ in &shares {
        stage.entered(format!("shared {}", shared(7))).await;
    }
    let exclusive = stage.spawn(with("/a", token(8)));
    let late = stage.spawn(with("/a", shared(7)));
    stage.settle().await;
    assert!(stage.entered.try_recv().is_err(), "an exclusive one runs beside shared ones");
    stage.leave.notify_waiters();
    for share in shares {
        assert_eq!(share.await.unwrap(), 200);
    }
    stage.entered(format!("exclusive {}", token(8))).await;
    assert!(!late.is_finished());
    stage.leave.notify_one();
    assert_eq!((exclusive.await.unwrap(), late.await.unwrap()), (200, 409));
}

#[tokio::test]
async fn a_dropped_request_lets_the_next_one_in() {
    let mut stage = Stage::new();
    let hanging = stage.spawn(with("/a", token(7)));
    stage.entered(format!("exclusive {}", token(7))).await;
    let next = stage.spawn(with("/a", token(8)));
    stage.settle().await;
    hanging.abort();
    stage.entered(format!("exclusive {}", token(8))).await;
    stage.leave.notify_one();
    assert_eq!(next.await.unwrap(), 200);
    assert!(hanging.await.unwrap_err().is_cancelled());
}

/// Says, when it is dropped, whether the resource is held then.
struct Last(MemoryFence, mpsc::UnboundedSender<bool>);

impl Drop for Last {
    fn drop(&mut self) {
        let mark = std::pin::pin!(self.0.mark("/a"));
        let held = mark.poll(&mut Context::from_waker(Waker::noop())).is_pending();
        self.1.send(held).unwrap();
    }
}

#[tokio::test]
async fn the_hold_outlives_the_handler() {
    let fence = MemoryFence::new();
    let (dropped, mut held) = mpsc::unbounded_channel();
    let handler = {
        let fence = fence.clone();
        move |hang: bool| {
            let last = Last(fence.clone(), dropped.clone());
            async move {
                if hang {
                    std::future::pending::<()>().await;
                }
                drop(last);
            }
        }
    };
    let (quick, slow) = (handler.clone(), handler);
    let app = Router::new()
        .route("/a", get(move || quick(false)).post(move || slow(true)))
        .route_layer(FenceLayer::new(fence.clone(), path));

    app.clone().oneshot(with("/a", token(7))).await.unwrap();
    assert_eq!(held.recv().await, Some(true));

    let mut hanging = with("/a", token(7));
    *hanging.method_mut() = axum::http::Method::POST;
    let mut hanging = Box::pin(app.oneshot(hanging));
    let polled = hanging.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending() && held.try_recv().is_err());
    drop(hanging);
    assert_eq!(held.recv().await, Some(true));
    assert_eq!(fence.mark("/a").await.unwrap(), Some(token(7)));
}

#[tokio::test]
async fn a_panic_of_the_handler_lets_the_next_one_in() {
    async fn fail() -> String {
        panic!("on purpose")
    }
    let app = Router::new()
        .route("/a", get(fail).post(show))
        .route_layer(FenceLayer::new(MemoryFence::new(), path));
    let failing = tokio::spawn(app.clone().oneshot(with("/a", token(7))));
    assert!(failing.await.unwrap_err().is_panic());
    let mut next = with("/a", token(7));
    *next.method_mut() = axum::http::Method::POST;
    assert_eq!(send(&app, next).await.0, 200);
}
