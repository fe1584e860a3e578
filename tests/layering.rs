//! The layers, read from `cargo metadata` and from the sources: no arrow points upward.

mod common;

use cargo_metadata::{DependencyKind, Package};
use common::{code, metadata, rust_files, workspace_package};
use std::collections::BTreeSet;
use std::path::Path;

/// The modules of core, low to high. A module imports only from lines before its own.
const RANKS: [&[&str]; 17] = [
    &["error"],
    &["name"],
    &["token"],
    &["clock", "url"],
    &["tls"],
    &["backend"],
    &["chance", "loss", "mutant", "sync"],
    &["beat", "joint", "queue"],
    &["memory"],
    &["keeper"],
    &["guard"],
    &["handle"],
    &["lock", "many", "rwlock", "semaphore"],
    &["election"],
    &["manager"],
    &["blocking"],
    &["lib"],
];

/// The modules of core that look at a clock; memory is a store, with a clock of its own.
const TIMED: [&str; 6] = ["beat", "clock", "guard", "handle", "keeper", "memory"];

/// The facade's stores: the crate, a client library that it may bring, and where the files
/// for it are.
const BACKENDS: [(&str, &str, &str); 6] = [
    ("portunus-etcd", "etcd-client", "src"),
    ("portunus-redis", "redis", "src"),
    ("portunus-sql", "mysql_async", "src/mysql"),
    ("portunus-sql", "rusqlite", "src/sqlite"),
    ("portunus-sql", "tokio-postgres", "src/postgres"),
    ("portunus-zookeeper", "zookeeper-client", "src"),
];

/// Words that core must not know, in any spelling.
const STORES: [&str; 8] =
    ["consul", "etcd", "mariadb", "mysql", "postgres", "redis", "sqlite", "zookeeper"];

#[test]
fn members_depend_on_lower_layers_only() {
    let backends = BACKENDS.map(|(backend, ..)| backend);
    // Its guide shows the resource's side, too.
    let facade = [&["portunus-core", "portunus-fence"], &backends[..]].concat();
    for (member, allowed) in [
        ("portunus-core", &[][..]),
        ("portunus-testkit", &["portunus-core", "portunus-fence"]),
        ("portunus", &facade),
        ("portunus-examples", &["portunus", "portunus-fence"]),
        ("portunus-tests", &["portunus", "portunus-fence", "portunus-testkit"]),
        ("xtask", &[]),
    ] {
        assert_eq!(above(&ours(&workspace_package(member), is_any), allowed), [""; 0], "{member}");
    }
    // Backends, and what the resource compares with.
    for backend in backends.into_iter().chain(["portunus-fence"]) {
        let package = workspace_package(backend);
        let built = ours(&package, |kind| kind != DependencyKind::Development);
        assert_eq!(above(&built, &["portunus-core"]), [""; 0], "{backend}");
        let tested = ours(&package, is_any);
        assert_eq!(above(&tested, &["portunus-core", "portunus-testkit"]), [""; 0], "{backend}");
    }
}

#[test]
fn the_facade_has_nothing_but_core_and_backends() {
    let facade = workspace_package("portunus");
    for dependency in built(&facade) {
        assert!(dependency.starts_with("portunus-"), "the facade depends on `{dependency}`");
    }
    for (backend, ..) in BACKENDS {
        let dependency = facade.dependencies.iter().find(|dependency| dependency.name == backend);
        assert!(dependency.is_some_and(|found| found.optional), "`{backend}` is not optional");
    }
    let default = facade.features.get("default").expect("a default feature");
    assert!(default.is_empty(), "a store is on by default: {default:?}");
}

#[test]
fn a_backend_brings_its_own_client_library_alone() {
    let clients: BTreeSet<_> = BACKENDS.iter().map(|(_, client, _)| *client).collect();
    for (backend, ..) in BACKENDS {
        let brought = built(&workspace_package(backend));
        let brought: BTreeSet<_> =
            brought.iter().map(String::as_str).filter(|name| clients.contains(name)).collect();
        let own = BACKENDS.iter().filter(|(other, ..)| *other == backend);
        assert_eq!(brought, own.map(|(_, client, _)| *client).collect(), "{backend}");
    }
    let core = built(&workspace_package("portunus-core"));
    let foreign = core.iter().find(|name| clients.contains(name.as_str()));
    assert_eq!(foreign, None, "core has a client library");
}

#[test]
fn every_backend_has_the_same_files() {
    for (backend, _, folder) in BACKENDS {
        let manifest = workspace_package(backend).manifest_path;
        let root = manifest.parent().expect("a folder");
        let own = ["config.rs", "backend.rs", "error.rs"].map(|file| format!("{folder}/{file}"));
        for file in ["README.md".to_owned(), "src/lib.rs".to_owned()].into_iter().chain(own) {
            assert!(root.join(&file).is_file(), "{backend} has no {file}");
        }
    }
}

#[test]
fn modules_of_core_import_lower_ones_only() {
    let rank = |module: &str| RANKS.iter().position(|line| line.contains(&module));
    for (module, file, code) in core_modules() {
        let own = rank(&module).unwrap_or_else(|| panic!("{file}: `{module}` has no rank"));
        for imported in code.split("crate::").skip(1) {
            let imported = imported.split(|c: char| !c.is_alphanumeric() && c != '_').next();
            let imported = imported.unwrap_or_default();
            let other = rank(imported).unwrap_or_else(|| {
                panic!("{file}: `crate::{imported}` is no module; import by the module's path")
            });
            assert!(other < own || imported == module, "{file}: {module} → {imported} is upward");
        }
    }
}

#[test]
fn core_lists_its_modules_in_rank_order() {
    let (_, _, lib) = core_modules().into_iter().find(|(module, ..)| module == "lib").expect("lib");
    let declared: Vec<_> = lib
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("pub ").strip_prefix("mod "))
        .map(|module| module.trim_end_matches(';'))
        .collect();
    let ranked: Vec<_> = RANKS.concat();
    assert_eq!(declared, ranked[..ranked.len() - 1]);
}

#[test]
fn only_some_modules_look_at_a_clock() {
    for (module, file, code) in core_modules() {
        let looks = code.contains(".now()") || code.contains("::now()");
        assert!(!looks || TIMED.contains(&module.as_str()), "{file} looks at a clock");
        let counts =
            ["tokio::time", "Instant", "SystemTime"].iter().any(|word| code.contains(word));
        assert!(!counts || module == "clock", "{file} has a time of its own");
    }
    for (backend, ..) in BACKENDS {
        for (file, code) in sources(backend) {
            // Its unit tests may measure.
            let code = code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            for word in ["tokio::time", "Instant", "SystemTime", "::now()", ".now()"] {
                assert!(!code.contains(word), "{file}: a backend starts no timer, but `{word}`");
            }
        }
    }
}

#[test]
fn core_names_no_store() {
    let root = workspace_package("portunus-core").manifest_path;
    let root = root.parent().expect("a folder").as_std_path();
    for file in rust_files(&root.join("src")).into_iter().chain([root.join("README.md")]) {
        let text = std::fs::read_to_string(&file).expect("a readable file").to_lowercase();
        for store in STORES {
            assert!(!text.contains(store), "{} names `{store}`", file.display());
        }
    }
}

/// The modules of core as (top-level module, file, code without comments).
fn core_modules() -> Vec<(String, String, String)> {
    let modules = sources("portunus-core").into_iter().map(|(file, code)| {
        let (_, inside) = file.rsplit_once("/src/").expect("a file in src");
        let module = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        (module.to_owned(), file.clone(), code)
    });
    modules.collect()
}

/// The sources of a member with their names, without comments.
fn sources(member: &str) -> Vec<(String, String)> {
    let manifest = workspace_package(member).manifest_path;
    let root: &Path = manifest.parent().expect("a folder").as_std_path();
    let files = rust_files(&root.join("src")).into_iter();
    files.map(|file| (file.to_string_lossy().replace('\\', "/"), code(&file))).collect()
}

/// The workspace's members that a package depends on.
fn ours(package: &Package, wanted: impl Fn(DependencyKind) -> bool) -> BTreeSet<String> {
    let members: BTreeSet<_> =
        metadata().workspace_packages().iter().map(|member| member.name.to_string()).collect();
    let dependencies = package.dependencies.iter().filter(|dependency| wanted(dependency.kind));
    dependencies.map(|dependency| dependency.name.clone()).filter(|d| members.contains(d)).collect()
}

/// What users of a package have to build.
fn built(package: &Package) -> BTreeSet<String> {
    let built = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
    built.map(|dependency| dependency.name.clone()).collect()
}

fn above<'a>(found: &'a BTreeSet<String>, allowed: &[&str]) -> Vec<&'a str> {
    found.iter().map(String::as_str).filter(|name| !allowed.contains(name)).collect()
}

fn is_any(_: DependencyKind) -> bool {
    true
}
