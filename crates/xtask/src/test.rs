//! `cargo xtask test` and `bench`: cargo's own, between images that are there and a sweep.

use std::ffi::OsString;
use std::process::Command;

use clap::ValueEnum;

use crate::{Result, cargo, docker, images, process, sweep};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the tests of this backend
    backend: Option<Backend>,
    /// Only the tests that need no Docker
    #[arg(long)]
    local: bool,
    /// Arguments for the test programs themselves: a filter, `--nocapture`
    #[arg(last = true)]
    extra: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    Etcd,
    Redis,
    #[value(name = "zookeeper")]
    ZooKeeper,
}

impl Backend {
    /// The backend, the kit that starts its clusters, and everything tested through them.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Etcd => &[
                "portunus",
                "portunus-etcd",
                "portunus-fence",
                "portunus-testkit",
                "portunus-tests",
            ],
            Self::Redis => &[
                "portunus",
                "portunus-fence",
                "portunus-redis",
                "portunus-testkit",
                "portunus-tests",
            ],
            Self::ZooKeeper => &[
                "portunus",
                "portunus-fence",
                "portunus-testkit",
                "portunus-tests",
                "portunus-zookeeper",
            ],
        }
    }
}

/// Runs the tests and returns cargo's exit code.
pub(crate) fn test(args: &Args) -> Result<u8> {
    if args.local {
        let Some(left_out) = count_cluster_tests(args)? else { return Ok(FAILED_BUILD) };
        eprintln!("not run, as they need a cluster: {left_out} tests");
        let status = process::run(cargo_test(args)?.arg("--").args(&args.extra))?;
        return Ok(process::exit_code(status));
    }
    if let Err(error) = docker::require() {
        // At once, and again below the build's output.
        eprintln!("{error}\ncounting the tests that are not run");
        let left_out = match count_cluster_tests(args)? {
            Some(number) => format!("{number} tests"),
            None => "tests that do not build".to_owned(),
        };
        return Err(format!(
            "{error}\nnot run: {left_out}. All others: `cargo xtask test --local`"
        )
        .into());
    }
    let mut command = cargo_test(args)?;
    command.args(["--", "--include-ignored"]).args(&args.extra);
    on_clusters(&mut command)
}

/// Runs the benchmarks and returns cargo's exit code.
pub(crate) fn bench(extra: &[String]) -> Result<u8> {
    docker::require()?;
    let mut command = cargo()?;
    command.args(["bench", "--package", "portunus", "--package", "portunus-fence"]);
    command.args(["--all-features", "--benches", "--"]);
    on_clusters(command.args(extra))
}

/// The compiler's flags of the environment, and the seeded mutants that some tests must kill.
pub(crate) fn with_mutants() -> (&'static str, OsString) {
    for (variable, separator) in [("CARGO_ENCODED_RUSTFLAGS", "\x1f"), ("RUSTFLAGS", " ")] {
        if let Some(mut flags) = std::env::var_os(variable).filter(|flags| !flags.is_empty()) {
            flags.push([separator, "--cfg", separator, "portunus_mutant"].concat());
            return (variable, flags);
        }
    }
    ("RUSTFLAGS", "--cfg portunus_mutant".into())
}

/// Runs a command that starts clusters; what it leaves is gone afterwards, whatever happened.
fn on_clusters(command: &mut Command) -> Result<u8> {
    sweep::sweep(false)?;
    images::ensure(false)?;
    let status = process::run(command);
    let swept = sweep::sweep(false);
    let code = process::exit_code(status?);
    swept?;
    Ok(code)
}

fn cargo_test(args: &Args) -> Result<Command> {
    let mut command = cargo()?;
    let (variable, flags) = with_mutants();
    command.env(variable, flags).arg("test").arg("--all-features");
    match args.backend {
        None => command.arg("--workspace"),
        Some(backend) => {
            command.args(backend.packages().iter().map(|name| format!("--package={name}")))
        }
    };
    Ok(command)
}

/// How many tests are ignored without a cluster: asked of the tests themselves, so they are built.
fn count_cluster_tests(args: &Args) -> Result<Option<usize>> {
    let mut command = cargo_test(args)?;
    command.args(["--tests", "--", "--list", "--ignored"]);
    let output = process::capture(&mut command)?;
    if !output.status.success() {
        return Ok(None);
    }
    let list = String::from_utf8_lossy(&output.stdout);
    Ok(Some(list.lines().filter(|line| line.ends_with(": test")).count()))
}

/// What cargo says when it cannot build.
const FAILED_BUILD: u8 = 101;
