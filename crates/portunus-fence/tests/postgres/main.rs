//! The fence in PostgreSQL: the suite, and what is particular to it.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod data;

use portunus_core::name::LockName;
use portunus_core::token::{Incarnation, Origin};
use portunus_fence::postgres::{self, PostgresFence};
use portunus_fence::{Error, ErrorKind, Fence, FencingToken, SharedToken};
use tokio_postgres::{Client, IsolationLevel, Transaction};

use data::{Data, open};

portunus_testkit::fence_conformance! {
    #[ignore = "needs a cluster: `cargo xtask test`"]
    open
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn mark_and_effect_are_one() {
    let data = Data::new().await;
    let mut client = data.client().await;
    deposit(&mut client, 7, 10).await.unwrap();
    assert_eq!(data.now().await, (10, Some(7)));
    // The transaction is dropped: neither happened.
    let transaction = client.transaction().await.unwrap();
    postgres::open(&transaction, "account", &token(8)).await.unwrap();
    add(&transaction, 5).await;
    drop(transaction);
    assert_eq!(data.now().await, (10, Some(7)));
    // The same token again, a higher one, and a late one.
    deposit(&mut client, 7, 1).await.unwrap();
    deposit(&mut client, 9, 1).await.unwrap();
    let error = deposit(&mut client, 8, 100).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "postgres fence open account: stale token: the token 8 is below the mark 9"
    );
    assert_eq!(data.now().await, (12, Some(9)));
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_value_is_written_with_the_mark() {
    let data = Data::new().await;
    let mut client = data.client().await;
    let transaction = client.transaction().await.unwrap();
    postgres::admit(&transaction, "account", &token(7), b"seven").await.unwrap();
    let error = postgres::admit(&transaction, "account", &token(6), b"six").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    postgres::open(&transaction, "account", &token(8)).await.unwrap();
    transaction.commit().await.unwrap();
    let fence = PostgresFence::new(client);
    assert_eq!(fence.open("account", &token(8)).await.unwrap().as_deref(), Some(&b"seven"[..]));
}

/// The futures may run on any thread.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn of_two_writers_the_second_waits_and_the_older_is_refused() {
    let data = Data::new().await;
    for mark in [None, Some(5)] {
        let mut first = data.client().await;
        if let Some(mark) = mark {
            first.batch_execute("DELETE FROM portunus_fence").await.unwrap();
            deposit(&mut first, mark, 0).await.unwrap();
        }
        let before = data.now().await.0;
        let transaction = first.transaction().await.unwrap();
        postgres::open(&transaction, "account", &token(8)).await.unwrap();
        let mut second = data.client().await;
        let backend = pid(&second).await;
        let late = tokio::spawn(async move { deposit(&mut second, 7, 100).await });
        data.waits(backend).await;
        add(&transaction, 5).await;
        transaction.commit().await.unwrap();
        assert_eq!(late.await.unwrap().unwrap_err().kind(), ErrorKind::Stale);
        assert_eq!(data.now().await, (before + 5, Some(8)));
    }
}

/// It is the same statement.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_prepared_fence_refuses_as_well() {
    let data = Data::new().await;
    let mut client = data.client().await;
    let fence = postgres::PreparedFence::new(&client).await.unwrap();
    for (number, refused) in [(7, None), (7, None), (6, Some(ErrorKind::Stale)), (8, None)] {
        let transaction = client.transaction().await.unwrap();
        // In one flight: what is refused is rolled back with the effect.
        let number = token(number);
        let open = fence.open(&transaction, "account", &number);
        let (opened, ()) = tokio::join!(open, add(&transaction, 1));
        assert_eq!(opened.as_ref().err().map(Error::kind), refused);
        if opened.is_ok() {
            transaction.commit().await.unwrap();
        }
    }
    assert_eq!(data.now().await, (3, Some(8)));
    data.client().await.batch_execute("DROP TABLE portunus_fence").await.unwrap();
    let error = postgres::PreparedFence::new(&client).await.unwrap_err();
    assert!(error.to_string().contains(postgres::SCHEMA), "{error}");
}

/// Whoever opens after an older holder reads what that one wrote, or nothing.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn the_newer_of_two_waits_and_reads_what_the_older_wrote() {
    let data = Data::new().await;
    for level in [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead] {
        let (mut first, mut second) = (data.client().await, data.client().await);
        let transaction = first.transaction().await.unwrap();
        postgres::open(&transaction, "account", &token(7)).await.unwrap();
        add(&transaction, 5).await;
        let backend = pid(&second).await;
        let next = tokio::spawn(async move {
            let transaction = second.build_transaction().isolation_level(level);
            let transaction = transaction.start().await.unwrap();
            postgres::open(&transaction, "account", &token(8)).await?;
            let row = transaction.query_one("SELECT balance FROM account", &[]).await.unwrap();
            Ok::<i64, Error>(row.get(0))
        });
        data.waits(backend).await;
        transaction.commit().await.unwrap();
        let balance = data.now().await.0;
        match next.await.unwrap() {
            Ok(read) => assert_eq!(read, balance),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
                assert!(matches!(level, IsolationLevel::RepeatableRead));
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_snapshot_before_the_mark_is_unavailable() {
    let data = Data::new().await;
    let (mut client, mut other) = (data.client().await, data.client().await);
    deposit(&mut other, 6, 1).await.unwrap();
    let build = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    let transaction = build.start().await.unwrap();
    transaction.query("SELECT balance FROM account", &[]).await.unwrap();
    deposit(&mut other, 7, 1).await.unwrap();
    let error = postgres::open(&transaction, "account", &token(8)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    // The transaction has failed by then.
    let error = postgres::open(&transaction, "account", &token(8)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_check_holds_until_the_end_of_the_transaction() {
    let data = Data::new().await;
    let (mut reader, mut writer) = (data.client().await, data.client().await);
    deposit(&mut writer, 7, 10).await.unwrap();
    let transaction = reader.transaction().await.unwrap();
    postgres::check(&transaction, "no mark", &shared(1)).await.unwrap();
    postgres::check(&transaction, "account", &shared(7)).await.unwrap();
    let backend = pid(&writer).await;
    let next = tokio::spawn(async move { deposit(&mut writer, 8, 5).await });
    data.waits(backend).await;
    assert_eq!(data.now().await, (10, Some(7)));
    transaction.commit().await.unwrap();
    next.await.unwrap().unwrap();
    let transaction = reader.transaction().await.unwrap();
    let error = postgres::check(&transaction, "account", &shared(7)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn two_that_wait_for_each_other_are_parted() {
    let data = Data::new().await;
    let (mut first, mut second) = (data.client().await, data.client().await);
    let a = first.transaction().await.unwrap();
    postgres::open(&a, "a", &token(1)).await.unwrap();
    let b = second.transaction().await.unwrap();
    postgres::open(&b, "b", &token(1)).await.unwrap();
    let (token_a, token_b) = (token(1), token(1));
    let (one, two) =
        tokio::join!(postgres::open(&a, "b", &token_a), postgres::open(&b, "a", &token_b));
    let kinds = [one, two].map(|result| result.err().map(|error| error.kind()));
    assert!(kinds.contains(&Some(ErrorKind::Unavailable)), "{kinds:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_foreign_origin_is_a_conflict() {
    let data = Data::new().await;
    let mut client = data.client().await;
    deposit(&mut client, 7, 10).await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let foreign: FencingToken = "9;origin=016c62".parse().unwrap();
    let error = postgres::open(&transaction, "account", &foreign).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:#}");
    drop(transaction);
    assert_eq!(data.now().await, (10, Some(7)));
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_missing_table_is_shown_and_mended() {
    let data = Data::new().await;
    let mut client = data.client().await;
    client.batch_execute("DROP TABLE portunus_fence").await.unwrap();
    let error = deposit(&mut client, 1, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
    assert!(error.to_string().contains("portunus_fence::postgres::create_table"), "{error}");
    assert!(error.to_string().contains(postgres::SCHEMA), "{error}");
    let mut made = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = data.client().await;
        made.spawn(async move { postgres::create_table(&client).await });
    }
    for made in made.join_all().await {
        made.unwrap();
    }
    deposit(&mut client, 1, 1).await.unwrap();
    postgres::create_table(&client).await.unwrap();
    assert_eq!(data.now().await, (1, Some(1)));
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn another_table_of_that_name_is_told() {
    let data = Data::new().await;
    let mut client = data.client().await;
    for columns in [
        "resource TEXT PRIMARY KEY, token BIGINT",
        "resource TEXT, origin TEXT, token BIGINT",
        "resource TEXT PRIMARY KEY, origin TEXT, token TEXT",
    ] {
        let other = format!("DROP TABLE portunus_fence; CREATE TABLE portunus_fence ({columns})");
        client.batch_execute(&other).await.unwrap();
        let error = deposit(&mut client, 1, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:#}");
        assert!(error.to_string().contains("is another than"), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_garbled_row_is_not_written_over() {
    let data = Data::new().await;
    let mut client = data.client().await;
    let garbled = "INSERT INTO portunus_fence VALUES ('account', 'XY', 1, NULL)";
    client.batch_execute(garbled).await.unwrap();
    let error = deposit(&mut client, 8, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:#}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn input_out_of_range_writes_nothing() {
    let data = Data::new().await;
    let mut client = data.client().await;
    for bad in [0, i64::MAX.unsigned_abs() + 1, u64::MAX] {
        let error = deposit(&mut client, bad, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let said = "accepted are 1 to 9223372036854775807";
        assert!(error.to_string().contains(said), "{error}");
    }
    let transaction = client.transaction().await.unwrap();
    for name in ["", "a\0b", &"a".repeat(513)] {
        let error = postgres::open(&transaction, name, &token(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    drop(transaction);
    assert_eq!(data.now().await, (0, None));
    deposit(&mut client, i64::MAX.unsigned_abs(), 1).await.unwrap();
    assert_eq!(data.now().await, (1, Some(i64::MAX)));
}

/// In the caller's own transaction as well.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_weak_token_writes_nothing_unless_it_is_allowed() {
    let data = Data::new().await;
    let mut client = data.client().await;
    deposit(&mut client, 7, 10).await.unwrap();
    let prepared = postgres::PreparedFence::new(&client).await.unwrap();
    let mut transaction = client.transaction().await.unwrap();
    let weak = weak(8);
    let shared: SharedToken = format!("{weak};shared").parse().unwrap();
    for refused in [
        postgres::open(&transaction, "account", &weak).await,
        prepared.open(&transaction, "account", &weak).await,
        postgres::admit(&transaction, "account", &weak, b"eight").await,
        postgres::check(&transaction, "account", &shared).await,
        postgres::update(&mut transaction, "account", &weak, async |_| {
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
    let transaction = client.transaction().await.unwrap();
    postgres::check(&transaction, "account", &shared.allow_weak()).await.unwrap();
    prepared.open(&transaction, "account", &weak.allow_weak()).await.unwrap();
    add(&transaction, 5).await;
    transaction.commit().await.unwrap();
    assert_eq!(data.now().await, (15, Some(8)));
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn an_ended_connection_is_unavailable() {
    let data = Data::new().await;
    let fence = PostgresFence::new(data.client().await);
    fence.admit("a", &token(1), b"one").await.unwrap();
    let client = data.client().await;
    let backend = pid(&client).await;
    let ended = PostgresFence::new(client);
    let kill = format!("SELECT pg_terminate_backend({backend})");
    data.client().await.batch_execute(&kill).await.unwrap();
    // A call that is sent before the client has found out can't be told from one that is late.
    let found_out = async {
        loop {
            match ended.admit("a", &token(2), b"two").await.unwrap_err() {
                error if error.kind() == ErrorKind::Unavailable => break,
                error => assert_eq!(error.kind(), ErrorKind::Unconfirmed, "{error:#}"),
            }
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(30);
    tokio::time::timeout(limit, found_out).await.expect("the client finds out");
    assert_eq!(fence.mark("a").await.unwrap(), Some(token(1)));
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn rights_and_read_only_servers_are_told_apart() {
    let data = Data::new().await;
    let mut client = data.client().await;
    client.batch_execute("SET default_transaction_read_only = on").await.unwrap();
    let error = deposit(&mut client, 1, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    client.batch_execute("REVOKE ALL ON portunus_fence FROM portunus").await.unwrap();
    let error = deposit(&mut client, 1, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
}

async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

async fn deposit(client: &mut Client, value: u64, amount: i64) -> Result<(), Error> {
    let mut transaction = client.transaction().await.unwrap();
    postgres::update(&mut transaction, "account", &token(value), async |transaction| {
        add(transaction, amount).await;
        Ok::<_, Error>(())
    })
    .await?;
    transaction.commit().await.unwrap();
    Ok(())
}

async fn add(transaction: &Transaction<'_>, amount: i64) {
    let add = "UPDATE account SET balance = balance + $1";
    assert_eq!(transaction.execute(add, &[&amount]).await.unwrap(), 1);
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
