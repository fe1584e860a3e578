//! A process that writes at a fence until it is killed: `writer URL RESOURCE`. It writes the number of
//! each token with that token, and says it on stdout once that is acknowledged.

mod fence_at;

use fence_at::{fence_at, token};

#[tokio::main]
async fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, resource] = &arguments[..] else { panic!("writer URL RESOURCE") };
    let fence = fence_at(url).await;
    let mark = fence.mark(resource).await.expect("a mark");
    for number in mark.map_or(0, |mark| mark.value()) + 1.. {
        let written = fence.admit(resource, &token(number), number.to_string().as_bytes()).await;
        written.expect("it is admitted");
        println!("{number}");
    }
}
