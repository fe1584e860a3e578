//! The fence in MySQL's table, on MariaDB: the suite, and what is particular to it.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod data;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, IsolationLevel, Pool, Transaction, TxOpts};
use portunus_core::name::LockName;
use portunus_core::token::{Incarnation, Origin};
use portunus_fence::mysql::{self, MysqlFence};
use portunus_fence::{Error, ErrorKind, Fence, FencingToken, SharedToken};

use data::{Data, open};

portunus_testkit::fence_conformance! {
    #[ignore = "needs a cluster: `cargo xtask test`"]
    open
}

/// Also where the count of affected rows means another thing.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn mark_and_effect_are_one() {
    let data = Data::new().await;
    for found_rows in [false, true] {
        data.reset().await;
        let pool = Pool::new(data.options().client_found_rows(found_rows));
        let mut connection = pool.get_conn().await.unwrap();
        deposit(&mut connection, 7, 10).await.unwrap();
        assert_eq!(data.now().await, (10, Some(7)));
        // The transaction is dropped: neither happened.
        let mut transaction = connection.start_transaction(TxOpts::default()).await.unwrap();
        mysql::open(&mut transaction, "account", &token(8)).await.unwrap();
        add(&mut transaction, 5).await;
        drop(transaction);
        connection.ping().await.unwrap();
        assert_eq!(data.now().await, (10, Some(7)));
        // The same token again, a higher one, and a late one.
        deposit(&mut connection, 7, 1).await.unwrap();
        deposit(&mut connection, 9, 1).await.unwrap();
        let error = deposit(&mut connection, 8, 100).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "mysql fence open account: stale token: the token 8 is below the mark 9"
        );
        let mut transaction = connection.start_transaction(TxOpts::default()).await.unwrap();
        let foreign: FencingToken = "9;origin=016c62".parse().unwrap();
        let error = mysql::open(&mut transaction, "account", &foreign).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:#}");
        drop(transaction);
        connection.ping().await.unwrap();
        assert_eq!(data.now().await, (12, Some(9)));
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_value_is_written_with_the_mark() {
    let data = Data::new().await;
    for found_rows in [false, true] {
        data.reset().await;
        let pool = Pool::new(data.options().client_found_rows(found_rows));
        let fence = MysqlFence::new(pool.clone());
        for _ in 0..2 {
            let mut transaction = pool.start_transaction(TxOpts::default()).await.unwrap();
            mysql::admit(&mut transaction, "account", &token(7), b"seven").await.unwrap();
            let late = mysql::admit(&mut transaction, "account", &token(6), b"six").await;
            assert_eq!(late.unwrap_err().kind(), ErrorKind::Stale);
            transaction.commit().await.unwrap();
        }
        assert_eq!(fence.open("account", &token(7)).await.unwrap().as_deref(), Some(&b"seven"[..]));
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn of_two_writers_the_second_waits_and_the_older_is_refused() {
    let data = Data::new().await;
    for mark in [None, Some(5)] {
        data.reset().await;
        let (mut first, mut second) = (data.connection().await, data.connection().await);
        if let Some(mark) = mark {
            deposit(&mut first, mark, 0).await.unwrap();
        }
        let mut transaction = first.start_transaction(TxOpts::default()).await.unwrap();
        mysql::open(&mut transaction, "account", &token(8)).await.unwrap();
        let waiter = second.id();
        let late = tokio::spawn(async move { deposit(&mut second, 7, 100).await });
        data.waits(waiter).await;
        add(&mut transaction, 5).await;
        transaction.commit().await.unwrap();
        assert_eq!(late.await.unwrap().unwrap_err().kind(), ErrorKind::Stale);
        assert_eq!(data.now().await, (5, Some(8)));
    }
}

/// Whoever opens after an older holder reads what that one wrote, also with plain reads.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn the_newer_of_two_waits_and_reads_what_the_older_wrote() {
    let data = Data::new().await;
    for level in [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead] {
        for snapshots in ["ON", "OFF"] {
            data.reset().await;
            let (mut first, mut second) = (data.connection().await, data.connection().await);
            let old = format!("SET innodb_snapshot_isolation = {snapshots}");
            second.query_drop(old).await.unwrap();
            let mut transaction = first.start_transaction(TxOpts::default()).await.unwrap();
            mysql::open(&mut transaction, "account", &token(7)).await.unwrap();
            add(&mut transaction, 5).await;
            let waiter = second.id();
            let next = tokio::spawn(async move {
                let mut options = TxOpts::new();
                options.with_isolation_level(level);
                let mut transaction = second.start_transaction(options).await.unwrap();
                mysql::open(&mut transaction, "account", &token(8)).await.unwrap();
                transaction.query_first("SELECT balance FROM account").await.unwrap()
            });
            data.waits(waiter).await;
            transaction.commit().await.unwrap();
            assert_eq!(next.await.unwrap(), Some(5_i64), "{level:?} {snapshots}");
        }
    }
}

/// MariaDB says so; MySQL would go on.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_snapshot_before_the_mark_is_unavailable() {
    let data = Data::new().await;
    let (mut connection, mut other) = (data.connection().await, data.connection().await);
    deposit(&mut other, 6, 1).await.unwrap();
    let mut transaction = connection.start_transaction(TxOpts::default()).await.unwrap();
    transaction.query_drop("SELECT balance FROM account").await.unwrap();
    deposit(&mut other, 7, 1).await.unwrap();
    let error = mysql::open(&mut transaction, "account", &token(8)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
}

/// As on MySQL, and on older MariaDB: what is refused is refused by the mark of now.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn an_old_snapshot_lets_no_late_token_pass() {
    let data = Data::new().await;
    let (mut connection, mut other) = (data.connection().await, data.connection().await);
    connection.query_drop("SET innodb_snapshot_isolation = OFF").await.unwrap();
    deposit(&mut other, 6, 1).await.unwrap();
    let mut transaction = connection.start_transaction(TxOpts::default()).await.unwrap();
    transaction.query_drop("SELECT balance FROM account").await.unwrap();
    deposit(&mut other, 9, 1).await.unwrap();
    let error = mysql::open(&mut transaction, "account", &token(8)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error:#}");
    let error = mysql::check(&mut transaction, "account", &shared(8)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error:#}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_check_holds_until_the_end_of_the_transaction() {
    let data = Data::new().await;
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::ReadCommitted] {
        data.reset().await;
        let (mut reader, mut writer) = (data.connection().await, data.connection().await);
        deposit(&mut writer, 7, 10).await.unwrap();
        let mut options = TxOpts::new();
        options.with_isolation_level(level);
        let mut transaction = reader.start_transaction(options.clone()).await.unwrap();
        mysql::check(&mut transaction, "no mark", &shared(1)).await.unwrap();
        mysql::check(&mut transaction, "account", &shared(7)).await.unwrap();
        let waiter = writer.id();
        let next = tokio::spawn(async move { deposit(&mut writer, 8, 5).await });
        data.waits(waiter).await;
        assert_eq!(data.now().await, (10, Some(7)));
        transaction.commit().await.unwrap();
        next.await.unwrap().unwrap();
        let mut transaction = reader.start_transaction(options).await.unwrap();
        let error = mysql::check(&mut transaction, "account", &shared(7)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stale);
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn two_that_wait_for_each_other_are_parted() {
    let data = Data::new().await;
    let (mut first, mut second) = (data.connection().await, data.connection().await);
    for name in ["a", "b"] {
        let fence = MysqlFence::new(data.pool());
        fence.open(name, &token(1)).await.unwrap();
    }
    let mut a = first.start_transaction(TxOpts::default()).await.unwrap();
    mysql::open(&mut a, "a", &token(1)).await.unwrap();
    let mut b = second.start_transaction(TxOpts::default()).await.unwrap();
    mysql::open(&mut b, "b", &token(1)).await.unwrap();
    let (token_a, token_b) = (token(1), token(1));
    let (one, two) =
        tokio::join!(mysql::open(&mut a, "b", &token_a), mysql::open(&mut b, "a", &token_b));
    let kinds = [one, two].map(|result| result.err().map(|error| error.kind()));
    assert!(kinds.contains(&Some(ErrorKind::Unavailable)), "{kinds:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_missing_table_is_shown_and_mended() {
    let data = Data::new().await;
    let mut connection = data.connection().await;
    connection.query_drop("DROP TABLE portunus_fence").await.unwrap();
    let error = deposit(&mut connection, 1, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
    assert!(error.to_string().contains("portunus_fence::mysql::create_table"), "{error}");
    assert!(error.to_string().contains(mysql::SCHEMA), "{error}");
    let mut made = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let pool = data.pool();
        made.spawn(async move { mysql::create_table(&pool).await });
    }
    for made in made.join_all().await {
        made.unwrap();
    }
    deposit(&mut connection, 1, 1).await.unwrap();
    mysql::create_table(&data.pool()).await.unwrap();
    assert_eq!(data.now().await, (1, Some(1)));
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn another_table_of_that_name_is_told() {
    let data = Data::new().await;
    let mut connection = data.connection().await;
    for columns in [
        "resource VARBINARY(512) PRIMARY KEY, token BIGINT",
        "resource VARBINARY(512) PRIMARY KEY, origin INT, token BIGINT",
        "resource VARBINARY(512) PRIMARY KEY, origin TEXT, token BIGINT, more INT NOT NULL",
    ] {
        let other = format!("CREATE OR REPLACE TABLE portunus_fence ({columns}) ENGINE = InnoDB");
        connection.query_drop(other).await.unwrap();
        let error = deposit(&mut connection, 1, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
        assert!(error.to_string().contains("is another than"), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_garbled_row_is_not_written_over() {
    let data = Data::new().await;
    let mut connection = data.connection().await;
    let garbled = "INSERT INTO portunus_fence VALUES ('account', 'XY', 1, NULL)";
    connection.query_drop(garbled).await.unwrap();
    let error = deposit(&mut connection, 8, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:#}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn input_out_of_range_writes_nothing() {
    let data = Data::new().await;
    let mut connection = data.connection().await;
    // A server that cuts what is too long instead of refusing it.
    connection.query_drop("SET sql_mode = ''").await.unwrap();
    for bad in [0, i64::MAX.unsigned_abs() + 1, u64::MAX] {
        let error = deposit(&mut connection, bad, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let said = "accepted are 1 to 9223372036854775807";
        assert!(error.to_string().contains(said), "{error}");
    }
    let mut transaction = connection.start_transaction(TxOpts::default()).await.unwrap();
    for name in ["", "a\0b", &"a".repeat(513)] {
        let error = mysql::open(&mut transaction, name, &token(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    drop(transaction);
    assert_eq!(data.now().await, (0, None));
    deposit(&mut connection, i64::MAX.unsigned_abs(), 1).await.unwrap();
    assert_eq!(data.now().await, (1, Some(i64::MAX)));
    let error = deposit(&mut connection, i64::MAX.unsigned_abs() - 1, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    // The longest origin there is.
    let long = LockName::new("ü".repeat(256)).unwrap();
    let origin = Origin::new(Incarnation::new([255; 64]).unwrap(), long);
    let fence = MysqlFence::new(data.pool());
    let token = FencingToken::new(1, origin);
    fence.open("long", &token).await.unwrap();
    assert_eq!(fence.mark("long").await.unwrap(), Some(token));
}

/// In the caller's own transaction as well.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_weak_token_writes_nothing_unless_it_is_allowed() {
    let data = Data::new().await;
    let mut connection = data.connection().await;
    deposit(&mut connection, 7, 10).await.unwrap();
    let mut transaction = connection.start_transaction(TxOpts::default()).await.unwrap();
    let weak = FencingToken::new_weak(8, token(8).origin().clone());
    let shared: SharedToken = format!("{weak};shared").parse().unwrap();
    for refused in [
        mysql::open(&mut transaction, "account", &weak).await,
        mysql::admit(&mut transaction, "account", &weak, b"eight").await,
        mysql::check(&mut transaction, "account", &shared).await,
        mysql::update(&mut transaction, "account", &weak, async |_| {
            panic!("the work is not begun")
        })
        .await,
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("the token is weak"), "{error}");
    }
    // Even if the caller does not heed it.
    transaction.commit().await.unwrap();
    assert_eq!(data.now().await, (10, Some(7)));
    let mut transaction = connection.start_transaction(TxOpts::default()).await.unwrap();
    mysql::check(&mut transaction, "account", &shared.allow_weak()).await.unwrap();
    mysql::open(&mut transaction, "account", &weak.allow_weak()).await.unwrap();
    add(&mut transaction, 5).await;
    transaction.commit().await.unwrap();
    assert_eq!(data.now().await, (15, Some(8)));
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn an_ended_connection_is_unavailable() {
    let data = Data::new().await;
    let mut connection = data.connection().await;
    let id = connection.id();
    let mut transaction = connection.start_transaction(TxOpts::default()).await.unwrap();
    data.connection().await.query_drop(format!("KILL {id}")).await.unwrap();
    let error = mysql::open(&mut transaction, "account", &token(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    let wrong = Pool::new(data.options().pass(Some("wrong")));
    let error = MysqlFence::new(wrong).open("a", &token(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    assert!(!format!("{error:#}").contains("wrong"), "{error:#}");
    let nobody = Pool::new(data.options().ip_or_hostname("127.0.0.1").tcp_port(1));
    let error = MysqlFence::new(nobody).admit("a", &token(1), b"").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    assert_eq!(data.now().await, (0, None));
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn rights_and_read_only_servers_are_told_apart() {
    let data = Data::new().await;
    let fence = MysqlFence::new(data.pool());
    data.as_superuser("SET GLOBAL read_only = ON").await;
    let error = fence.open("a", &token(1)).await.unwrap_err();
    data.as_superuser("SET GLOBAL read_only = OFF").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    fence.open("a", &token(1)).await.unwrap();
    data.as_superuser(
        "CREATE OR REPLACE USER reader@'%' IDENTIFIED BY 'reader'; \
         GRANT SELECT ON portunus.* TO reader@'%'",
    )
    .await;
    let reader = Pool::new(data.options().user(Some("reader")).pass(Some("reader")));
    let reader = MysqlFence::new(reader);
    assert_eq!(reader.mark("a").await.unwrap(), Some(token(1)));
    let error = reader.open("a", &token(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    reader.create_table().await.unwrap();
}

/// A pool hands connections back as the server sets them up.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_mark_is_committed_whatever_the_default_is() {
    let data = Data::new().await;
    let pool = Pool::new(data.options().setup(vec!["SET autocommit = 0"]));
    let fence = MysqlFence::new(pool);
    fence.open("a", &token(1)).await.unwrap();
    fence.admit("a", &token(2), b"two").await.unwrap();
    assert_eq!(MysqlFence::new(data.pool()).mark("a").await.unwrap(), Some(token(2)));
}

async fn deposit(connection: &mut Conn, value: u64, amount: i64) -> Result<(), Error> {
    let mut transaction = connection.start_transaction(TxOpts::default()).await.unwrap();
    mysql::update(&mut transaction, "account", &token(value), async |transaction| {
        add(transaction, amount).await;
        Ok::<_, Error>(())
    })
    .await?;
    transaction.commit().await.unwrap();
    Ok(())
}

async fn add(transaction: &mut Transaction<'_>, amount: i64) {
    let add = "UPDATE account SET balance = balance + ?";
    transaction.exec_drop(add, (amount,)).await.unwrap();
}

fn token(value: u64) -> FencingToken {
    let origin = Origin::new(Incarnation::new(b"l").unwrap(), LockName::new("account").unwrap());
    FencingToken::new(value, origin)
}

fn shared(value: u64) -> SharedToken {
    format!("{};shared", token(value)).parse().unwrap()
}
