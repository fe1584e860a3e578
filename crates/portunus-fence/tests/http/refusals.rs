//! What is refused, with which answer, and what the handler sees of the rest.

use axum::routing::{any, get};
use axum::{Extension, Router};
use portunus_fence::http::{FenceLayer, RequireTokenLayer};
use portunus_fence::{Fence, FencingToken, MemoryFence};

use super::{
    HEADER, fenced, foreign, path, reading, refused, request, send, shared, show, token, with,
};

#[tokio::test]
async fn a_request_without_a_token_is_refused() {
    for app in [reading(), fenced(&MemoryFence::new())] {
        let (status, name, detail) = refused(&app, request("/a", &[])).await;
        assert_eq!((status, name.as_str()), (428, "missing-token"));
        assert!(detail.contains(HEADER), "{detail}");
    }
}

#[tokio::test]
async fn a_malformed_token_is_refused() {
    let good = token(7).to_string();
    let bad: &[&[u8]] = &[
        b"",
        b"7",
        b";origin=017873",
        b"-7;origin=017873",
        b"+7;origin=017873",
        b"7 ;origin=017873",
        b"7.0;origin=017873",
        b"0x7;origin=017873",
        b"7;origin=",
        b"7;origin=01",
        b"7;origin=0178",
        b"7;origin=01787",
        b"7;origin=0178G3",
        b"7;origin=01787B",
        b"7;origin=ff7873",
        b"7;origin=007873",
        b"7;origin=017800",
        b"7;origin=0178ff",
        b"7;ORIGIN=017873",
        b"7; origin=017873",
        b"7;origin=017873;",
        b"7;origin=017873;shared;shared",
        b"7;origin=017873;Shared",
        b"7;origin=017873;shared=1",
        b"7;origin=017873;weak;weak",
        b"7;origin=017873;shared;weak",
        b"7;origin=017873;Weak",
        b"7;origin=017873;weak=0",
        b"7;origin=017873; weak",
        b"\"7;origin=017873\"",
        b"18446744073709551616;origin=017873",
        b"7;origin=017873\xff",
        b"\xc3\xbc;origin=017873",
        "\u{ff17};origin=017873".as_bytes(),
        b"7;origin=017873\t",
    ];
    let long = format!("7;origin=0178{}", "73".repeat(513));
    let joined = format!("{good}, {good}");
    let tight = format!("{good},{good}");
    let more = [long.as_bytes(), joined.as_bytes(), tight.as_bytes()];
    for app in [reading(), fenced(&MemoryFence::new())] {
        for value in bad.iter().chain(&more) {
            let (status, name, detail) = refused(&app, request("/a", &[*value])).await;
            let shown = value.escape_ascii();
            assert_eq!((status, name.as_str()), (400, "invalid"), "{shown}");
            assert!(detail.contains("accepted is `<decimal value>;origin="), "{shown}: {detail}");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_given_twice_is_refused() {
    let (first, second) = (token(7).to_string(), token(8).to_string());
    let (first, second) = (first.as_bytes(), second.as_bytes());
    for app in [reading(), fenced(&MemoryFence::new())] {
        for values in [[first, second], [first, first], [first, b""], [b"", b""]] {
            let (status, name, detail) = refused(&app, request("/a", &values)).await;
            assert_eq!((status, name.as_str()), (400, "invalid"));
            assert!(detail.ends_with("given more than once"), "{detail}");
        }
    }
}

#[tokio::test]
async fn the_handler_sees_the_token() {
    for app in [reading(), fenced(&MemoryFence::new())] {
        let answer = send(&app, with("/a", token(7))).await;
        assert_eq!(answer, (200, format!("exclusive {}", token(7))));
        let answer = send(&app, with("/a", shared(7))).await;
        assert_eq!(answer, (200, format!("shared {}", shared(7))));
    }
}

#[tokio::test]
async fn a_shared_token_is_refused_where_exclusive_ones_are_asked_for() {
    let router = || Router::new().route("/{*item}", any(show));
    let reading = router().layer(RequireTokenLayer::new().exclusive_only());
    let fenced = router().layer(FenceLayer::new(MemoryFence::new(), path).exclusive_only());
    for app in [reading, fenced] {
        let (status, name, _) = refused(&app, with("/a", shared(7))).await;
        assert_eq!((status, name.as_str()), (403, "exclusive-token-required"));
        assert_eq!(send(&app, with("/a", token(7))).await.0, 200);
    }
}

#[tokio::test]
async fn a_weak_token_is_refused_unless_the_service_allows_it() {
    let exclusive = format!("{};weak", token(7));
    let shared = format!("{exclusive};shared");
    let fence = MemoryFence::new();
    for app in [reading(), fenced(&fence)] {
        for weak in [&exclusive, &shared] {
            let (status, name, detail) = refused(&app, with("/a", weak)).await;
            assert_eq!((status, name.as_str()), (403, "weak-token"));
            assert!(detail.contains("Accepted are tokens of other stores"), "{detail}");
        }
    }
    assert_eq!(fence.mark("/a").await.unwrap(), None);
    // Of two things that are wrong the client mends the kind first.
    let exclusive_only =
        Router::new().route("/{*item}", any(show)).layer(RequireTokenLayer::new().exclusive_only());
    let (_, name, _) = refused(&exclusive_only, with("/a", &shared)).await;
    assert_eq!(name, "exclusive-token-required");

    let router = || Router::new().route("/{*item}", any(admit));
    let reading = router().layer(RequireTokenLayer::new().allow_weak());
    let fenced = router().layer(FenceLayer::new(fence.clone(), path).allow_weak());
    for app in [reading, fenced] {
        assert_eq!(send(&app, with("/a", &exclusive)).await, (200, "a weak one".to_owned()));
    }
    assert_eq!(fence.mark("/a").await.unwrap(), Some(token(7)));
    // Allowed is not believed: it is compared like any.
    let app =
        Router::new().route("/{*item}", any(show)).layer(FenceLayer::new(fence, path).allow_weak());
    assert_eq!(send(&app, with("/a", &shared)).await.0, 200);
    for late in [format!("{};weak", token(6)), format!("{};weak;shared", token(6))] {
        let (status, name, _) = refused(&app, with("/a", late)).await;
        assert_eq!((status, name.as_str()), (409, "stale-token"));
    }
}

/// A handler whose fence is asked again: the layer's leave is the token's.
async fn admit(Extension(token): Extension<FencingToken>) -> String {
    MemoryFence::new().admit("a", &token, b"").await.unwrap();
    if token.is_weak() { "a weak one" } else { "not a weak one" }.to_owned()
}

#[tokio::test]
async fn a_stale_token_is_refused() {
    let fence = MemoryFence::new();
    let app = fenced(&fence);
    assert_eq!(send(&app, with("/a", token(7))).await.0, 200);
    let (status, body) = send(&app, with("/a", token(6))).await;
    assert_eq!(status, 409);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let expected = serde_json::json!({
        "type": "urn:portunus:fence:stale-token",
        "title": "Another holder of the lock came later",
        "status": 409,
        "detail": "memory fence hold /a: stale token: the token 6 is below the mark 7",
    });
    assert_eq!(body, expected);
    // The holder itself comes again, and another resource has its own mark.
    assert_eq!(send(&app, with("/a", token(7))).await.0, 200);
    assert_eq!(send(&app, with("/b", token(6))).await.0, 200);
    assert_eq!(fence.mark("/a").await.unwrap(), Some(token(7)));
}

#[tokio::test]
async fn a_token_of_another_lock_is_refused() {
    let app = fenced(&MemoryFence::new());
    assert_eq!(send(&app, with("/a", token(7))).await.0, 200);
    for other in [foreign(6), foreign(7), foreign(8)] {
        let (status, name, detail) = refused(&app, with("/a", &other)).await;
        assert_eq!((status, name.as_str()), (409, "foreign-token"));
        assert!(detail.contains("of the lock `stack`, the mark of `stock`"), "{detail}");
    }
}

#[tokio::test]
async fn a_shared_token_is_compared_and_never_kept() {
    let fence = MemoryFence::new();
    let app = fenced(&fence);
    assert_eq!(send(&app, with("/a", shared(9))).await.0, 200);
    assert_eq!(fence.mark("/a").await.unwrap(), None);
    assert_eq!(send(&app, with("/a", token(7))).await.0, 200);
    assert_eq!(send(&app, with("/a", shared(9))).await.0, 200);
    assert_eq!(send(&app, with("/a", shared(7))).await.0, 200);
    let (status, name, _) = refused(&app, with("/a", shared(6))).await;
    assert_eq!((status, name.as_str()), (409, "stale-token"));
    assert_eq!(fence.mark("/a").await.unwrap(), Some(token(7)));
    assert_eq!(send(&app, with("/a", token(8))).await.0, 200);
}

#[tokio::test]
async fn what_no_fence_keeps_is_refused() {
    let fence = MemoryFence::new();
    let app = fenced(&fence);
    let long = format!("/{}", "a".repeat(512));
    let zero = format!("{};shared", token(0));
    for (path, value) in
        [("/a", token(0).to_string()), ("/a", zero), (long.as_str(), token(1).to_string())]
    {
        let (status, name, _) = refused(&app, with(path, value)).await;
        assert_eq!((status, name.as_str()), (400, "invalid"));
    }
    assert_eq!(fence.mark("/a").await.unwrap(), None);
    assert_eq!(send(&app, with(&long[..512], token(u64::MAX))).await.0, 200);

    let nameless = FenceLayer::new(fence, |_| String::new());
    let app = Router::new().route("/a", get(show)).layer(nameless);
    assert_eq!(refused(&app, with("/a", token(1))).await.0, 400);
}
