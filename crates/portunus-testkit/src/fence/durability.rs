//! What outlives the store's process and the caller's interest.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use portunus_core::error::ErrorKind;

use super::FenceStage;
use super::stage::{refused, text, token};

/// With its value, and refuses as before.
pub async fn a_mark_outlives_a_restart(stage: &FenceStage) {
    stage.admit("a", 7, "seven").await.unwrap();
    stage.admit("b", 3, "three").await.unwrap();
    stage.open("b", 4).await.unwrap();
    let fence = stage.restarted().await;
    refused(fence.admit("a", &token(6), b"six").await, ErrorKind::Stale);
    refused(fence.admit("b", &token(3), b"late").await, ErrorKind::Stale);
    assert_eq!(fence.mark("a").await.unwrap(), Some(token(7)));
    assert_eq!(text(fence.open("a", &token(7)).await.unwrap()).as_deref(), Some("seven"));
    assert_eq!(text(fence.open("b", &token(4)).await.unwrap()).as_deref(), Some("three"));
}

/// Its future was dropped wherever it waited; whatever of it is under way, the next holder does not
/// read one thing and find another later.
pub async fn a_dropped_write_lands_before_the_next_open_or_never(stage: &FenceStage) {
    let (mut landed, mut mark) = (0, 1);
    for polls in 0..40 {
        let (dropped, next) = (token(mark), token(mark + 1));
        let value = mark.to_string();
        {
            let mut write = pin!(stage.fence().admit("a", &dropped, value.as_bytes()));
            for _ in 0..polls {
                let ready = poll_fn(|context| Poll::Ready(write.as_mut().poll(context).is_ready()));
                if ready.await {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let read = stage.fence().open("a", &next).await.unwrap();
        if text(read.clone()) == Some(value) {
            landed += 1;
        }
        // Through another client, so that what the first one had under way is done by then or not.
        refused(stage.client().await.admit("a", &dropped, b"late").await, ErrorKind::Stale);
        assert_eq!(stage.fence().open("a", &next).await.unwrap(), read);
        mark += 2;
    }
    println!("{landed} of 40 dropped writes landed");
}
