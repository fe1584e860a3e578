//! Which token passes, and what that leaves.

use portunus_core::error::ErrorKind;

use super::FenceStage;
use super::stage::{LIFE, LOCK, refused, shared_of, token, token_of};

/// Without a mark each token passes, and becomes it.
pub async fn a_first_token_is_admitted(stage: &FenceStage) {
    assert_eq!(stage.mark("a").await.unwrap(), None);
    stage.admit("a", 7, "seven").await.unwrap();
    stage.is("a", 7, Some("seven")).await;
}

/// Whoever held before is too late.
pub async fn an_older_token_is_refused_and_writes_nothing(stage: &FenceStage) {
    stage.admit("a", 7, "seven").await.unwrap();
    let error = refused(stage.admit("a", 6, "six").await, ErrorKind::Stale);
    assert_eq!(error.key(), Some("a"));
    assert!(error.to_string().contains("the token 6 is below the mark 7"), "{error}");
    assert!(!error.is_retryable());
    stage.is("a", 7, Some("seven")).await;
}

/// One holder writes as often as it likes, and a retry of a lost reply is no harm.
pub async fn an_equal_token_passes_again(stage: &FenceStage) {
    stage.open("a", 7).await.unwrap();
    stage.open("a", 7).await.unwrap();
    stage.admit("a", 7, "one").await.unwrap();
    stage.admit("a", 7, "two").await.unwrap();
    stage.is("a", 7, Some("two")).await;
}

/// The new holder has only read so far, and the old one's write is refused.
pub async fn opening_raises_the_mark_before_anything_is_written(stage: &FenceStage) {
    stage.admit("a", 7, "seven").await.unwrap();
    assert_eq!(stage.open("a", 8).await.unwrap().as_deref(), Some("seven"));
    refused(stage.admit("a", 7, "late").await, ErrorKind::Stale);
    stage.is("a", 8, Some("seven")).await;
}

/// Also to another client, and none where nothing was written.
pub async fn opening_returns_what_was_written_last(stage: &FenceStage) {
    assert_eq!(stage.open("a", 7).await.unwrap(), None);
    stage.admit("a", 7, "seven").await.unwrap();
    stage.admit("a", 9, "nine").await.unwrap();
    let other = stage.client().await;
    assert_eq!(other.open("a", &token(9)).await.unwrap().as_deref(), Some(&b"nine"[..]));
}

/// Not even the reading is allowed to whoever is too late.
pub async fn a_refused_open_raises_nothing(stage: &FenceStage) {
    stage.admit("a", 7, "seven").await.unwrap();
    refused(stage.open("a", 6).await, ErrorKind::Stale);
    stage.is("a", 7, Some("seven")).await;
}

/// However high it is: the writer that it was granted beside, or before, still passes.
pub async fn a_shared_token_reads_and_raises_nothing(stage: &FenceStage) {
    assert_eq!(stage.check("a", 9).await.unwrap(), None);
    assert_eq!(stage.mark("a").await.unwrap(), None);
    stage.admit("a", 7, "seven").await.unwrap();
    assert_eq!(stage.check("a", 9).await.unwrap().as_deref(), Some("seven"));
    stage.admit("a", 8, "eight").await.unwrap();
    assert_eq!(stage.check("a", 9).await.unwrap().as_deref(), Some("eight"));
    assert_eq!(stage.check("a", 8).await.unwrap().as_deref(), Some("eight"));
    stage.is("a", 8, Some("eight")).await;
}

/// A reader from before the present writer.
pub async fn a_shared_token_below_the_mark_is_refused(stage: &FenceStage) {
    stage.open("a", 7).await.unwrap();
    refused(stage.check("a", 6).await, ErrorKind::Stale);
    stage.is("a", 7, None).await;
}

/// Tokens of two locks have no order.
pub async fn a_token_of_another_lock_is_refused(stage: &FenceStage) {
    foreign(stage, LIFE, "stack").await;
    // A name that ends where the other begins, and one that a pattern would match.
    foreign(stage, LIFE, "stoc").await;
    foreign(stage, LIFE, "stock2").await;
    foreign(stage, LIFE, "sto_k").await;
    foreign(stage, LIFE, "Stock").await;
}

/// A store that was restored or replaced counts from anywhere.
pub async fn a_token_of_another_life_of_the_store_is_refused(stage: &FenceStage) {
    foreign(stage, "Life", LOCK).await;
    foreign(stage, "lif", LOCK).await;
}

/// Marks are kept by name.
pub async fn each_resource_has_a_mark_of_its_own(stage: &FenceStage) {
    stage.admit("a", 7, "seven").await.unwrap();
    stage.admit("b", 3, "three").await.unwrap();
    refused(stage.admit("a", 3, "three").await, ErrorKind::Stale);
    // One lock may guard both, and another lock each.
    let other = token_of(1, LIFE, "other");
    stage.fence().admit("c", &other, b"one").await.unwrap();
    stage.is("a", 7, Some("seven")).await;
    stage.is("b", 3, Some("three")).await;
}

async fn foreign(stage: &FenceStage, life: &str, lock: &str) {
    stage.admit("a", 7, "seven").await.unwrap();
    for value in [1, 7, 8] {
        let foreign = token_of(value, life, lock);
        let fence = stage.fence();
        refused(fence.open("a", &foreign).await, ErrorKind::Conflict);
        refused(fence.admit("a", &foreign, b"foreign").await, ErrorKind::Conflict);
        refused(fence.check("a", &shared_of(&foreign)).await, ErrorKind::Conflict);
    }
    stage.is("a", 7, Some("seven")).await;
}
