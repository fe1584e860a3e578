//! The workspace's `rust-version` is what its users' dependency tree needs, no more and no less.

mod common;

use cargo_metadata::{DependencyKind, PackageId};
use common::resolved;
use std::collections::{BTreeSet, HashMap};

/// Edition 2024.
const FLOOR: (u64, u64) = (1, 85);

/// The tree of the published members with every feature: what their users build. Dev-dependencies
/// are left out, for users never build them.
#[test]
fn rust_version_is_the_highest_of_the_tree() {
    let metadata = resolved();
    let nodes = &metadata.resolve.as_ref().expect("a resolved tree").nodes;
    let nodes: HashMap<_, _> = nodes.iter().map(|node| (&node.id, node)).collect();
    let members = metadata.workspace_packages();
    let published = members.iter().filter(|package| package.publish != Some(Vec::new()));
    let mut open: Vec<&PackageId> = published.clone().map(|package| &package.id).collect();
    let mut tree = BTreeSet::new();
    while let Some(id) = open.pop() {
        if tree.insert(id) {
            let built = nodes[id].deps.iter().filter(|dependency| {
                dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development)
            });
            open.extend(built.map(|dependency| &dependency.pkg));
        }
    }
    let mut needed = (FLOOR, "edition 2024".to_owned());
    for id in tree.iter().filter(|id| !metadata.workspace_members.contains(id)) {
        let package = &metadata[id];
        if let Some(version) = &package.rust_version {
            let version = (version.major, version.minor);
            if version > needed.0 {
                needed = (version, format!("{} {}", package.name, package.version));
            }
        }
    }
    let ((major, minor), who) = needed;
    for package in published {
        let stated = package.rust_version.as_ref().expect("a rust-version");
        assert_eq!(
            (stated.major, stated.minor),
            (major, minor),
            "`{}` states {stated}, but {who} needs {major}.{minor}: mend `rust-version` in Cargo.toml",
            package.name
        );
    }
}
