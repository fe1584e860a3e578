//! The fence in SQLite: the suite, and what is particular to it.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::Arc;

use portunus_core::name::LockName;
use portunus_core::token::{Incarnation, Origin};
use portunus_fence::sqlite::{self, SqliteFence};
use portunus_fence::{Error, ErrorKind, Fence, FencingToken, SharedToken};
use portunus_testkit::{FenceHarness, async_trait};
use rusqlite::{Connection, Transaction};
use tempfile::TempDir;

portunus_testkit::fence_conformance! { open }

struct File(TempDir);

async fn open() -> File {
    let file = File(TempDir::new().unwrap());
    sqlite::create_table(&mut file.connection()).unwrap();
    file
}

#[async_trait]
impl FenceHarness for File {
    async fn fence(&self) -> Arc<dyn Fence> {
        Arc::new(SqliteFence::new(self.connection()))
    }

    /// The processes' own end is seen in the workspace's tests; nothing is kept in memory.
    async fn restart(&self) {}
}

#[test]
fn mark_and_effect_are_one() {
    let file = Data::new();
    let mut connection = file.connection();
    deposit(&mut connection, 7, 10).unwrap();
    assert_eq!((file.balance(), file.mark()), (10, Some(7)));
    // The transaction is dropped: neither happened.
    let mut transaction = connection.transaction().unwrap();
    sqlite::update(&mut transaction, "account", &token(8), add(5)).unwrap();
    drop(transaction);
    assert_eq!((file.balance(), file.mark()), (10, Some(7)));
    // The same token again, a higher one, and a late one.
    deposit(&mut connection, 7, 1).unwrap();
    deposit(&mut connection, 9, 1).unwrap();
    let error = deposit(&mut connection, 8, 100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error:#}");
    assert_eq!(
        error.to_string(),
        "sqlite fence open account: stale token: the token 8 is below the mark 9"
    );
    assert_eq!((file.balance(), file.mark()), (12, Some(9)));
}

#[test]
fn a_value_is_written_with_the_mark() {
    let file = Data::new();
    let mut connection = file.connection();
    let transaction = connection.transaction().unwrap();
    sqlite::admit(&transaction, "account", &token(7), b"seven").unwrap();
    let error = sqlite::admit(&transaction, "account", &token(6), b"six").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    sqlite::open(&transaction, "account", &token(8)).unwrap();
    transaction.commit().unwrap();
    let value: Vec<u8> = file
        .connection()
        .query_row("SELECT value FROM portunus_fence", [], |row| row.get(0))
        .unwrap();
    assert_eq!((value.as_slice(), file.mark()), (&b"seven"[..], Some(8)));
}

#[test]
fn of_two_writers_the_second_waits_and_the_older_is_refused() {
    let file = Data::new();
    let mut connection = file.connection();
    let transaction = connection.transaction().unwrap();
    sqlite::open(&transaction, "account", &token(8)).unwrap();
    std::thread::scope(|scope| {
        let late = scope.spawn(|| deposit(&mut file.connection(), 7, 100));
        add(5)(&transaction).unwrap();
        transaction.commit().unwrap();
        assert_eq!(late.join().unwrap().unwrap_err().kind(), ErrorKind::Stale);
    });
    assert_eq!((file.balance(), file.mark()), (5, Some(8)));
}

#[test]
fn who_waits_too_long_is_unavailable() {
    let file = Data::new();
    let mut connection = file.connection();
    let transaction = connection.transaction().unwrap();
    sqlite::open(&transaction, "account", &token(8)).unwrap();
    let mut other = file.connection();
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    let error = deposit(&mut other, 9, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
}

/// With a write-ahead log, where readers don't keep writers out.
#[test]
fn what_is_read_before_the_mark_may_not_be_written_on() {
    let file = Data::new();
    let mut connection = file.connection();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    let transaction = connection.transaction().unwrap();
    let read = |transaction: &Transaction<'_>| -> i64 {
        transaction.query_row("SELECT balance FROM account", [], |row| row.get(0)).unwrap()
    };
    read(&transaction);
    deposit(&mut file.connection(), 7, 10).unwrap();
    let error = sqlite::open(&transaction, "account", &token(8)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    drop(transaction);
    // A check is of one moment with what is read after it.
    let transaction = connection.transaction().unwrap();
    sqlite::check(&transaction, "account", &shared(7)).unwrap();
    deposit(&mut file.connection(), 8, 10).unwrap();
    assert_eq!(read(&transaction), 10);
    drop(transaction);
    let transaction = connection.transaction().unwrap();
    let error = sqlite::check(&transaction, "account", &shared(7)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    sqlite::check(&transaction, "no mark", &shared(1)).unwrap();
}

#[test]
fn a_foreign_origin_is_a_conflict() {
    let file = Data::new();
    let mut connection = file.connection();
    deposit(&mut connection, 7, 10).unwrap();
    let transaction = connection.transaction().unwrap();
    let foreign: FencingToken = "9;origin=016c62".parse().unwrap();
    let error = sqlite::open(&transaction, "account", &foreign).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:#}");
    drop(transaction);
    assert_eq!(file.mark(), Some(7));
}

#[test]
fn a_missing_table_is_shown_and_mended() {
    let file = TempDir::new().unwrap();
    let mut connection = Connection::open(file.path().join("data")).unwrap();
    let transaction = connection.transaction().unwrap();
    let error = sqlite::open(&transaction, "account", &token(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
    assert!(error.to_string().contains("portunus_fence::sqlite::create_table"), "{error}");
    assert!(error.to_string().contains(sqlite::SCHEMA), "{error}");
    drop(transaction);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = Connection::open(file.path().join("data")).unwrap();
                sqlite::create_table(&mut connection).unwrap();
            });
        }
    });
    let transaction = connection.transaction().unwrap();
    sqlite::open(&transaction, "account", &token(1)).unwrap();
}

#[test]
fn another_table_of_that_name_is_told() {
    for columns in
        ["resource TEXT PRIMARY KEY, token INTEGER", "resource TEXT, origin TEXT, token INTEGER"]
    {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(&format!("CREATE TABLE portunus_fence ({columns})")).unwrap();
        let transaction = connection.transaction().unwrap();
        let error = sqlite::open(&transaction, "account", &token(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
        assert!(error.to_string().contains("is another than"), "{error}");
    }
}

#[test]
fn a_garbled_row_is_not_written_over() {
    let file = Data::new();
    let mut connection = file.connection();
    let garbled = "INSERT INTO portunus_fence VALUES ('account', 'XY', 1, NULL)";
    connection.execute_batch(garbled).unwrap();
    let error = deposit(&mut connection, 8, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:#}");
}

#[test]
fn input_out_of_range_writes_nothing() {
    let file = Data::new();
    let mut connection = file.connection();
    for bad in [0, i64::MAX.unsigned_abs() + 1, u64::MAX] {
        let error = deposit(&mut connection, bad, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let said = "accepted are 1 to 9223372036854775807";
        assert!(error.to_string().contains(said), "{error}");
    }
    let transaction = connection.transaction().unwrap();
    for name in ["", "a\0b", &"a".repeat(513)] {
        let error = sqlite::open(&transaction, name, &token(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    drop(transaction);
    assert_eq!((file.balance(), file.mark()), (0, None));
    deposit(&mut connection, i64::MAX.unsigned_abs(), 1).unwrap();
    assert_eq!(file.mark(), Some(i64::MAX));
}

/// In the caller's own transaction as well.
#[test]
fn a_weak_token_writes_nothing_unless_it_is_allowed() {
    let file = Data::new();
    let mut connection = file.connection();
    deposit(&mut connection, 7, 10).unwrap();
    let mut transaction = connection.transaction().unwrap();
    let weak = weak(8);
    let shared: SharedToken = format!("{weak};shared").parse().unwrap();
    for refused in [
        sqlite::open(&transaction, "account", &weak),
        sqlite::admit(&transaction, "account", &weak, b"eight"),
        sqlite::check(&transaction, "account", &shared),
        sqlite::update(&mut transaction, "account", &weak, |_| panic!("the work is not begun")),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("the token is weak"), "{error}");
    }
    // Even if the caller does not heed it.
    transaction.commit().unwrap();
    assert_eq!((file.balance(), file.mark()), (10, Some(7)));
    let mut transaction = connection.transaction().unwrap();
    let allowed = weak.allow_weak();
    sqlite::check(&transaction, "account", &shared.allow_weak()).unwrap();
    sqlite::update(&mut transaction, "account", &allowed, add(5)).unwrap();
    transaction.commit().unwrap();
    assert_eq!((file.balance(), file.mark()), (15, Some(8)));
}

#[test]
fn a_read_only_file_is_denied() {
    let file = Data::new();
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let mut connection = Connection::open_with_flags(file.0.0.path().join("data"), flags).unwrap();
    let error = deposit(&mut connection, 1, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
}

/// A file with a table of data beside the marks.
struct Data(File);

impl Data {
    fn new() -> Self {
        let data = Self(File(TempDir::new().unwrap()));
        let mut connection = data.connection();
        sqlite::create_table(&mut connection).unwrap();
        connection
            .execute_batch("CREATE TABLE account (balance INTEGER); INSERT INTO account VALUES (0)")
            .unwrap();
        data
    }

    fn connection(&self) -> Connection {
        self.0.connection()
    }

    fn balance(&self) -> i64 {
        let connection = self.connection();
        connection.query_row("SELECT balance FROM account", [], |row| row.get(0)).unwrap()
    }

    fn mark(&self) -> Option<i64> {
        let connection = self.connection();
        connection.query_row("SELECT max(token) FROM portunus_fence", [], |row| row.get(0)).unwrap()
    }
}

impl File {
    fn connection(&self) -> Connection {
        let connection = Connection::open(self.0.path().join("data")).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
        connection
    }
}

fn deposit(connection: &mut Connection, value: u64, amount: i64) -> Result<(), Error> {
    let mut transaction = connection.transaction().unwrap();
    sqlite::update(&mut transaction, "account", &token(value), add(amount))?;
    transaction.commit().unwrap();
    Ok(())
}

fn add(amount: i64) -> impl Fn(&Transaction<'_>) -> Result<(), Error> {
    move |transaction| {
        let added = transaction.execute("UPDATE account SET balance = balance + ?1", [amount]);
        assert_eq!(added, Ok(1));
        Ok(())
    }
}

fn token(value: u64) -> FencingToken {
    let origin = Origin::new(Incarnation::new(b"l").unwrap(), LockName::new("account").unwrap());
    FencingToken::new(value, origin)
}

fn weak(value: u64) -> FencingToken {
    FencingToken::new_weak(value, token(value).origin().clone())
}

fn shared(value: u64) -> SharedToken {
    format!("{};shared", token(value)).parse().unwrap()
}
