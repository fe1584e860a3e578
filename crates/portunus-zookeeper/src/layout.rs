//! Where things are kept: paths and node names, and reading them back.

use portunus_core::backend::{AttemptId, EntryId, Mode, SessionId};
use portunus_core::name::LockName;

/// How an attempt's node is called. Contenders of every layout are respected; the layout decides
/// which other clients respect ours.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Layout {
    /// `_c_<uuid>-lock-<number>`, as Apache Curator's `InterProcessMutex` has it: Curator,
    /// go-zookeeper and the crate `zookeeper-client` exclude ours and the reverse. Shared holds are
    /// `_c_<uuid>-__READ__<number>`, as Curator's `InterProcessReadWriteLock` has them.
    #[default]
    Curator,
    /// `<uuid>__lock__<number>`, as kazoo's `Lock`, its `WriteLock` and tooz have it. Shared holds
    /// are `<uuid>__rlock__<number>`, as its `ReadLock` has them.
    Kazoo,
}

/// The paths of one layout in one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    layout: Layout,
    /// What must be there already: empty, or begins with `/`.
    chroot: String,
    /// The namespace, without `/` at either end.
    namespace: String,
}

impl Paths {
    pub(crate) fn new(layout: Layout, chroot: &str, namespace: &str) -> Self {
        Self { layout, chroot: chroot.to_owned(), namespace: namespace.to_owned() }
    }

    /// The node below which everything is kept.
    pub(crate) fn root(&self) -> String {
        format!("{}/{}", self.chroot, self.namespace)
    }

    /// The node that is never created here.
    pub(crate) fn chroot(&self) -> &str {
        if self.chroot.is_empty() { "/" } else { &self.chroot }
    }

    /// The nodes from below the chroot down to `path`, those above first.
    pub(crate) fn ancestry<'a>(&self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let skipped = self.chroot.len() + 1;
        let slashes = path.match_indices('/').map(|(at, _)| at).filter(move |at| *at >= skipped);
        slashes.map(|at| &path[..at]).chain([path])
    }

    /// The node whose children are a lock's entries.
    pub(crate) fn queue(&self, name: &LockName) -> String {
        format!("{}/{}", self.root(), name.escaped())
    }

    /// The name of an attempt's node, but for the number. It tells the mode, so that a listing is
    /// all that it takes to decide.
    pub(crate) fn entry(&self, attempt: AttemptId, mode: Mode) -> String {
        let id = attempt.to_string();
        let parts = (&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]);
        let id = match self.layout {
            Layout::Curator => {
                format!("_c_{}-{}-{}-{}-{}", parts.0, parts.1, parts.2, parts.3, parts.4)
            }
            Layout::Kazoo => id,
        };
        match (self.layout, mode) {
            (Layout::Curator, Mode::Exclusive) => format!("{id}-lock-"),
            (Layout::Curator, Mode::Shared) => format!("{id}-__READ__"),
            (Layout::Kazoo, Mode::Exclusive) => format!("{id}__lock__"),
            (Layout::Kazoo, Mode::Shared) => format!("{id}__rlock__"),
            (_, Mode::Permit { limit }) => format!("{id}{PERMIT}{limit}-"),
        }
    }

    /// The node of the random id that the store's life is known by.
    pub(crate) fn incarnation(&self) -> String {
        format!("{}/.incarnation", self.root())
    }

    /// The node that lives as long as the session.
    pub(crate) fn session(&self, session: SessionId) -> String {
        format!("{}/.sessions/{session}", self.root())
    }

    /// Reads a lock's name from the name of its node.
    pub(crate) fn name_of(child: &str) -> Option<LockName> {
        LockName::unescape(child)
    }
}

/// The number with which the server made a child's name unique, as a place in the queue.
///
/// Any child with one counts as a contender, whatever client made it: respecting one too many delays
/// a grant, respecting one too few gives two. Servers before 3.6 go on with negative numbers after
/// 2³¹ − 1; read without the sign bit's meaning, these come later.
pub(crate) fn position(child: &str) -> Option<u64> {
    let (_, sign, digits) = split(child)?;
    let number: i64 = digits.parse().ok()?;
    let number = i32::try_from(if sign.is_empty() { number } else { -number }).ok()?;
    Some(u64::from(number.cast_unsigned()))
}

/// How a contender wants to hold, by its name. What is not known to be shared excludes: a writer of
/// another client (`__WRIT__`, `__lock__`), and whatever else has a number.
pub(crate) fn mode(child: &str) -> Mode {
    let Some((before, ..)) = split(child) else { return Mode::Exclusive };
    if before.ends_with("__READ__") || before.ends_with("__rlock__") {
        return Mode::Shared;
    }
    let limit = before.strip_suffix('-').and_then(|before| before.rsplit_once(PERMIT));
    match limit.and_then(|(_, limit)| limit.parse().ok()) {
        Some(limit) => Mode::Permit { limit },
        None => Mode::Exclusive,
    }
}

/// Splits a child's name into what its maker wrote and the number's sign and digits.
fn split(child: &str) -> Option<(&str, &str, &str)> {
    let (before, digits) = child.split_at_checked(child.len().checked_sub(DIGITS)?)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // `lock--2147483648`: the second of two dashes is a sign.
    let negative = before.ends_with("--") || before.ends_with("__-");
    let (before, sign) = before.split_at(before.len() - usize::from(negative));
    Some((before, sign, digits))
}

/// Whether an entry's key and its position are those of one node below `parent`.
pub(crate) fn is_entry(entry: &EntryId, parent: &str) -> bool {
    child_of(&entry.key, parent).and_then(position) == Some(entry.position)
}

/// The part of a path below its parent.
pub(crate) fn child_of<'a>(path: &'a str, parent: &str) -> Option<&'a str> {
    path.strip_prefix(parent)?.strip_prefix('/').filter(|child| !child.contains('/'))
}

/// How many digits the server writes.
const DIGITS: usize = 10;

/// What stands before a permit's limit.
const PERMIT: &str = "-permit.";

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> LockName {
        LockName::new(name).unwrap()
    }

    #[test]
    fn paths_read_as_documented() {
        let paths = Paths::new(Layout::Curator, "/app", "locks/eu");
        assert_eq!(paths.queue(&name("a/b")), "/app/locks/eu/a%2Fb");
        assert_eq!(paths.incarnation(), "/app/locks/eu/.incarnation");
        assert_eq!(paths.session(SessionId(0x1f)), "/app/locks/eu/.sessions/1f");
        assert_eq!(Paths::name_of("a%2Fb"), Some(name("a/b")));
        assert_eq!((Paths::name_of(".sessions"), Paths::name_of(".incarnation")), (None, None));
        let queue = paths.queue(&name("x"));
        let ancestry: Vec<_> = paths.ancestry(&queue).collect();
        assert_eq!(ancestry, ["/app/locks", "/app/locks/eu", "/app/locks/eu/x"]);
        let plain = Paths::new(Layout::Kazoo, "", "portunus");
        assert_eq!((plain.chroot(), plain.queue(&name("x"))), ("/", "/portunus/x".to_owned()));
        let queue = plain.queue(&name("x"));
        assert_eq!(plain.ancestry(&queue).collect::<Vec<_>>(), ["/portunus", "/portunus/x"]);
    }

    #[test]
    fn entries_are_called_as_other_clients_call_theirs() {
        let id = AttemptId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let modes = [Mode::Exclusive, Mode::Shared, Mode::Permit { limit: 12 }];
        for (layout, id_as, ends) in [
            (
                Layout::Curator,
                "_c_01234567-89ab-cdef-0123-456789abcdef",
                ["-lock-", "-__READ__", "-permit.12-"],
            ),
            (
                Layout::Kazoo,
                "0123456789abcdef0123456789abcdef",
                ["__lock__", "__rlock__", "-permit.12-"],
            ),
        ] {
            let paths = Paths::new(layout, "", "portunus");
            for (expected, end) in modes.into_iter().zip(ends) {
                let entry = paths.entry(id, expected);
                assert_eq!(entry, format!("{id_as}{end}"));
                for number in ["0000000007", "-2147483647"] {
                    let child = format!("{entry}{number}");
                    assert_eq!(mode(&child), expected, "{child}");
                    assert!(position(&child).is_some(), "{child}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_known_to_be_shared_excludes() {
        for (child, expected) in [
            ("_c_x-__READ__0000000005", Mode::Shared),
            ("f00__rlock__0000000005", Mode::Shared),
            ("_c_x-__WRIT__0000000005", Mode::Exclusive),
            ("f00__lock__0000000005", Mode::Exclusive),
            ("_c___READ__-lock-0000000005", Mode::Exclusive),
            ("_c_x-permit.-0000000005", Mode::Exclusive),
            ("_c_x-permit.4294967296-0000000005", Mode::Exclusive),
            ("_c_x-permit.2-0000000005", Mode::Permit { limit: 2 }),
            ("lock-0000000003", Mode::Exclusive),
        ] {
            assert_eq!(mode(child), expected, "{child}");
        }
    }

    #[test]
    fn every_client_s_contenders_are_read() {
        for (child, expected) in [
            ("_c_01234567-89ab-cdef-0123-456789abcdef-lock-0000000007", Some(7)),
            ("0123456789abcdef0123456789abcdef__lock__0000000012", Some(12)),
            ("lock-0000000003", Some(3)),
            ("x-144115188075855872-0000000004", Some(4)),
            ("_c_x-__WRIT__0000000005", Some(5)),
            ("_c_x-lock-2147483647", Some(2_147_483_647)),
            ("_c_x-lock--2147483648", Some(2_147_483_648)),
            ("x__lock__-2147483647", Some(2_147_483_649)),
            ("config", None),
            ("lock-000000007", None),
            ("lock-9999999999", None),
            ("", None),
        ] {
            assert_eq!(position(child), expected, "{child}");
        }
        assert_eq!(child_of("/a/b", "/a"), Some("b"));
        assert_eq!((child_of("/a/b/c", "/a"), child_of("/ab", "/a")), (None, None));
    }
}
