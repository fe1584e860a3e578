//! The shell that starts a node whose program alone is not enough.

/// The arguments of `sh` that run `before`, each a whole command, and then a program with its own
/// arguments.
///
/// The program takes the shell's place, so its number in the container is 1 after each start: a
/// server that finds its number in a file does not take another for itself.
pub(super) fn start(
    before: impl IntoIterator<Item = String>,
    program: &str,
    args: impl IntoIterator<Item = String>,
) -> Vec<String> {
    let mut lines: Vec<String> = before.into_iter().collect();
    lines.push(format!("exec {program} \"$@\""));
    // What the shell calls itself in its errors.
    let name = "start".to_owned();
    ["-c".to_owned(), lines.join("\n"), name].into_iter().chain(args).collect()
}

/// A way into a node beside its port for clients, for a server that has only the one.
///
/// [`Cluster::cut_clients`](super::Cluster::cut_clients) leaves it open, as the relay's own
/// connections are local.
pub(super) fn relay(from: u16, to: u16) -> String {
    format!("socat TCP-LISTEN:{from},fork,reuseaddr TCP:127.0.0.1:{to} &")
}

/// The program, with a wall clock that [`Cluster::step_clock`](super::Cluster::step_clock) moves if
/// `movable`.
pub(super) fn clocked(program: &str, movable: bool) -> String {
    if movable { format!("moved-clock {program}") } else { program.to_owned() }
}
