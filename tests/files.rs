//! One idea a file: no source is longer than 400 lines, and none names a machine's own paths.

mod common;

use common::{metadata, rust_files};

#[test]
fn no_source_is_longer_than_400_lines() {
    let root = metadata().workspace_root.as_std_path();
    let files =
        ["crates", "examples", "tests"].iter().flat_map(|part| rust_files(&root.join(part)));
    let long: Vec<_> = files
        .filter_map(|file| {
            let lines = std::fs::read_to_string(&file).expect("a readable file").lines().count();
            (lines > 400).then(|| format!("{}: {lines}", file.display()))
        })
        .collect();
    assert_eq!(long, [""; 0]);
}

/// The README is packaged with the facade, and one link of it lies at the top.
#[test]
fn the_readme_at_the_top_is_the_facades() {
    let root = metadata().workspace_root.as_std_path();
    let read = |file| std::fs::read_to_string(root.join(file)).expect("a readable file");
    assert_eq!(read("README.md"), read("crates/portunus/README.md"));
}
