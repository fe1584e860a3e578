//! Which kernel this process runs on: on one kernel the time since boot is one clock.

/// The kernel's identity, where one can be had.
#[derive(Clone, Debug)]
pub(crate) struct Kernel(Option<String>);

impl Kernel {
    /// Boot and time namespace: a container may have a time since boot of its own.
    pub(crate) fn of_this_process() -> Self {
        let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        Self::read("/proc/sys/kernel/random/boot_id", "/proc/self/ns/time", &offsets)
    }

    fn read(boot: &str, namespace: &str, offsets: &str) -> Self {
        let Ok(boot) = std::fs::read_to_string(boot) else { return Self(None) };
        // Kernels before 5.6 have none, and one time for all.
        let namespace = inode(namespace).unwrap_or(0);
        // The number of a namespace that has ended may be given to another.
        let offset = offset(offsets).unwrap_or_default();
        let boot = boot.trim();
        Self((!boot.is_empty()).then(|| format!("{boot}/{namespace}/{offset}")))
    }

    /// What stands in the rows.
    pub(crate) fn id(&self) -> &str {
        self.0.as_deref().unwrap_or(UNKNOWN)
    }

    /// Whether another's times are of this kernel's clock. An unknown kernel is never the same.
    #[cfg(any(feature = "sqlite", test))]
    pub(crate) fn is_same(&self, other: &str) -> bool {
        self.0.as_deref() == Some(other)
    }

    pub(crate) fn is_known(&self) -> bool {
        self.0.is_some()
    }
}

/// By how much the time since boot is another one in the namespace: seconds and nanoseconds.
fn offset(offsets: &str) -> Option<String> {
    let line = offsets.lines().find_map(|line| line.strip_prefix("boottime"))?;
    Some(line.split_whitespace().collect::<Vec<_>>().join("."))
}

#[cfg(unix)]
fn inode(path: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;

    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

#[cfg(not(unix))]
fn inode(_: &str) -> Option<u64> {
    None
}

const UNKNOWN: &str = "unknown";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kernel_is_never_the_same() {
        let unknown = Kernel::read("/nowhere", "/nowhere", "");
        assert!(!unknown.is_known() && !unknown.is_same(unknown.id()));
        if cfg!(target_os = "linux") {
            let this = Kernel::of_this_process();
            assert!(this.is_known() && this.is_same(Kernel::of_this_process().id()));
            assert!(!this.is_same(UNKNOWN));
        }
    }

    #[test]
    fn a_time_that_is_offset_is_another_kernel_s() {
        let home = tempfile::tempdir().unwrap();
        let boot = home.path().join("boot_id");
        std::fs::write(&boot, "3c0f\n").unwrap();
        let kernel = |offsets| Kernel::read(boot.to_str().unwrap(), "/nowhere", offsets);
        let (none, old) = (kernel("monotonic  0  0\nboottime   0  0\n"), kernel(""));
        let offset = kernel("monotonic  5  0\nboottime   86400  500\n");
        assert_eq!(
            [none.id(), old.id(), offset.id()],
            ["3c0f/0/0.0", "3c0f/0/", "3c0f/0/86400.500"]
        );
        assert!(!none.is_same(offset.id()) && offset.is_same(offset.id()));
    }
}
