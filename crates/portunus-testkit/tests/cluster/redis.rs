//! Redis and Valkey: one server, and several masters.

use std::time::Duration;

use portunus_testkit::cluster::{Persistence, Redis, RedisGroup, RedisMasters, Tls};

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

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_group_replaces_the_master_that_is_killed() {
    let sentinels = RedisGroup::sentinels().await.unwrap();
    assert!(sentinels.url().ends_with("?sentinel=main"), "{}", sentinels.url());
    let cluster = RedisGroup::cluster().await.unwrap();
    assert!(cluster.url().ends_with("?cluster=true"), "{}", cluster.url());
    for group in [sentinels, cluster] {
        let master = group.master("a").await.unwrap();
        group.signal(master, "KILL").await.unwrap();
        assert_ne!(next_master(&group).await, master);
        group.begin(master).await.unwrap();
        let follows = async {
            // Before somebody says what it is now, it may take itself for the master.
            while !group.cli(master, &["role"]).await.unwrap_or_default().starts_with("slave") {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), follows).await.unwrap();
    }
}

async fn next_master(group: &RedisGroup) -> usize {
    let found = async {
        loop {
            if let Some(master) = group.master("a").await {
                return master;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.unwrap()
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn masters_know_nothing_of_each_other_and_lose_only_what_is_wiped() {
    let masters: &RedisMasters = &RedisMasters::exclusive().await.unwrap();
    assert_eq!(masters.url(), format!("redlock://{}", masters.endpoints().join(",")));
    assert_eq!(masters.endpoints().len(), 5);
    for node in 0..5 {
        let value = node.to_string();
        assert_eq!(cli(masters, node, &["set", "own", &value]).await, "OK");
    }
    masters.kill(0).await.unwrap();
    masters.wipe(1).await.unwrap();
    masters.restart(0).await.unwrap();
    masters.wait_healthy().await.unwrap();
    let mut kept = Vec::new();
    for node in 0..5 {
        kept.push(cli(masters, node, &["get", "own"]).await);
    }
    assert_eq!(kept, ["0", "", "2", "3", "4"]);
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_replica_is_promoted_with_what_it_has() {
    let pair = RedisMasters::<2>::builder().start().await.unwrap();
    pair.replicate(1, 0).await.unwrap();
    assert_eq!(cli(&pair, 0, &["set", "held", "one"]).await, "OK");
    assert_eq!(cli(&pair, 0, &["wait", "1", "0"]).await, "1");
    assert!(cli(&pair, 1, &["set", "held", "two"]).await.starts_with("READONLY"));
    pair.kill(0).await.unwrap();
    pair.promote(1).await.unwrap();
    assert_eq!(cli(&pair, 1, &["get", "held"]).await, "one");
    assert_eq!(cli(&pair, 1, &["set", "held", "two"]).await, "OK");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn without_persistence_a_killed_node_is_empty() {
    let redis = Redis::builder().persistence(Persistence::None).start().await.unwrap();
    assert_eq!(cli(&redis, 0, &["set", "killed", "lost"]).await, "OK");
    redis.kill(0).await.unwrap();
    redis.restart(0).await.unwrap();
    redis.wait_healthy().await.unwrap();
    assert_eq!(cli(&redis, 0, &["get", "killed"]).await, "");
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn only_its_wall_clock_moves() {
    let redis = Redis::builder().movable_clock().start().await.unwrap();
    faults::only_the_wall_clock_moves(&redis, TIME).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn valkey_serves_in_its_place() {
    let valkey = Redis::builder().valkey().movable_clock().start().await.unwrap();
    let server = cli(&valkey, 0, &["info", "server"]).await;
    assert!(server.contains("valkey_version:8.1."), "{server}");
    faults::only_the_wall_clock_moves(&valkey, TIME).await;
    faults::a_killed_server_comes_back_with_its_data(&valkey, WRITE, READ).await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn mutual_tls_and_users_shut_others_out() {
    let rules = "~lock:* +set +get";
    let redis = Redis::builder().tls(Tls::Mutual).user("locker", "secret", rules);
    let redis = redis.start().await.unwrap();
    assert_eq!(redis.url(), format!("redis://locker:secret@{}", redis.endpoint(0)));
    assert!(!format!("{redis:?}").contains("secret"));

    let login = ["--user", "locker", "--pass", "secret", "--no-auth-warning"];
    let trust = ["--tls", "--cacert", "/etc/portunus/ca.crt"];
    let mine = ["--cert", "/etc/portunus/client.crt", "--key", "/etc/portunus/client.key"];
    let all = [&trust[..], &mine, &login].concat();
    assert_eq!(cli(&redis, 0, &[&all[..], &["set", "lock:a", "b"]].concat()).await, "OK");
    let refused = cli(&redis, 0, &[&all[..], &["set", "other", "b"]].concat()).await;
    assert!(refused.starts_with("NOPERM"), "{refused}");
    let refused = cli(&redis, 0, &[&trust[..], &mine, &["get", "lock:a"]].concat()).await;
    assert!(refused.starts_with("NOPERM"), "{refused}");
    let refused = cli(&redis, 0, &[&trust[..], &login, &["get", "lock:a"]].concat()).await;
    assert_ne!(refused, "b", "without a certificate");
    let refused = cli(&redis, 0, &[&login[..], &["get", "lock:a"]].concat()).await;
    assert_ne!(refused, "b", "in the clear");
}

/// What `redis-cli` says in a node.
async fn cli<const N: usize>(servers: &RedisMasters<N>, node: usize, args: &[&str]) -> String {
    let said = servers.exec(node, &[&["redis-cli"], args].concat()).await.unwrap();
    [said.stdout.trim(), said.stderr.trim()].concat()
}

const TIME: &[&str] = &["redis-cli", "time"];
const WRITE: &[&str] = &["redis-cli", "set", "killed", "kept"];
const READ: &[&str] = &["redis-cli", "get", "killed"];
const HELLO: &str = "PING\r\n";
