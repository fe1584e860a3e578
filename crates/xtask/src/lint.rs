//! `cargo xtask lint`: every check that runs no test.

use std::process::{Command, Stdio};

use cargo_metadata::{Metadata, MetadataCommand, Package};

use crate::test::with_mutants;
use crate::{Result, cargo, process, root};

/// Runs the checks until one fails and returns that one's exit code.
pub(crate) fn lint() -> Result<u8> {
    let metadata = MetadataCommand::new().current_dir(root()).no_deps().exec()?;
    let mut steps = vec![
        step(["fmt", "--all", "--check"])?,
        clippy(&["--workspace", "--all-targets", "--all-features"])?,
        // As users build it. Only the core, where the mutants live: no second build of the rest.
        without_mutants(clippy(&["--package", "portunus-core"])?),
    ];
    let mut docs = step(["doc", "--workspace", "--no-deps", "--all-features"])?;
    docs.env("RUSTDOCFLAGS", "-D warnings");
    steps.push(docs);
    for package in &metadata.packages {
        steps.extend(each_feature(package)?);
    }
    if is_installed("deny") {
        // Not the advisories: they change without a commit, and need the network.
        steps.push(step(["deny", "check", "bans", "licenses", "sources"])?);
    } else {
        eprintln!("cargo-deny is not installed: licences and sources are not checked");
    }
    for mut command in steps {
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        eprintln!("\n$ cargo {}", args.join(" "));
        let status = process::run(&mut command)?;
        if !status.success() {
            return Ok(process::exit_code(status));
        }
    }
    dependencies(&metadata)?;
    Ok(0)
}

/// A package without features, and with each of its features alone.
fn each_feature(package: &Package) -> Result<Vec<Command>> {
    let features = package.features.keys().filter(|name| *name != "default");
    if package.features.is_empty() {
        return Ok(Vec::new());
    }
    let alone = ["--no-default-features", "--package", package.name.as_str()];
    let mut steps = vec![clippy(&alone)?];
    for feature in features {
        steps.push(clippy(&[&alone[..], &["--features", feature]].concat())?);
    }
    Ok(steps)
}

/// Checks what the packages pull in: one TLS provider, and one client library a feature.
fn dependencies(metadata: &Metadata) -> Result<()> {
    let everything = tree(&["--workspace", "--all-features", "--edges", "all"])?;
    if everything.iter().any(|name| name == "ring") {
        return Err(
            "`ring` is in the tree (`cargo tree --workspace --all-features --invert ring`): \
                    with two TLS providers rustls panics, so aws-lc-rs is the only one"
                .into(),
        );
    }
    for package in ["portunus", "portunus-fence"] {
        let features = metadata.packages.iter().find(|found| found.name.as_str() == package);
        let features = features.map(|found| &found.features);
        let features = features.ok_or_else(|| format!("BUG: there is no package `{package}`"))?;
        for (backend, client) in CLIENTS.iter().filter(|(name, _)| features.contains_key(*name)) {
            let args = ["--package", package, "--no-default-features", "--features", backend];
            let names = tree(&[&args[..], &["--edges", "normal,build"]].concat())?;
            let foreign = |name: &&String| CLIENTS.iter().any(|(_, c)| c == name) && name != client;
            if let Some(foreign) = names.iter().find(foreign) {
                return Err(format!("`{backend}` alone of {package} pulls in `{foreign}`").into());
            }
        }
    }
    Ok(())
}

/// The names of the packages in a dependency tree.
fn tree(args: &[&str]) -> Result<Vec<String>> {
    let mut command = step(["tree", "--prefix", "none", "--format", "{p}"])?;
    let output = process::capture(command.args(args))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", output.status).into());
    }
    let names = String::from_utf8(output.stdout)?;
    Ok(names.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn clippy(args: &[&str]) -> Result<Command> {
    let mut command = step(["clippy", "--quiet"])?;
    command.args(args).args(["--", "-D", "warnings"]);
    Ok(command)
}

/// A step with the tests' flags, mutants included, so that what one builds serves the other.
fn step<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<Command> {
    let mut command = cargo()?;
    let (variable, flags) = with_mutants();
    command.args(args).env(variable, flags);
    Ok(command)
}

fn without_mutants(mut command: Command) -> Command {
    let (variable, _) = with_mutants();
    match std::env::var_os(variable) {
        Some(flags) => command.env(variable, flags),
        None => command.env_remove(variable),
    };
    command
}

fn is_installed(subcommand: &str) -> bool {
    let version = Command::new(format!("cargo-{subcommand}"))
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

/// A backend's feature, and the one client library that it may bring.
const CLIENTS: [(&str, &str); 6] = [
    ("etcd", "etcd-client"),
    ("mysql", "mysql_async"),
    ("postgres", "tokio-postgres"),
    ("redis", "redis"),
    ("sqlite", "rusqlite"),
    ("zookeeper", "zookeeper-client"),
];
