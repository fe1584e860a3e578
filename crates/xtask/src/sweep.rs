//! Removes the containers and networks of tests whose process is gone.
//!
//! The testkit marks what it starts with `org.portunus.test=1` and `org.portunus.owner=<pid>`;
//! a test process that is killed cannot remove them itself.

use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::{Result, docker};

/// Removes what dead owners left, or everything of the tests when `all`; silent, unless it fails.
pub(crate) fn sweep(all: bool) -> Result<()> {
    // Containers first: a network with members cannot be removed.
    for (list, remove) in [
        (["ps", "--all"].as_slice(), ["rm", "--force", "--volumes"].as_slice()),
        (&["network", "ls"], &["network", "rm"]),
    ] {
        let filter = ["--filter", "label=org.portunus.test=1"];
        let format = ["--format", r#"{{.ID}} {{.Label "org.portunus.owner"}}"#];
        let found = docker::lines(list.iter().copied().chain(filter).chain(format))?;
        let dead: Vec<&str> = found
            .iter()
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, owner)| all || !is_alive(owner))
            .map(|(id, _)| id)
            .collect();
        if dead.is_empty() {
            continue;
        }
        let mut command = docker::docker(remove.iter().copied().chain(dead));
        let removed = docker::output(&mut command)?;
        let said = String::from_utf8_lossy(&removed.stderr);
        // Another sweep may have been faster.
        if !removed.status.success() && !said.to_lowercase().contains("no such") {
            return Err(format!("{command:?}: {said}").into());
        }
    }
    Ok(())
}

fn is_alive(owner: &str) -> bool {
    let pid = owner.parse().ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH)) && !is_zombie(owner)
}

/// Whether the process ended but nobody has asked for its exit code yet (known on Linux only).
fn is_zombie(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}
