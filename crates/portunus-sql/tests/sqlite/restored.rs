//! Copies that are put back: who ran through it is told, and holds nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use portunus_core::backend::{LockBackend, LockObserver, Turn};
use portunus_core::error::ErrorKind;
use portunus_core::name::LockName;
use rusqlite::MAIN_DB;
use tokio::time::timeout;

use crate::{LONG, Scene, attempt};

const SILENT: Option<fn(rusqlite::backup::Progress)> = None;

impl Scene {
    fn copy(&self) -> PathBuf {
        let copy = self.home.path().join("copy.db");
        self.raw().backup(MAIN_DB, &copy, SILENT).unwrap();
        copy
    }

    /// As `.restore` does it: the file stays the same one.
    fn restore(&self, copy: &Path) {
        self.raw().restore(MAIN_DB, copy, SILENT).unwrap();
    }
}

#[tokio::test]
async fn a_file_that_went_back_ends_what_was_held_and_grants_nothing() {
    let scene = Scene::new();
    let client = scene.client(LONG).await;
    let name = LockName::new("a").unwrap();
    let copy = scene.copy();
    let (held, token) = client.hold("a").await;
    let entry = client.backend.queue(&name).await.unwrap()[0].id.clone();
    for moved in [false, cfg!(unix)] {
        match moved {
            false => scene.restore(&copy),
            true => {
                for file in ["locks.db-wal", "locks.db-shm"] {
                    let _ = std::fs::remove_file(scene.home.path().join(file));
                }
                std::fs::rename(&copy, scene.path()).unwrap();
            }
        }
        let look = client.backend.look(&client.session, &held, &entry).await;
        let renewal = client.backend.renew(&client.session, &[]).await;
        let told = client.backend.publish(&client.session, &held, &entry, "v").await;
        for lost in [look.map(drop), renewal.map(drop), told] {
            let lost = lost.unwrap_err();
            assert_eq!(lost.kind(), ErrorKind::Lost, "{lost}");
        }
        let entered = client.backend.enter(&client.session, &attempt("b", false)).await;
        let opened = client.backend.open_session(LONG).await;
        let evicted = client.backend.evict(&name, &entry).await;
        for back in [entered.map(drop), opened.map(drop), evicted.map(drop)] {
            let back = back.unwrap_err();
            assert_eq!(back.kind(), ErrorKind::Regression, "{back}");
            assert!(back.to_string().contains("an earlier copy"), "{back}");
        }
    }
    // One that knows nothing of it gets the same number once more.
    assert_eq!(scene.client(LONG).await.hold("a").await.1, token);
}

#[tokio::test]
async fn a_session_that_went_back_is_lost_though_others_raised_the_counter() {
    let scene = Scene::new();
    let (client, other) = (scene.client(LONG).await, scene.client(LONG).await);
    client.backend.renew(&client.session, &[]).await.unwrap();
    let copy = scene.copy();
    let (held, _) = client.hold("a").await;
    scene.restore(&copy);
    for name in ["a", "b", "c"] {
        other.hold(name).await;
    }
    // It was not renewed meanwhile: its row is as it was, but not its entry.
    let renewal = client.backend.renew(&client.session, &[Arc::new(held.clone())]).await.unwrap();
    assert_eq!(renewal.lost, [held.id]);
    let renewal = other.backend.renew(&other.session, &[]).await.unwrap();
    assert_eq!(renewal.lost, []);
    let copy = scene.copy();
    client.backend.renew(&client.session, &[]).await.unwrap();
    scene.restore(&copy);
    other.hold("d").await;
    let lost = client.backend.renew(&client.session, &[]).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Lost, "{lost}");
}

#[tokio::test]
async fn who_waits_or_follows_is_told_that_the_file_went_back() {
    let scene = Scene::new();
    let (holder, client) = (scene.client(LONG).await, scene.client(LONG).await);
    let name = LockName::new("a").unwrap();
    let copy = scene.copy();
    let (held, token) = holder.hold("a").await;
    let entry = holder.backend.queue(&name).await.unwrap()[0].id.clone();
    let mut following = client.backend.follow(&name, 0).await.unwrap();
    let head = following.next().await.unwrap().unwrap();
    assert_eq!(head.holder.unwrap().token, Some(token));
    let turn = holder.backend.look(&holder.session, &held, &entry).await.unwrap();
    assert!(matches!(turn, Turn::Held { .. }), "{turn:?}");
    let waiting = async {
        let changed = holder.backend.changed(&holder.session, &held, &entry, &turn);
        let mut changed = std::pin::pin!(changed);
        // Its first look saw that the entry stands.
        let early = timeout(Duration::from_millis(100), &mut changed).await;
        assert!(early.is_err(), "{early:?}");
        scene.restore(&copy);
        changed.await.unwrap();
        following.next().await.unwrap().unwrap_err()
    };
    let back = timeout(Duration::from_secs(20), waiting).await.expect("they are told");
    assert_eq!(back.kind(), ErrorKind::Regression, "{back}");
}
