//! What may be given to a fence, and what not.

use portunus_core::error::ErrorKind;
use portunus_core::token::FencingToken;
use portunus_fence::MAX_VALUE_BYTES;

use super::FenceStage;
use super::stage::{refused, shared, shared_of, text, token, weak};

/// No two names meet, whatever a store folds, pads, cuts or takes for a path.
pub async fn names_are_told_apart_byte_by_byte(stage: &FenceStage) {
    let long = "n".repeat(511);
    let names = [
        "a",
        "A",
        "a ",
        " a",
        "a/b",
        "a/",
        "/a",
        "a%2Fb",
        "..",
        ".",
        "a.b",
        ".a",
        "ä",
        "a\u{308}",
        "{a}",
        "}a",
        "{}",
        "a:b",
        "a*",
        "'",
        "\"",
        "\\",
        "\u{1}",
        "%",
        "_",
        &format!("{long}1"),
        &format!("{long}2"),
        &"ü".repeat(256),
        &"/".repeat(512),
        &format!("{}.", "n".repeat(200)),
        &format!("{}..", "n".repeat(200)),
    ];
    for (mark, name) in (1..).zip(names) {
        assert_eq!(stage.open(name, mark).await.unwrap(), None, "{name:?}");
        stage.admit(name, mark, name).await.unwrap();
    }
    for (mark, name) in (1..).zip(names) {
        stage.is(name, mark, Some(name)).await;
    }
}

/// 1 to 512 bytes of UTF-8 without NUL.
pub async fn a_name_out_of_range_is_refused(stage: &FenceStage) {
    for name in ["", "a\0", &"a".repeat(513)] {
        let error = refused(stage.admit(name, 1, "").await, ErrorKind::Invalid);
        assert!(format!("{error:#}").contains("1 to 512 bytes"), "{error:#}");
        refused(stage.open(name, 1).await, ErrorKind::Invalid);
        refused(stage.check(name, 1).await, ErrorKind::Invalid);
        refused(stage.fence().mark(name).await, ErrorKind::Invalid);
    }
}

/// No store grants it.
pub async fn the_token_zero_is_refused(stage: &FenceStage) {
    let error = refused(stage.admit("a", 0, "zero").await, ErrorKind::Invalid);
    assert!(error.to_string().contains("accepted are 1 to"), "{error}");
    refused(stage.open("a", 0).await, ErrorKind::Invalid);
    refused(stage.check("a", 0).await, ErrorKind::Invalid);
    assert_eq!(stage.mark("a").await.unwrap(), None);
    assert_eq!(stage.open("a", 1).await.unwrap(), None);
}

/// Be it a first token, an equal or a higher one, exclusive or shared.
pub async fn a_weak_token_is_refused_and_changes_nothing(stage: &FenceStage) {
    let fence = stage.fence();
    let refuse = async |value: u64| {
        let weak = weak(value);
        let error = refused(fence.open("a", &weak).await, ErrorKind::Invalid);
        assert!(error.to_string().contains("accepted"), "{error}");
        assert!(error.to_string().contains("allow_weak"), "{error}");
        refused(fence.admit("a", &weak, b"weak").await, ErrorKind::Invalid);
        refused(fence.check("a", &shared_of(&weak)).await, ErrorKind::Invalid);
        // What another process reads of one that this one allows is weak again.
        let sent: FencingToken = weak.allow_weak().to_string().parse().unwrap();
        refused(fence.admit("a", &sent, b"weak").await, ErrorKind::Invalid);
    };
    refuse(7).await;
    assert_eq!(stage.mark("a").await.unwrap(), None);
    assert_eq!(stage.check("a", 1).await.unwrap(), None);
    stage.admit("a", 7, "seven").await.unwrap();
    for value in [6, 7, 8] {
        refuse(value).await;
        assert_eq!(stage.mark("a").await.unwrap(), Some(token(7)));
    }
    stage.is("a", 7, Some("seven")).await;
}

/// Also with a mark that a token which is not weak has left, and the reverse.
pub async fn a_weak_token_that_is_allowed_is_compared_like_any(stage: &FenceStage) {
    let (fence, weak) = (stage.fence(), |value| weak(value).allow_weak());
    assert_eq!(fence.open("a", &weak(7)).await.unwrap(), None);
    fence.admit("a", &weak(7), b"seven").await.unwrap();
    // A mark is a position, whoever raised it.
    assert_eq!(stage.mark("a").await.unwrap(), Some(token(7)));
    refused(fence.open("a", &weak(6)).await, ErrorKind::Stale);
    refused(fence.admit("a", &weak(6), b"six").await, ErrorKind::Stale);
    refused(fence.check("a", &shared_of(&weak(6)).allow_weak()).await, ErrorKind::Stale);
    refused(stage.admit("a", 6, "six").await, ErrorKind::Stale);
    let read = fence.check("a", &shared_of(&weak(7)).allow_weak()).await.unwrap();
    assert_eq!(text(read).as_deref(), Some("seven"));
    stage.is("a", 7, Some("seven")).await;
    stage.admit("a", 8, "eight").await.unwrap();
    refused(fence.admit("a", &weak(7), b"late").await, ErrorKind::Stale);
    assert_eq!(text(fence.open("a", &weak(8)).await.unwrap()).as_deref(), Some("eight"));
    fence.admit("a", &weak(9), b"nine").await.unwrap();
    stage.is("a", 9, Some("nine")).await;
}

/// As numbers, not as text, and not as floating point: up to 2⁶³ − 1 on each fence, and above that as
/// well or refused.
pub async fn tokens_of_any_size_are_ordered(stage: &FenceStage) {
    let signed = u64::try_from(i64::MAX).unwrap();
    let mut last = 8;
    stage.admit("a", last, "first").await.unwrap();
    for next in [9, 10, 99, 100, (1 << 53) - 1, 1 << 53, (1 << 53) + 1, signed - 1, signed] {
        stage.admit("a", next, &next.to_string()).await.unwrap();
        refused(stage.admit("a", last, "late").await, ErrorKind::Stale);
        refused(stage.open("a", next - 1).await, ErrorKind::Stale);
        refused(stage.check("a", next - 1).await, ErrorKind::Stale);
        stage.is("a", next, Some(&next.to_string())).await;
        last = next;
    }
    for above in [signed + 1, u64::MAX] {
        match stage.admit("a", above, &above.to_string()).await {
            Ok(()) => {
                refused(stage.admit("a", last, "late").await, ErrorKind::Stale);
                last = above;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{error:#}"),
        }
        stage.is("a", last, Some(&last.to_string())).await;
    }
}

/// Every byte, none at all, and as many as may be.
pub async fn values_come_back_as_they_were(stage: &FenceStage) {
    let every_byte: Vec<u8> = (0..=255).collect();
    let longest = vec![b'\n'; MAX_VALUE_BYTES];
    for (mark, value) in (1..).zip([&every_byte[..], b"", b"\n", &longest, b"\0"]) {
        let (fence, token) = (stage.fence(), token(mark));
        fence.admit("a", &token, value).await.unwrap();
        assert_eq!(fence.open("a", &token).await.unwrap().as_deref(), Some(value));
        assert_eq!(fence.check("a", &shared(mark)).await.unwrap().as_deref(), Some(value));
    }
}

/// Before anything is asked of the store.
pub async fn a_value_that_is_too_long_is_refused(stage: &FenceStage) {
    stage.admit("a", 1, "before").await.unwrap();
    let value = vec![0; MAX_VALUE_BYTES + 1];
    let error = refused(stage.fence().admit("a", &token(2), &value).await, ErrorKind::Invalid);
    assert!(error.to_string().contains("131073"), "{error}");
    stage.is("a", 1, Some("before")).await;
}
