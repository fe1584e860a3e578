//! Tokens grow, whatever rows go.

use futures_util::future::join_all;

use crate::{LONG, Scene};

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_key_that_was_pruned_goes_on_above_its_last_token() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    let mut last = 0;
    for _ in 0..5 {
        let (attempt, token) = client.hold("a").await;
        assert!(token > last);
        last = token;
        client.leave(&attempt).await;
    }
    let (held, other) = client.hold("b").await;
    assert_eq!(client.backend.prune().await.unwrap(), 1);
    assert_eq!((scene.count("key").await, scene.count("entry").await), (1, 1));
    assert!(client.hold("a").await.1 > last);
    // What is held stays, and goes on where it was.
    client.leave(&held).await;
    assert_eq!(client.hold("b").await.1, other + 1);
    assert_eq!(client.backend.prune().await.unwrap(), 0);
}

/// More than one transaction removes.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn one_call_prunes_keys_by_the_thousand() {
    let scene = Scene::new().await;
    let client = scene.client(LONG).await;
    client.hold("kept").await;
    let keys =
        "INSERT INTO portunus_key SELECT 'portunus/k' || n, n FROM generate_series(1, 1500) n";
    scene.raw().await.execute(keys, &[]).await.unwrap();
    assert_eq!(client.backend.prune().await.unwrap(), 1500);
    assert_eq!(scene.count("key").await, 1);
    assert!(client.hold("k1").await.1 > 1500);
}

/// Pruning and entering at once, many times.
#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn a_token_is_never_lower_while_others_prune() {
    let scene = Scene::new().await;
    let (client, pruner) = (scene.client(LONG).await, scene.backend());
    let holding = async {
        let mut last = 0;
        for _ in 0..200 {
            let (attempt, token) = client.holds_again("a").await;
            assert!(token > last, "{token} after {last}");
            last = token;
            client.leave(&attempt).await;
        }
    };
    let pruning = async {
        loop {
            // It may wait for a row too long.
            pruner.prune().await.ok();
        }
    };
    tokio::select! {
        () = holding => {}
        () = pruning => {}
    }
}

#[tokio::test]
#[ignore = "needs a server: `cargo xtask test`"]
async fn four_thousand_grants_leave_a_row_for_each_key() {
    let scene = Scene::new().await;
    let client = &scene.client(LONG).await;
    join_all((0..20).map(|key| async move {
        for _ in 0..200 {
            let (attempt, _) = client.hold(&format!("k{key}")).await;
            client.leave(&attempt).await;
        }
    }))
    .await;
    assert_eq!((scene.count("key").await, scene.count("entry").await), (20, 0));
}
