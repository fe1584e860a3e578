//! The PostgreSQL server.

use portunus_testkit::cluster::Postgres;

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

/// Asks, as the user of the URL and over TCP, whose the database is.
fn owner(password: &str) -> [&str; 9] {
    let sql = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()";
    ["env", password, "psql", "-h", "127.0.0.1", "-U", "portunus", "-Atc", sql]
}

const WRITE: &[&str] =
    &["psql", "-U", "portunus", "-c", "CREATE TABLE killed AS SELECT 'kept' AS v"];
const READ: &[&str] = &["psql", "-U", "portunus", "-Atc", "SELECT v FROM killed"];
/// A login without a user, which is refused.
const HELLO: &str = "\0\0\0\u{9}\0\u{3}\0\0\0";
