//! The README's table of guarantees is written from what the stores state in code.

mod common;

use common::metadata;
use portunus::Memory;
use portunus::backend::{Capabilities, LockBackend, TokenStrength};
use std::time::Duration;

const BEGIN: &str = "<!-- capabilities: begin -->\n";
const END: &str = "<!-- capabilities: end -->";

#[test]
#[cfg_attr(
    not(all(
        feature = "etcd",
        feature = "mysql",
        feature = "postgres",
        feature = "redis",
        feature = "sqlite",
        feature = "zookeeper"
    )),
    ignore = "needs every store: `cargo test -p portunus-tests --all-features --test readme`"
)]
fn the_table_says_what_the_stores_state() {
    let path = metadata().workspace_root.join("crates/portunus/README.md");
    let readme = std::fs::read_to_string(&path).expect("a readable README");
    let (before, rest) = readme.split_once(BEGIN).expect("the marker of the table's begin");
    let (written, after) = rest.split_once(END).expect("the marker of the table's end");
    let stated = table(&stores());
    if std::env::var_os("PORTUNUS_BLESS").is_some() {
        let readme = [before, BEGIN, &stated, END, after].concat();
        std::fs::write(&path, readme).expect("a writable README");
    } else {
        assert_eq!(
            written, stated,
            "the README's table is not what the stores state; write it anew with \
             `PORTUNUS_BLESS=1 cargo test -p portunus-tests --all-features --test readme`"
        );
    }
}

fn stores() -> Vec<Capabilities> {
    vec![
        Memory::new().capabilities(),
        #[cfg(feature = "etcd")]
        etcd(),
        #[cfg(feature = "zookeeper")]
        zookeeper(),
        #[cfg(feature = "postgres")]
        postgres(),
        #[cfg(feature = "mysql")]
        mysql(),
        #[cfg(feature = "redis")]
        redis(),
        #[cfg(feature = "sqlite")]
        sqlite(),
    ]
}

/// From a URL, without a server: capabilities are constant.
#[cfg(feature = "etcd")]
fn etcd() -> Capabilities {
    use portunus::etcd::{Etcd, EtcdConfig};

    let mut url = portunus::backend::StoreUrl::parse("etcd://localhost").expect("a URL");
    let config = EtcdConfig::from_url(&mut url).expect("a configuration");
    Etcd::new(config).expect("a backend").capabilities()
}

#[cfg(feature = "zookeeper")]
fn zookeeper() -> Capabilities {
    use portunus::zookeeper::{ZooKeeper, ZooKeeperConfig};

    let config = ZooKeeperConfig::new(["localhost"]).expect("a configuration");
    ZooKeeper::new(config).expect("a backend").capabilities()
}

#[cfg(feature = "postgres")]
fn postgres() -> Capabilities {
    use portunus::postgres::{Postgres, PostgresConfig};

    let config = PostgresConfig::new(["localhost"], "locks").expect("a configuration");
    Postgres::new(config).expect("a backend").capabilities()
}

#[cfg(feature = "mysql")]
fn mysql() -> Capabilities {
    use portunus::mysql::{Mysql, MysqlConfig};

    let config = MysqlConfig::new(["localhost"], "locks").expect("a configuration");
    Mysql::new(config).expect("a backend").capabilities()
}

#[cfg(feature = "redis")]
fn redis() -> Capabilities {
    use portunus::redis::{Redis, RedisConfig};

    let config = RedisConfig::new(["localhost"]).expect("a configuration");
    Redis::new(config).expect("a backend").capabilities()
}

#[cfg(feature = "sqlite")]
fn sqlite() -> Capabilities {
    use portunus::sqlite::{Sqlite, SqliteConfig};

    Sqlite::new(SqliteConfig::new("locks.db").expect("a configuration")).capabilities()
}

fn table(stores: &[Capabilities]) -> String {
    type Row = (&'static str, fn(&Capabilities) -> String);
    let rows: [Row; 11] = [
        ("", |store| store.store.to_owned()),
        ("waiters get the lock in the order of arrival", |store| yes(store.fifo)),
        ("waiters are woken by the store; else they poll", |store| yes(store.push)),
        ("the fencing token grows", |store| strength(store.strength).to_owned()),
        ("the store frees the lock of a crashed holder", |store| yes(store.crash_release)),
        ("read/write locks", |store| yes(store.shared)),
        ("a writer becomes a reader in place", |store| yes(store.convert)),
        ("semaphores", |store| yes(store.permits)),
        ("the longest value of a leader", |store| bytes(store.max_value)),
        ("`ttl`, the time that this takes at most", |store| {
            format!("{} to {}", span(store.min_ttl), span(store.max_ttl))
        }),
        ("the store replaces a failed node within", |store| match store.fail_over {
            Duration::ZERO => "–".to_owned(),
            time => span(time),
        }),
    ];
    let line = |(title, cell): &Row| {
        let cells = stores.iter().map(cell).collect::<Vec<_>>().join(" | ");
        format!("| {title} | {cells} |\n")
    };
    let rule = format!("|{}\n", "---|".repeat(stores.len() + 1));
    let body: String = rows[1..].iter().map(line).collect();
    format!("{}{rule}{body}", line(&rows[0]))
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn strength(strength: TokenStrength) -> &'static str {
    match strength {
        TokenStrength::Strong => "always, whatever minority of nodes fails",
        TokenStrength::Durable => "as long as the store keeps what it acknowledged",
        TokenStrength::Weak => "until a server fails over or forgets: no basis for a fence",
    }
}

fn bytes(number: usize) -> String {
    if number.is_multiple_of(1024) {
        format!("{} KiB", number / 1024)
    } else {
        format!("{number} bytes")
    }
}

fn span(span: Duration) -> String {
    let millis = span.as_millis();
    match millis {
        _ if millis.is_multiple_of(3_600_000) => format!("{} h", millis / 3_600_000),
        1000.. => format!("{} s", span.as_secs_f64()),
        _ => format!("{millis} ms"),
    }
}
