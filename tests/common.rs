//! What the tests of the workspace share.
#![allow(dead_code, reason = "each test uses a part of it")]

use cargo_metadata::{CargoOpt, Metadata, MetadataCommand, Package};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What the manifests of the workspace's members say.
pub(crate) fn metadata() -> &'static Metadata {
    static METADATA: OnceLock<Metadata> = OnceLock::new();
    METADATA
        .get_or_init(|| MetadataCommand::new().no_deps().exec().expect("`cargo metadata` works"))
}

/// The same with the whole tree of dependencies, every feature on, from the lock file.
pub(crate) fn resolved() -> Metadata {
    let mut command = MetadataCommand::new();
    command.features(CargoOpt::AllFeatures).other_options(["--locked".to_owned()]);
    command.exec().expect("`cargo metadata --locked` works")
}

pub(crate) fn workspace_package(name: &str) -> Package {
    let members = metadata().workspace_packages();
    let found = members.into_iter().find(|package| package.name.as_str() == name);
    found.unwrap_or_else(|| panic!("the workspace has no member `{name}`")).clone()
}

/// All Rust files below a folder, in order.
pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// A file's code without its comments.
pub(crate) fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).expect("a readable file");
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| line.split(" // ").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}
