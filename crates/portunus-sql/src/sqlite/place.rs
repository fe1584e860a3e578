//! Where the file lies, and whether locks can be kept there.

use std::path::{Path, PathBuf};

use portunus_core::error::{Error, ErrorKind, Result};

use super::error::STORE;
use super::mount;

/// The path of the file, absolute.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// Whether its directory is ours to make.
    pub(super) makes_directory: bool,
}

/// Which file it is, as the kernel names it.
pub(super) type FileId = (u64, u64);

/// Which file lies at a path, and which lie beside it: others after one of them was replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Identity {
    pub(super) file: FileId,
    /// The write-ahead log and its index, through which all who have the file open exclude each other.
    pub(super) beside: [Option<FileId>; 2],
}

impl Place {
    /// Refuses what can't be a file of locks, before it is opened; returns where it really lies.
    pub(super) fn check(&self) -> Result<PathBuf> {
        let directory = directory(&self.path);
        if self.makes_directory {
            make(directory).map_err(|cause| {
                refused(ErrorKind::Denied, directory, "can't be made").with_source(cause)
            })?;
        }
        if self.path.is_dir() {
            return Err(refused(ErrorKind::Invalid, &self.path, "is a directory"));
        }
        if !directory.is_dir() {
            return Err(refused(ErrorKind::Invalid, directory, "is no directory that exists"));
        }
        let real = self.real()?;
        local(&real)?;
        alone(&real)?;
        Ok(real)
    }

    /// The path without symbolic links: SQLite keeps its log beside the file that they lead to.
    #[cfg(unix)]
    fn real(&self) -> Result<PathBuf> {
        let unknown = |cause: std::io::Error| {
            let kind = match cause.kind() {
                std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Unavailable,
            };
            refused(kind, &self.path, "can't be followed").with_source(cause)
        };
        if self.path.try_exists().map_err(unknown)? {
            return self.path.canonicalize().map_err(unknown);
        }
        if self.path.is_symlink() {
            return Err(refused(ErrorKind::Invalid, &self.path, "is a link that leads nowhere"));
        }
        let Some(name) = self.path.file_name() else {
            return Err(refused(ErrorKind::Invalid, &self.path, "names no file"));
        };
        Ok(directory(&self.path).canonicalize().map_err(unknown)?.join(name))
    }

    /// The path as it is: what a system makes of it here, SQLite might not read.
    #[cfg(not(unix))]
    fn real(&self) -> Result<PathBuf> {
        Ok(self.path.clone())
    }

    /// Whether this process may write to the file and make others beside it. Asked without opening it: to close
    /// a file again would drop the locks that other connections of this process have on it.
    #[cfg(unix)]
    pub(super) fn is_writable(&self) -> bool {
        let directory = directory(&self.path);
        let is_writable = |path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
        is_writable(directory) && (!self.path.exists() || is_writable(&self.path))
    }

    /// Whether this process may write to the file; not known here.
    #[cfg(not(unix))]
    pub(super) fn is_writable(&self) -> bool {
        true
    }

    /// Which file lies there now, and which beside `real`, where it lay when it was opened.
    pub(super) fn identity(&self, real: &Path) -> Option<Identity> {
        Some(Identity { file: file_id(&self.path)?, beside: beside(real) })
    }

    /// Which file lies there now.
    pub(super) fn file(&self) -> Option<FileId> {
        file_id(&self.path)
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(unix)]
fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;

    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// An open file can't be replaced here.
#[cfg(not(unix))]
fn file_id(path: &Path) -> Option<FileId> {
    path.exists().then_some((0, 0))
}

fn beside(real: &Path) -> [Option<FileId>; 2] {
    ["-wal", "-shm"].map(|suffix| {
        let mut path = real.as_os_str().to_owned();
        path.push(suffix);
        file_id(Path::new(&path))
    })
}

/// Refuses a directory on a network file system, and one of which that can't be said.
fn local(real: &Path) -> Result<()> {
    let directory = directory(real);
    match mount::network(directory) {
        Ok(None) => Ok(()),
        Ok(Some(system)) => Err(refused(
            ErrorKind::Unsupported,
            directory,
            &format!("lies on a network file system ({system}), where SQLite's locks don't hold"),
        )),
        Err(cause) => {
            let why = "lies on a file system that can't be told";
            Err(refused(ErrorKind::Unavailable, directory, why).with_source(cause))
        }
    }
}

/// Refuses a file that others may reach by another path: SQLite excludes those who share the files
/// beside it, which are named after the path.
#[cfg(unix)]
fn alone(real: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;

    let Ok(metadata) = std::fs::metadata(real) else { return Ok(()) };
    let why = if metadata.nlink() > 1 {
        "has another name too (a hard link), by which it would be another store"
    } else if mount::is_mount_point(real, directory(real)) {
        "is mounted by itself (as containers do with a single file), and is another store where it \
         comes from: mount its directory"
    } else {
        return Ok(());
    };
    Err(refused(ErrorKind::Unsupported, real, why))
}

/// Not known here.
#[cfg(not(unix))]
fn alone(_: &Path) -> Result<()> {
    Ok(())
}

fn refused(kind: ErrorKind, path: &Path, why: &str) -> Error {
    Error::new(kind, STORE, "open_session").with_detail(format!("`{}` {why}", path.display()))
}

#[cfg(unix)]
fn make(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;

    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[cfg(not(unix))]
fn make(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_t_be_a_file_of_locks_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let place = |path: &str| Place { path: home.path().join(path), makes_directory: false };
        place("locks.db").check().unwrap();
        let error = place("").check().unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("is a directory"));
        assert_eq!(place("none/locks.db").check().unwrap_err().kind(), ErrorKind::Invalid);
        let made = Place { makes_directory: true, ..place("a/b/locks.db") };
        made.check().unwrap();
        assert_eq!(made.file(), None);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;

            let mode = home.path().join("a/b").metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_link_is_followed_to_where_the_file_lies() {
        let home = tempfile::tempdir().unwrap();
        let real = home.path().canonicalize().unwrap().join("locks.db");
        let link = home.path().join("link.db");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let place = Place { path: link, makes_directory: false };
        let error = place.check().unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("leads nowhere"));
        std::fs::write(&real, "").unwrap();
        assert_eq!(place.check().unwrap(), real);
        assert_eq!(place.file(), file_id(&real));
    }
}
