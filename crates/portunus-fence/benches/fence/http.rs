//! A handler that answers at once; the layers' own time is what is added.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::put;
use hdrhistogram::Histogram;
use portunus_fence::http::{FenceLayer, RequireTokenLayer, attach};
use portunus_fence::{FencingToken, MemoryFence};
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use crate::{BATCH, ROUNDS, Result, micros, nanos, token};

pub(crate) async fn layers() -> Result<()> {
    let handler = || Router::new().route("/stock", put(async || "done"));
    let fence = FenceLayer::new(MemoryFence::new(), |parts| parts.uri.path().to_owned());
    let mut services = [
        ("bare", handler()),
        ("RequireTokenLayer", handler().route_layer(RequireTokenLayer::new())),
        ("FenceLayer", handler().route_layer(fence)),
    ];
    let token = token();
    let mut times = [(); 3].map(|()| Histogram::<u64>::new(3).expect("3 is a precision"));
    for round in 0..=ROUNDS {
        for _ in 0..20_000 / BATCH {
            for ((_, service), times) in services.iter_mut().zip(&mut times) {
                for _ in 0..BATCH {
                    let took = serve(service, &token).await?;
                    if round > 0 {
                        times.record(took)?;
                    }
                }
            }
        }
    }
    for ((name, _), with) in services.iter().zip(&times).skip(1) {
        let added = micros(with) - micros(&times[0]);
        println!(
            "{name}: bare p50 {:.2} µs, with it {:.2} µs: {added:.2} µs more; the goal is ≤ 5 µs",
            micros(&times[0]),
            micros(with)
        );
    }
    Ok(())
}

async fn serve(service: &mut Router, token: &FencingToken) -> Result<u64> {
    let mut request = Request::put("/stock").body(Body::empty())?;
    attach(request.headers_mut(), token);
    let service = ServiceExt::<Request<Body>>::ready(service).await?;
    let begun = Instant::now();
    let answer = service.call(request).await?;
    let took = nanos(begun);
    answer.status().is_success().then_some(took).ok_or_else(|| "it was refused".into())
}
