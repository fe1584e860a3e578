//! The Redis server.

use portunus_testkit::cluster::Redis;

use super::faults;

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn it_answers_at_its_url_and_evicts_nothing() {
    let redis = Redis::shared().await.unwrap();
    let url = redis.url();
    assert_eq!(url, format!("redis://{}", redis.endpoint(0)));
    assert!(faults::answers(&redis, 0, HELLO).await);
    for (name, value) in [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory-policy", "noeviction"),
        ("save", ""),
    ] {
        let shown = redis.exec(0, &["redis-cli", "config", "get", name]).await.unwrap();
        assert_eq!(shown.stdout.trim_end_matches('\n'), format!("{name}\n{value}").trim_end());
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_killed_server_comes_back_with_its_data() {
    let redis = Redis::exclusive().await.unwrap();
    faults::a_killed_server_comes_back_with_its_data(&redis, WRITE, READ).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_paused_server_is_not_healthy() {
    faults::a_paused_server_is_not_healthy(&Redis::exclusive().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_server_without_clients_is_healthy() {
    faults::a_server_without_clients_is_healthy(&Redis::exclusive().await.unwrap(), HELLO).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn restore_undoes_everything() {
    faults::restore_undoes_everything_on_a_server(&Redis::exclusive().await.unwrap()).await;
}

const WRITE: &[&str] = &["redis-cli", "set", "killed", "kept"];
const READ: &[&str] = &["redis-cli", "get", "killed"];
const HELLO: &str = "PING\r\n";
