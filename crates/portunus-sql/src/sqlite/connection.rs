//! One open connection: what durability hangs on is set as it is opened.
//!
//! That the file can be written and that its journal is a write-ahead log is checked then; `synchronous`,
//! which SQLite can't refuse, is asked again by `probe` alone.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::Incarnation;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::{Failure, Fallible, STORE};
use super::place::{FileId, Identity, Place};
use super::schema;

/// A connection to a file that has our tables.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) connection: Connection,
    /// The life of the file.
    pub(super) incarnation: Incarnation,
    /// Where it lay as it was opened.
    real: PathBuf,
    /// Which file it is: the path may name another one by now.
    identity: Identity,
    /// Dropped after the connection.
    share: Share,
}

impl Open {
    /// Opens the file, and makes it and its tables where they are missing.
    pub(super) fn new(place: &Place, patience: Duration) -> Fallible<Self> {
        let real = place.check()?;
        Self::connect(place, real, patience).map_err(|failure| match failure {
            // Also when the files beside it can't be made, which SQLite tells only later.
            Failure::Sql { ref cause, .. } if is_unopened(cause) && !place.is_writable() => {
                read_only(place).into()
            }
            failure => failure,
        })
    }

    fn connect(place: &Place, real: PathBuf, patience: Duration) -> Fallible<Self> {
        // No links: those that there are were followed and their end was checked.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        if place.file().is_none() {
            // Made first, so that it can be told below whether it is the one that is opened.
            drop(Connection::open_with_flags(&real, flags)?);
        }
        let before = place.file();
        if let Some(file) = before {
            // What would be read of another log by the index that this process has is nonsense.
            drop(Share::agreed(file, || place.identity(&real))?);
        }
        let mut connection = Connection::open_with_flags(&real, flags)?;
        connection.busy_timeout(patience)?;
        // SQLite opens what it may not write to for reading alone, without a word.
        if connection.is_readonly("main")? {
            return Err(read_only(place).into());
        }
        // A holder may only believe in what outlives a loss of power.
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;")?;
        write_ahead(&connection)?;
        let incarnation = schema::prepare(&mut connection)?;
        let identity = place.identity(&real).filter(|now| Some(now.file) == before);
        let Some(identity) = identity else {
            return Err(unavailable("the file was replaced while it was opened").into());
        };
        let share = Share::new(identity)?;
        Ok(Self { connection, incarnation, real, identity, share })
    }

    /// Whether the path still names this file, and those beside it are the ones that it was opened
    /// with. Its locks would be nobody else's otherwise.
    pub(super) fn is_at(&self, place: &Place) -> bool {
        place.identity(&self.real) == Some(self.identity)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.share.closes();
    }
}

/// That this process has a file open. All its connections to one file share the index of the log that
/// the first of them opened, even after that was deleted; a new one would share it with them, and not
/// with other processes.
#[derive(Debug)]
struct Share(FileId);

/// The connections of this process to one file.
#[derive(Debug)]
struct Shared {
    identity: Identity,
    open: usize,
    /// How many of them are being closed: the last takes away what lies beside the file.
    closing: usize,
}

type Shares = BTreeMap<FileId, Shared>;

static SHARES: Mutex<Shares> = Mutex::new(BTreeMap::new());
static CLOSED: Condvar = Condvar::new();

impl Share {
    /// Refuses a file whose index this process has open, and others no more.
    fn agreed(
        file: FileId,
        look: impl Fn() -> Option<Identity>,
    ) -> Result<MutexGuard<'static, Shares>> {
        let mut shares = Self::all();
        loop {
            match shares.get(&file) {
                // Where files have no numbers an open one can't be deleted either.
                Some(shared) if cfg!(unix) && look() != Some(shared.identity) => {
                    if shared.closing < shared.open {
                        return Err(unavailable(
                            "the files beside it were deleted while this process had it open: it can \
                             be opened again when all of the process's connections to it are closed",
                        ));
                    }
                }
                _ => return Ok(shares),
            }
            shares = CLOSED.wait(shares).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn new(identity: Identity) -> Result<Self> {
        let mut shares = Self::agreed(identity.file, || Some(identity))?;
        let none = Shared { identity, open: 0, closing: 0 };
        shares.entry(identity.file).or_insert(none).open += 1;
        Ok(Self(identity.file))
    }

    fn closes(&self) {
        if let Some(shared) = Self::all().get_mut(&self.0) {
            shared.closing += 1;
        }
    }

    fn all() -> MutexGuard<'static, Shares> {
        SHARES.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = Self::all();
        if let Entry::Occupied(mut entry) = shares.entry(self.0) {
            let shared = entry.get_mut();
            (shared.open, shared.closing) = (shared.open - 1, shared.closing - 1);
            if shared.open == 0 {
                entry.remove();
            }
        }
        drop(shares);
        CLOSED.notify_all();
    }
}

fn unavailable(detail: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, STORE, "open_session").with_detail(detail)
}

/// With a write-ahead log readers and the writer don't hold each other up, and a commit is one sync.
fn write_ahead(connection: &Connection) -> Fallible<()> {
    let mode = |sql| connection.query_row(sql, [], |row| row.get::<_, String>(0));
    if mode("PRAGMA journal_mode")? == "wal" {
        return Ok(());
    }
    let mode = mode("PRAGMA journal_mode = WAL")?;
    if mode == "wal" {
        return Ok(());
    }
    let detail = format!(
        "its file system takes no write-ahead log (the journal's mode stays `{mode}`): use a disk of \
         this machine"
    );
    Err(Error::new(ErrorKind::Unsupported, STORE, "open_session").with_detail(detail).into())
}

fn is_unopened(cause: &rusqlite::Error) -> bool {
    matches!(cause.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

fn read_only(place: &Place) -> Error {
    let detail = format!(
        "`{}` can't be written by this process, or not be made; nor can what SQLite keeps beside it",
        place.path.display()
    );
    Error::new(ErrorKind::Denied, STORE, "open_session").with_detail(detail)
}

/// Asks for settings that weaken what the store promises, for people.
pub(super) fn warnings(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    let mut warnings = Vec::new();
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        warnings.push(format!("the journal's mode was changed to `{mode}`: waiting takes longer"));
    }
    let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    if synchronous < 2 {
        warnings.push("synchronous is below FULL: a loss of power may take back grants".into());
    }
    Ok(warnings)
}
