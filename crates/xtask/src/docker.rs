//! The Docker engine, by its command line: whether one answers, and a checked call.

use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use crate::Result;

/// Why no container can be started.
#[derive(Debug)]
pub(crate) enum NoEngine {
    /// An engine is there, but this user may not use its socket.
    Denied(String),
    /// None answers, or the `docker` command is not installed.
    Missing(String),
}

impl fmt::Display for NoEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(said) => write!(
                f,
                "no permission on the Docker engine's socket ({said}): join the group that owns \
                 it (often `docker`), or run as root"
            ),
            Self::Missing(said) => {
                write!(f, "no Docker engine answers ({said}): start one, or set DOCKER_HOST")
            }
        }
    }
}

impl std::error::Error for NoEngine {}

/// Checks that an engine answers this user.
pub(crate) fn require() -> Result<(), NoEngine> {
    match output(&mut docker(["version", "--format", "{{.Server.Version}}"])) {
        Err(error) => Err(NoEngine::Missing(format!("cannot run `docker`: {error}"))),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next_back().unwrap_or("it gave no reason").trim().to_owned();
            if said.to_lowercase().contains("permission denied") {
                Err(NoEngine::Denied(said))
            } else {
                Err(NoEngine::Missing(said))
            }
        }
    }
}

/// A `docker` command.
pub(crate) fn docker<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut docker = Command::new("docker");
    docker.args(args);
    docker
}

/// Runs a short `docker` command. A ctrl-C does not reach it: it may be the clean-up after one.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).process_group(0).output()
}

/// Runs a short `docker` command that must succeed and returns what it printed, line by line.
pub(crate) fn lines<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>> {
    let mut command = docker(args);
    let output = output(&mut command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}: {said}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}
