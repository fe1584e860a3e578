//! A leader's work that blocks its thread can't be dropped: on demand its process ends.

use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn work_that_blocks_its_thread_ends_its_process() {
    let mut worker = Command::new(env!("CARGO_BIN_EXE_portunus-test-worker"))
        .args(["memory:", "a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a worker");
    let mut stdin = worker.stdin.take().expect("its stdin");
    stdin.write_all(b"overrun\n").expect("a worker that reads");
    // Its stdin stays open: it does not end by itself.
    assert_eq!(worker.wait().expect("its end").code(), Some(42));
    drop(stdin);
}
