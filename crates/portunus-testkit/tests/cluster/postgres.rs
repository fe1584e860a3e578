//! The PostgreSQL server.

use portunus_testkit::cluster::{Postgres, Standby, Tls};

use super::faults;

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn its_user_needs_the_password_and_owns_the_database() {
    let postgres = Postgres::shared().await.unwrap();
    let url = postgres.url();
    assert_eq!(url, format!("postgres://portunus:portunus@{}/portunus", postgres.endpoint(0)));

    let shown = postgres.exec(0, &owner("PGPASSWORD=portunus")).await.unwrap();
    assert_eq!(shown.stdout, "portunus\n", "{shown:?}");
    let refused = postgres.exec(0, &owner("PGPASSWORD=wrong")).await.unwrap();
    assert_ne!(refused.code, Some(0), "{refused:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_killed_server_comes_back_with_its_data() {
    let postgres = Postgres::exclusive().await.unwrap();
    faults::a_killed_server_comes_back_with_its_data(&postgres, WRITE, READ).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_paused_server_is_not_healthy() {
    faults::a_paused_server_is_not_healthy(&Postgres::exclusive().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_server_without_clients_is_healthy() {
    faults::a_server_without_clients_is_healthy(&Postgres::exclusive().await.unwrap(), HELLO).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn restore_undoes_everything() {
    faults::restore_undoes_everything_on_a_server(&Postgres::exclusive().await.unwrap()).await;
}

/// A second transaction gets another connection, as the first one's serves another client then.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn its_pooler_pools_transactions() {
    let postgres = Postgres::shared().await.unwrap();
    assert_ne!(postgres.pooler_url(), postgres.url());
    // The first transaction of all is under way until the pipe ends.
    let script = "export PGPASSWORD=$1; psql='psql -XAtq -h 127.0.0.1 -p 6432 -U portunus'
        $psql -c 'SELECT 1' || exit 1
        mkfifo /tmp/pipe; $psql </tmp/pipe >/tmp/first & exec 3>/tmp/pipe
        echo 'SELECT pg_backend_pid(); BEGIN; SELECT pg_backend_pid();' >&3
        until [ $(wc -l </tmp/first) = 2 ]; do :; done
        $psql -c 'SELECT pg_backend_pid()' >/tmp/second
        exec 3>&-; wait
        grep -qxf /tmp/second /tmp/first && echo same || echo another";
    let shown = postgres.exec(0, &["sh", "-c", script, "sh", "portunus"]).await.unwrap();
    assert_eq!(shown.stdout, "1\nanother\n", "{shown:?}");
    let refused = postgres.exec(0, &["sh", "-c", script, "sh", "wrong"]).await.unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_synchronous_standby_has_what_was_committed_and_is_promoted() {
    let postgres = Postgres::builder().standby(Standby::Synchronous).start().await.unwrap();
    assert_eq!(postgres.leader().await.unwrap(), 0);
    postgres.psql(0, "CREATE TABLE kept AS SELECT 'before' AS v").await.unwrap();

    // Without its standby the primary answers no commit.
    postgres.partition(0).await.unwrap();
    let alone =
        ["psql", "-U", "postgres", "-d", "portunus", "-c", "INSERT INTO kept VALUES ('alone')"];
    postgres.spawn(0, &alone).await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while postgres.psql(0, waits).await.unwrap() != "1\n" {}
    postgres.kill(0).await.unwrap();

    postgres.promote(1).await.unwrap();
    assert_eq!(postgres.leader().await.unwrap(), 1);
    postgres.psql(1, "INSERT INTO kept VALUES ('after')").await.unwrap();
    assert_eq!(postgres.psql(1, "SELECT v FROM kept").await.unwrap(), "before\nafter\n");

    // The old primary comes back as one, alone.
    postgres.restart(0).await.unwrap();
    postgres.wait_healthy().await.unwrap();
    let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
    assert_eq!(postgres.psql(0, timeline).await.unwrap(), "1\n");
    // A promoted standby stays a primary through a restart.
    postgres.kill(1).await.unwrap();
    postgres.restart(1).await.unwrap();
    postgres.wait_healthy().await.unwrap();
    assert_eq!(postgres.psql(1, timeline).await.unwrap(), "2\n");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn an_asynchronous_standby_may_miss_what_was_committed() {
    let postgres = Postgres::builder().standby(Standby::Asynchronous).start().await.unwrap();
    postgres.partition(0).await.unwrap();
    postgres.psql(0, "CREATE TABLE missed (v int)").await.unwrap();
    postgres.kill(0).await.unwrap();
    postgres.promote(1).await.unwrap();
    let missed = "SELECT to_regclass('missed') IS NULL";
    assert_eq!(postgres.psql(1, missed).await.unwrap(), "t\n");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn only_its_wall_clock_moves() {
    let postgres = Postgres::builder().movable_clock().start().await.unwrap();
    faults::only_the_wall_clock_moves(&postgres, TIME).await;
    let unmovable = Postgres::shared().await.unwrap();
    assert!(unmovable.step_clock(0, 60).await.is_err());
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn mutual_tls_shuts_others_out() {
    let postgres = Postgres::builder().tls(Tls::Mutual).start().await.unwrap();
    assert!(postgres.certificates().unwrap().ca().is_file());
    let mine = "sslmode=verify-full sslrootcert=/tmp/tls/ca.crt sslcert=/tmp/tls/client.crt \
                sslkey=/tmp/tls/client.key";
    assert_eq!(tls(&postgres, mine).await, Some(0));
    assert_ne!(tls(&postgres, "sslmode=disable").await, Some(0), "in the clear");
    assert_ne!(tls(&postgres, "sslmode=require").await, Some(0), "without a certificate");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn server_tls_asks_clients_for_no_certificate() {
    let postgres = Postgres::builder().tls(Tls::Server).start().await.unwrap();
    let theirs = "sslmode=verify-full sslrootcert=/tmp/tls/ca.crt";
    assert_eq!(tls(&postgres, theirs).await, Some(0));
    assert_ne!(tls(&postgres, "sslmode=disable").await, Some(0), "in the clear");
}

/// How a login with these settings ends, over the network as any client's.
async fn tls(postgres: &Postgres, settings: &str) -> Option<i64> {
    // psql refuses a key that others may read.
    let login = format!(
        "install -D -m 600 -t /tmp/tls /etc/portunus/* && PGPASSWORD=portunus \
         psql 'host=localhost user=portunus dbname=portunus {settings}' -c 'SELECT 1'"
    );
    postgres.exec(0, &["sh", "-c", &login]).await.unwrap().code
}

/// Asks, as the user of the URL and over TCP, whose the database is.
fn owner(password: &str) -> [&str; 9] {
    let sql = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()";
    ["env", password, "psql", "-h", "127.0.0.1", "-U", "portunus", "-Atc", sql]
}

const WRITE: &[&str] =
    &["psql", "-U", "portunus", "-c", "CREATE TABLE killed AS SELECT 'kept' AS v"];
const READ: &[&str] = &["psql", "-U", "portunus", "-Atc", "SELECT v FROM killed"];
const TIME: &[&str] =
    &["psql", "-U", "postgres", "-Atc", "SELECT floor(extract(epoch FROM clock_timestamp()))"];
/// A login without a user, which is refused.
const HELLO: &str = "\0\0\0\u{9}\0\u{3}\0\0\0";
