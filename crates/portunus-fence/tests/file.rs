//! The fence in files: the suite, and what is particular to it.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use portunus_core::name::LockName;
use portunus_core::token::{Incarnation, Origin};
use portunus_fence::{ErrorKind, Fence, FencingToken, FileFence};
use portunus_testkit::{FenceHarness, async_trait};
use tempfile::TempDir;

portunus_testkit::fence_conformance! { open }

struct Files(TempDir);

async fn open() -> Files {
    Files(TempDir::new().unwrap())
}

#[async_trait]
impl FenceHarness for Files {
    async fn fence(&self) -> Arc<dyn Fence> {
        Arc::new(FileFence::new(self.0.path()).unwrap())
    }

    /// The processes' own end is seen in the workspace's tests; nothing is kept in memory.
    async fn restart(&self) {}
}

#[tokio::test]
async fn the_file_is_the_mark_and_the_value() {
    let files = open().await;
    let fence = files.fence().await;
    fence.open("stock/42", &token(7)).await.unwrap();
    assert_eq!(files.file("stock%2F42"), "7;origin=016c73746f636b");
    fence.admit("stock/42", &token(8), b"three\nleft\n").await.unwrap();
    assert_eq!(files.file("stock%2F42"), "8;origin=016c73746f636b\nthree\nleft\n");
    // A mark is a position: it reads as it did before tokens said what they are worth.
    let weak = FencingToken::new_weak(9, token(9).origin().clone());
    fence.open("stock/42", &weak.allow_weak()).await.unwrap();
    assert_eq!(files.file("stock%2F42"), "9;origin=016c73746f636b\nthree\nleft\n");
    assert!(!files.0.path().join("next/stock%2F42").exists());
}

#[tokio::test]
async fn a_file_that_is_no_mark_is_not_written_over() {
    let files = open().await;
    let fence = files.fence().await;
    fence.admit("a", &token(7), b"seven").await.unwrap();
    let path = files.0.path().join("values/a");
    fs::write(&path, "hello").unwrap();
    let error = fence.admit("a", &token(8), b"eight").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:#}");
    assert_eq!(fs::read_to_string(path).unwrap(), "hello");
}

/// Half of it was on the disk when the process died.
#[tokio::test]
async fn a_file_that_was_begun_is_begun_again() {
    let files = open().await;
    let fence = files.fence().await;
    fence.admit("a", &token(7), b"seven").await.unwrap();
    fs::write(files.0.path().join("next/a"), "8;ori").unwrap();
    assert_eq!(fence.open("a", &token(7)).await.unwrap().as_deref(), Some(&b"seven"[..]));
    fence.admit("a", &token(8), b"eight").await.unwrap();
    assert_eq!(files.file("a"), "8;origin=016c73746f636b\neight");
}

#[tokio::test]
async fn a_place_that_cannot_be_is_told() {
    let files = open().await;
    let file = files.0.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(FileFence::new(&file).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(FileFence::new(file.join("below")).unwrap_err().kind(), ErrorKind::Invalid);
}

impl Files {
    fn file(&self, name: &str) -> String {
        let path: PathBuf = self.0.path().join("values").join(name);
        fs::read_to_string(path).unwrap()
    }
}

fn token(value: u64) -> FencingToken {
    let origin = Origin::new(Incarnation::new("l").unwrap(), LockName::new("stock").unwrap());
    FencingToken::new(value, origin)
}
