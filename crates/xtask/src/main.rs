//! The project's own commands: `cargo xtask …` tests, lints, and looks after the containers.

mod apt;
mod docker;
mod images;
mod lint;
mod pip;
mod process;
mod sweep;
mod test;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

/// The end of a step: done, or why not.
type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The commands of the Portunus workspace")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test, those on real clusters included
    Test(test::Args),
    /// Run the benchmarks
    Bench {
        /// Arguments for the benchmarks themselves
        #[arg(last = true)]
        extra: Vec<String>,
    },
    /// Build the images of the test clusters
    Images {
        /// Build also what is there already
        #[arg(long)]
        rebuild: bool,
    },
    /// Remove containers and networks that dead tests left behind
    Sweep {
        /// Remove those of running tests, too
        #[arg(long)]
        all: bool,
    },
    /// Check format, lints, documentation, features and dependencies
    Lint,
}

fn main() -> ExitCode {
    let task = Cli::parse().command;
    match process::end_children_on_signal().and_then(|()| run(task)) {
        Ok(code) => ExitCode::from(code),
        Err(_) if process::interrupted() => ExitCode::from(process::INTERRUPTED),
        Err(error) => {
            eprintln!("cargo xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<u8> {
    match task {
        Task::Test(args) => return test::test(&args),
        Task::Bench { extra } => return test::bench(&extra),
        Task::Images { rebuild } => images::ensure(rebuild)?,
        Task::Sweep { all } => {
            docker::require()?;
            sweep::sweep(all)?;
        }
        Task::Lint => return lint::lint(),
    }
    Ok(0)
}

/// The workspace's root, from where every child runs.
fn root() -> PathBuf {
    // Cargo sets it for `cargo run`, hence for the alias; without cargo, stand in the root.
    match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(here) => Path::new(&here).join("../.."),
        None => PathBuf::from("."),
    }
}

/// A cargo that finds the `protoc` which etcd-client's build asks for.
fn cargo() -> Result<Command> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    if std::env::var_os("PROTOC").is_none() {
        cargo.env("PROTOC", protoc_bin_vendored::protoc_bin_path()?);
        cargo.env("PROTOC_INCLUDE", protoc_bin_vendored::include_path()?);
    }
    Ok(cargo)
}
