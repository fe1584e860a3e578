//! Marks in files: one for each resource, with its value, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::{FencingToken, SharedToken};

use crate::call::{Call, mark_of};
use crate::fence::Fence;

/// A fence in a directory of a file system.
///
/// The file of a resource holds the mark in its first line, and the value after it. Each step holds an
/// exclusive lock on a file beside it, writes a new file to its end on the disk, and puts it in the
/// place of the old one: a process or machine that dies in the middle leaves the old file or the new
/// one, whole. Steps of different resources do not wait for each other.
///
/// Names become paths: `stock/42` is `values/stock%2F42`; capital letters are escaped, too, for file
/// systems that fold them. The directory must be on a file system of this machine, or on one whose
/// locks all machines see: with network file systems that is their server's matter. Whoever may write
/// in the directory can write past the fence. A process that is stopped in the middle of a step keeps
/// the resource locked, and steps of others wait until it goes on or is killed.
#[derive(Clone, Debug)]
pub struct FileFence(Arc<Path>);

impl FileFence {
    /// Opens the fence in `directory`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is no directory, [`ErrorKind::Denied`] when it may not be made or
    /// read, otherwise [`ErrorKind::Unavailable`].
    pub fn new(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let opened = create_directory(directory).and_then(|()| fs::canonicalize(directory));
        opened.map(|path| Self(path.into())).map_err(|error| {
            let kind = match error.kind() {
                IoErrorKind::AlreadyExists | IoErrorKind::NotADirectory => ErrorKind::Invalid,
                _ => classify(&error),
            };
            Error::new(kind, FENCE, "new").with_key(directory.to_string_lossy()).with_source(error)
        })
    }

    /// Runs a step on a thread that may block.
    async fn step<T: Send + 'static>(
        &self,
        call: Call,
        step: impl FnOnce(&Call, &Paths) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let paths = Paths::new(&self.0, &call);
        blocking::unblock(move || step(&call, &paths)).await
    }
}

#[async_trait]
impl Fence for FileFence {
    async fn open(&self, resource: &str, token: &FencingToken) -> Result<Option<Vec<u8>>> {
        let call = Call::new(FENCE, "open", resource)?;
        call.exclusive(token, u64::MAX)?;
        let token = token.clone();
        self.step(call, move |call, paths| {
            let _lock = paths.lock(call)?;
            let state = paths.read(call)?;
            call.pass(state.mark.as_ref(), &token)?;
            if state.mark.as_ref() == Some(&token) {
                // Whoever put it there may have died before the disk had it.
                paths.sync(call)?;
            } else {
                paths.replace(call, &token, state.value.as_deref())?;
            }
            Ok(state.value)
        })
        .await
    }

    async fn admit(&self, resource: &str, token: &FencingToken, value: &[u8]) -> Result<()> {
        let call = Call::new(FENCE, "admit", resource)?;
        call.exclusive(token, u64::MAX)?;
        call.value(value)?;
        let (token, value) = (token.clone(), value.to_vec());
        self.step(call, move |call, paths| {
            let _lock = paths.lock(call)?;
            call.pass(paths.read(call)?.mark.as_ref(), &token)?;
            paths.replace(call, &token, Some(&value))
        })
        .await
    }

    async fn check(&self, resource: &str, token: &SharedToken) -> Result<Option<Vec<u8>>> {
        let call = Call::new(FENCE, "check", resource)?;
        call.shared(token, u64::MAX)?;
        let token = token.clone();
        // One read of a file that is only ever replaced as a whole.
        self.step(call, move |call, paths| {
            let state = paths.read(call)?;
            call.pass_shared(state.mark.as_ref(), &token)?;
            if state.mark.is_some() {
                paths.sync(call)?;
            }
            Ok(state.value)
        })
        .await
    }

    async fn mark(&self, resource: &str) -> Result<Option<FencingToken>> {
        let call = Call::new(FENCE, "mark", resource)?;
        self.step(call, |call, paths| Ok(paths.read(call)?.mark)).await
    }
}

#[derive(Default)]
struct State {
    mark: Option<FencingToken>,
    value: Option<Vec<u8>>,
}

/// The files of one resource.
struct Paths {
    root: PathBuf,
    value: PathBuf,
    next: PathBuf,
    lock: PathBuf,
}

impl Paths {
    fn new(directory: &Path, call: &Call) -> Self {
        // A long name goes over several directories, whose names are longer than any file's.
        let name = utf8_percent_encode(call.resource().as_str(), ESCAPED).to_string();
        let mut path = PathBuf::new();
        let mut rest = name.as_str();
        while rest.len() > LONGEST {
            let (part, after) = rest.split_at(LONGEST);
            path.push(format!("{part}+"));
            rest = after;
        }
        path.push(rest);
        let below = |tree: &str| directory.join(tree).join(&path);
        let (value, next, lock) = (below("values"), below("next"), below("locks"));
        Self { root: directory.to_owned(), value, next, lock }
    }

    /// Holds the resource until the file is dropped.
    fn lock(&self, call: &Call) -> Result<File> {
        let lock = || {
            create_directory(parent(&self.lock))?;
            let file = File::options().create(true).truncate(false).write(true).open(&self.lock)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|error| failed(call, error))
    }

    fn read(&self, call: &Call) -> Result<State> {
        let content = match fs::read(&self.value) {
            Ok(content) => content,
            Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(failed(call, error)),
        };
        let mut parts = content.splitn(2, |byte| *byte == b'\n');
        let mark = parts.next().and_then(|line| std::str::from_utf8(line).ok()?.parse().ok());
        let mark = mark.ok_or_else(|| call.garbled("the file does not begin with a mark"))?;
        Ok(State { mark: Some(mark), value: parts.next().map(<[u8]>::to_vec) })
    }

    /// Puts a new file in the place of the old one, and does not return before the disk has it.
    fn replace(&self, call: &Call, mark: &FencingToken, value: Option<&[u8]>) -> Result<()> {
        let prepare = || {
            create_directory(parent(&self.next))?;
            create_directory(parent(&self.value))?;
            let mut next = File::create(&self.next)?;
            write!(next, "{}", mark_of(mark))?;
            if let Some(value) = value {
                next.write_all(b"\n")?;
                next.write_all(value)?;
            }
            next.sync_all()
        };
        prepare().map_err(|error| failed(call, error))?;
        let unconfirmed = |error| call.error(ErrorKind::Unconfirmed).with_source(error);
        fs::rename(&self.next, &self.value).map_err(unconfirmed)?;
        self.sync(call)
    }

    /// Sees to it that the file that is seen now is the one that the disk has.
    fn sync(&self, call: &Call) -> Result<()> {
        let mut directory = parent(&self.value);
        loop {
            // Before this the new file is seen; whether it outlives the machine is not known.
            let synced = sync_directory(directory);
            synced.map_err(|error| call.error(ErrorKind::Unconfirmed).with_source(error))?;
            if directory == self.root {
                return Ok(());
            }
            directory = parent(directory);
        }
    }
}

/// Makes a directory and those above it, each of them on the disk.
fn create_directory(path: &Path) -> io::Result<()> {
    // The current one has an empty name.
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    create_directory(parent(path))?;
    match fs::create_dir(path) {
        // By another process, just now.
        Err(error) if error.kind() == IoErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.and_then(|()| match parent(path) {
            here if here.as_os_str().is_empty() => sync_directory(Path::new(".")),
            parent => sync_directory(parent),
        }),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Directories can't be opened there, and a renaming is written by itself.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

fn failed(call: &Call, error: io::Error) -> Error {
    call.error(classify(&error)).with_source(error)
}

/// Before the renaming nothing is applied.
fn classify(error: &io::Error) -> ErrorKind {
    match error.kind() {
        IoErrorKind::PermissionDenied | IoErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    }
}

/// All but lower-case letters, digits, `-` and `_`: some file systems fold capitals, `:` and `.` mean
/// something to others.
const ESCAPED: &AsciiSet = &capitals(NON_ALPHANUMERIC.remove(b'-').remove(b'_'));

const fn capitals(set: AsciiSet) -> AsciiSet {
    let (mut set, mut capital) = (set, b'A');
    while capital <= b'Z' {
        set = set.add(capital);
        capital += 1;
    }
    set
}

/// What file systems take, without the `+`, is 254 bytes.
const LONGEST: usize = 200;
const FENCE: &str = "file fence";
