//! A way into a node beside its port for clients, for a server that has only the one.

/// The arguments of `sh` that run a program with its own, and a relay from one port to another.
///
/// [`Cluster::cut_clients`](super::Cluster::cut_clients) leaves it open, as the relay's own
/// connections are local. The program takes the shell's place, so its number in the container is 1
/// after each start: a server that finds its number in a file does not take another for itself.
pub(super) fn beside(
    program: &str,
    from: u16,
    to: u16,
    args: impl IntoIterator<Item = String>,
) -> Vec<String> {
    let relay = format!("socat TCP-LISTEN:{from},fork,reuseaddr TCP:127.0.0.1:{to} &");
    let start = format!("{relay} exec {program} \"$@\"");
    ["-c".to_owned(), start, program.to_owned()].into_iter().chain(args).collect()
}
