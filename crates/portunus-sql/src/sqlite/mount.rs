//! What is mounted where: file systems of other machines, and files that are mounted by themselves.

use std::io::Result;
use std::path::Path;

/// The network file system that a directory lies on, if it is one. An error: that can't be said.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn network(directory: &Path) -> Result<Option<String>> {
    use std::os::unix::fs::MetadataExt;

    // Its width and sign are the machine's.
    let magic = i128::from(rustix::fs::statfs(directory)?.f_type) & 0xffff_ffff;
    if let Some((_, system)) = NETWORK.iter().find(|(number, _)| *number == magic) {
        return Ok(Some((*system).to_owned()));
    }
    if magic != FUSE {
        return Ok(None);
    }
    let device = std::fs::metadata(directory)?.dev();
    let mounts = std::fs::read_to_string(MOUNTS).unwrap_or_default();
    Ok(far_fuse(&mounts, (rustix::fs::major(device), rustix::fs::minor(device))))
}

/// Not known here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn network(_: &Path) -> Result<Option<String>> {
    Ok(None)
}

/// Whether a file is mounted over its name in the directory: it has another one somewhere else.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn is_mount_point(file: &Path, directory: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

    let mount = |path| {
        let told = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
        (told.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(told.stx_mnt_id)
    };
    match (mount(file), mount(directory)) {
        (Some(file), Some(directory)) => file != directory,
        // Kernels before 5.8 don't say it.
        _ => std::fs::read_to_string(MOUNTS).is_ok_and(|mounts| is_listed(&mounts, file)),
    }
}

/// Not known here, nor is a single file mounted on the others.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
pub(super) fn is_mount_point(_: &Path, _: &Path) -> bool {
    false
}

/// The FUSE file system that is mounted as a device, unless it is known to be local. A process of any
/// kind may be behind it, and only its name tells; of one without a name the worst is to be assumed.
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn far_fuse(mounts: &str, device: (u32, u32)) -> Option<String> {
    let system = file_system(mounts, device).unwrap_or("FUSE, of an unknown kind");
    (!LOCAL_FUSE.contains(&system)).then(|| system.to_owned())
}

/// Reads which file system is mounted as a device: the first word behind the lone dash.
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn file_system(mounts: &str, (major, minor): (u32, u32)) -> Option<&str> {
    let device = format!("{major}:{minor}");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&*device))?;
    line.split_once(" - ")?.1.split(' ').next()
}

/// Whether something is mounted at a path: the fifth word.
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn is_listed(mounts: &str, path: &Path) -> bool {
    // What would end a word stands there in octal.
    let escaped = path.as_os_str().to_string_lossy().replace('\\', "\\134");
    let escaped = escaped.replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&*escaped))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const MOUNTS: &str = "/proc/self/mountinfo";

#[cfg(any(target_os = "linux", target_os = "android"))]
const FUSE: i128 = 0x6573_5546;

/// Local ones, which lie on a disk of this machine. Not those that lie over any directory, which may
/// be a far one.
#[cfg(any(target_os = "linux", target_os = "android", test))]
const LOCAL_FUSE: &[&str] = &["fuseblk", "fuse.fuse-overlayfs", "fuse.lxcfs"];

/// The kernel's numbers of file systems (`linux/magic.h`, and the sources of those not in it).
#[cfg(any(target_os = "linux", target_os = "android"))]
const NETWORK: &[(i128, &str)] = &[
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xfe53_4d42, "smb2"),
    (0xff53_4d42, "cifs"),
    (0x564c, "ncp"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "afs"),
    (0x7375_7245, "coda"),
    (0x7461_636f, "ocfs2"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x4750_4653, "gpfs"),
    (0x0bd0_0bd0, "lustre"),
];

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: &str = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
        37 35 0:44 / /home/me/far rw shared:7 - fuse.sshfs me@far:/ rw,user_id=0\n\
        38 35 0:45 / /over rw - fuse.mergerfs a:b rw\n\
        39 35 0:46 / /stick rw - fuseblk /dev/sdb1 rw\n\
        40 35 98:0 /a.db /data/our\\040locks.db rw - ext3 /dev/root rw\n";

    #[test]
    fn a_mount_is_found_by_its_device() {
        assert_eq!(file_system(MANY, (0, 44)), Some("fuse.sshfs"));
        assert_eq!(file_system(MANY, (98, 0)), Some("ext3"));
        assert_eq!(file_system(MANY, (9, 8)), None);
    }

    #[test]
    fn of_fuse_only_what_is_known_to_be_local_is() {
        assert_eq!(far_fuse(MANY, (0, 46)), None);
        for far in [(0, 44), (0, 45), (9, 8)] {
            assert!(far_fuse(MANY, far).is_some(), "{far:?}");
        }
        assert!(far_fuse("", (0, 46)).is_some());
    }

    #[test]
    fn a_file_that_is_mounted_is_found_by_its_path() {
        assert!(is_listed(MANY, Path::new("/data/our locks.db")));
        assert!(!is_listed(MANY, Path::new("/data/locks.db")));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_mounted_is_told_from_what_is_not() {
        assert!(is_mount_point(Path::new("/proc"), Path::new("/")));
        assert!(!is_mount_point(Path::new("/proc/self/stat"), Path::new("/proc")));
    }
}
