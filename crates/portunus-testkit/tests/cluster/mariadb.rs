//! The MariaDB server.

use portunus_testkit::cluster::{MariaDb, Tls};

use super::faults;

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn its_user_needs_the_password_and_has_the_database() {
    let mariadb = MariaDb::shared().await.unwrap();
    let url = mariadb.url();
    assert_eq!(url, format!("mysql://portunus:portunus@{}/portunus", mariadb.endpoint(0)));

    let create = "CREATE TABLE rights (v INT) ENGINE=InnoDB; SHOW TABLES LIKE 'rights'";
    let shown = mariadb.exec(0, &query("-pportunus", create)).await.unwrap();
    assert_eq!(shown.stdout, "rights\n", "{shown:?}");
    let refused = mariadb.exec(0, &query("-pwrong", create)).await.unwrap();
    assert_ne!(refused.code, Some(0), "{refused:?}");
}

/// More broken logins than MariaDB forgives a host by default.
#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn no_host_is_blocked() {
    let mariadb = MariaDb::shared().await.unwrap();
    for _ in 0..150 {
        assert!(faults::answers(&mariadb, 0, HELLO).await);
        assert!(mariadb.is_healthy(0).await);
    }
    let shown = mariadb.exec(0, &query("-pportunus", "SELECT 'in'")).await.unwrap();
    assert_eq!(shown.stdout, "in\n", "{shown:?}");
}

/// As the user of the URL, over TCP.
fn query<'a>(password: &'a str, sql: &'a str) -> [&'a str; 9] {
    ["mariadb", "-h", "127.0.0.1", "-u", "portunus", password, "portunus", "-Ne", sql]
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_killed_server_comes_back_with_its_data() {
    let mariadb = MariaDb::exclusive().await.unwrap();
    faults::a_killed_server_comes_back_with_its_data(&mariadb, WRITE, READ).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_paused_server_is_not_healthy() {
    faults::a_paused_server_is_not_healthy(&MariaDb::exclusive().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_server_without_clients_is_healthy() {
    faults::a_server_without_clients_is_healthy(&MariaDb::exclusive().await.unwrap(), HELLO).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn restore_undoes_everything() {
    faults::restore_undoes_everything_on_a_server(&MariaDb::exclusive().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn only_its_wall_clock_moves() {
    let mariadb = MariaDb::builder().movable_clock().start().await.unwrap();
    faults::only_the_wall_clock_moves(&mariadb, TIME).await;
    // A wait until a moment of that clock is as long as it was.
    mariadb.step_clock(0, -60).await.unwrap();
    let sleep = mariadb.exec(0, &["mariadb", "-Ne", "SELECT SLEEP(0.5)"]).await.unwrap();
    assert_eq!(sleep.stdout, "0\n", "{sleep:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn mutual_tls_shuts_others_out() {
    let mariadb = MariaDb::builder().tls(Tls::Mutual).start().await.unwrap();
    assert!(mariadb.certificates().unwrap().ca().is_file());
    let mine = ["--ssl-cert=/etc/portunus/client.crt", "--ssl-key=/etc/portunus/client.key"];
    assert_eq!(tls(&mariadb, &[&[TRUST], &mine[..]].concat()).await, Some(0));
    assert_ne!(tls(&mariadb, &["--skip-ssl"]).await, Some(0), "in the clear");
    assert_ne!(tls(&mariadb, &[TRUST]).await, Some(0), "without a certificate");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn server_tls_asks_clients_for_no_certificate() {
    let mariadb = MariaDb::builder().tls(Tls::Server).start().await.unwrap();
    assert_eq!(tls(&mariadb, &[TRUST, "--ssl-verify-server-cert"]).await, Some(0));
    assert_ne!(tls(&mariadb, &["--skip-ssl"]).await, Some(0), "in the clear");
}

/// How a login with these settings ends, over the network as any client's.
async fn tls(mariadb: &MariaDb, settings: &[&str]) -> Option<i64> {
    let login = ["mariadb", "-h", "127.0.0.1", "-u", "portunus", "-pportunus", "-e", "SELECT 1"];
    mariadb.exec(0, &[&login, settings].concat()).await.unwrap().code
}

const TRUST: &str = "--ssl-ca=/etc/portunus/ca.crt";
const TIME: &[&str] = &["mariadb", "-Ne", "SELECT UNIX_TIMESTAMP()"];
const WRITE: &[&str] = &["mariadb", "-e", "CREATE TABLE portunus.killed AS SELECT 'kept' AS v"];
const READ: &[&str] = &["mariadb", "-Ne", "SELECT v FROM portunus.killed"];
/// The server speaks first.
const HELLO: &str = "";
