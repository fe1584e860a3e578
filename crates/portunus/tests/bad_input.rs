//! What a user can get wrong: each is a typed error that says what was wrong and what is accepted.
//! Nothing hangs, panics or prints a password.

use portunus::backend::LockObserver;
use portunus::{Error, ErrorKind, LockManager, LossReason, Memory, builder, connect};
use std::time::Duration;

/// The error of a URL; fails when a password is in it.
async fn refused(url: &str) -> Error {
    let tried = tokio::time::timeout(Duration::from_secs(30), connect(url)).await;
    let error = tried.unwrap_or_else(|_| panic!("hangs: {url}")).expect_err(url);
    for shown in [format!("{error}"), format!("{error:#}"), format!("{error:?}")] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    error
}

async fn assert_refused(url: &str, kind: ErrorKind, words: &[&str]) {
    assert_says(&refused(url).await, kind, words);
}

fn assert_says(error: &Error, kind: ErrorKind, words: &[&str]) {
    let text = format!("{error:#}");
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "`{text}` lacks `{word}`");
    }
}

#[tokio::test]
async fn a_url_that_is_none() {
    assert_refused("", ErrorKind::Invalid, &["no scheme", "scheme://host:port"]).await;
    assert_refused("localhost", ErrorKind::Invalid, &["no scheme"]).await;
    assert_refused("a b://x", ErrorKind::Invalid, &["scheme"]).await;
}

#[tokio::test]
async fn an_unknown_scheme_lists_the_known() {
    let known =
        ["`consul`", "`memory`", "`etcd`", "`zookeeper`", "`redis`", "`redlock`", "`sqlite`"];
    assert_refused("consul://u:s3cret@a", ErrorKind::Invalid, &known).await;
}

#[tokio::test]
async fn a_password_with_unescaped_signs_is_not_shown() {
    for sign in ["/", "?", "#", "&", "%", ":", "@"] {
        for scheme in
            ["etcd", "zookeeper", "postgres", "mysql", "redis", "sqlite", "memory", "consul"]
        {
            refused(&format!("{scheme}://u:s3cret{sign}s3cret@127.0.0.1:1?typo=1")).await;
            let brief = "connect_timeout=100ms";
            refused(&format!("{scheme}://u:1{sign}s3cret@127.0.0.1:1?{brief}")).await;
        }
    }
    refused("etcd://u:1?s3cret@127.0.0.1:1").await;
    refused("etcd://u:1/s3cret@127.0.0.1:1").await;
}

#[tokio::test]
async fn memory_takes_no_place() {
    for url in ["memory://host", "memory:/path", "memory:path", "memory://u:s3cret@"] {
        assert_refused(url, ErrorKind::Invalid, &["takes no host", "`memory:?option"]).await;
    }
    for url in ["memory:", "memory://", "MEMORY:"] {
        connect(url).await.unwrap();
    }
}

#[tokio::test]
async fn an_option_that_cannot_be_read() {
    let known = ["`typo`", "connect_timeout", "fail_fast", "lock_delay", "max_hold", "ttl"];
    assert_refused("memory:?typo=1", ErrorKind::Invalid, &known).await;
    assert_refused("memory:?namespace=a", ErrorKind::Invalid, &["`namespace`"]).await;
    assert_refused("memory:?ttl=1s&ttl=2s", ErrorKind::Invalid, &["`ttl`", "twice"]).await;
    assert_refused("memory:?ttl", ErrorKind::Invalid, &["`ttl`", "no value"]).await;
    for bad in ["10", "ten", "-1s", "1d", "1.5s", "99999999999999999999s"] {
        let url = format!("memory:?ttl={bad}");
        assert_refused(&url, ErrorKind::Invalid, &["`ttl`", bad, "`10s`"]).await;
    }
    assert_refused("memory:?fail_fast=yes", ErrorKind::Invalid, &["`true` or `false`"]).await;
    assert_refused("memory:?allow_weak=1", ErrorKind::Invalid, &["`true` or `false`"]).await;
    assert_refused("memory:?max_waiters=-1", ErrorKind::Invalid, &["a whole number"]).await;
}

#[tokio::test]
async fn an_option_out_of_its_range() {
    for ttl in ["0s", "1ms", "25h", "400000000000000h"] {
        let url = format!("memory:?ttl={ttl}");
        assert_refused(&url, ErrorKind::Invalid, &["ttl", "accepted"]).await;
    }
    assert_refused("memory:?lock_delay=25h", ErrorKind::Invalid, &["lock_delay"]).await;
    assert_refused("memory:?max_hold=0s", ErrorKind::Invalid, &["max_hold"]).await;
    assert_refused("memory:?max_waiters=0", ErrorKind::Invalid, &["max_waiters"]).await;
    assert_refused("memory:?connect_timeout=0s", ErrorKind::Invalid, &["connect_timeout"]).await;
}

#[tokio::test]
async fn code_wins_over_the_url() {
    let manager = builder("memory:?ttl=1ms").unwrap().ttl(Duration::from_secs(1)).open().await;
    manager.unwrap();
}

#[tokio::test]
async fn names_that_no_store_could_keep() {
    let manager = connect("memory:").await.unwrap();
    for name in ["", "a\0b", &"x".repeat(513)] {
        let error = manager.lock(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("accepted are 1 to 512 bytes"), "{error}");
        assert_eq!(manager.contenders(name).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    manager.lock("x".repeat(512)).unwrap();
}

#[tokio::test]
async fn a_limit_of_zero() {
    let manager = connect("memory:").await.unwrap();
    let error = manager.semaphore("a", 0).unwrap_err();
    assert_says(
        &error,
        ErrorKind::Invalid,
        &["semaphore a", "limit is 0", "accepted is 1 or more"],
    );
}

#[tokio::test]
async fn another_limit_than_the_one_in_use_names_both() {
    let manager = connect("memory:").await.unwrap();
    let permit = manager.semaphore("a", 2).unwrap().acquire().await.unwrap();
    let other = manager.semaphore("a", 3).unwrap();
    for error in [
        other.acquire().await.unwrap_err(),
        other.try_acquire().await.unwrap_err(),
        other.acquire_timeout(Duration::from_secs(1)).await.unwrap_err(),
    ] {
        assert_says(&error, ErrorKind::Conflict, &["2", "3"]);
    }
    assert_eq!(manager.contenders("a").await.unwrap().len(), 1);
    assert!(permit.is_held());
}

#[tokio::test]
async fn a_semaphore_and_a_lock_on_one_name() {
    let manager = connect("memory:").await.unwrap();
    let (lock, semaphore) = (manager.lock("a").unwrap(), manager.semaphore("a", 2).unwrap());
    let (rwlock, election) = (manager.rwlock("a").unwrap(), manager.election("a").unwrap());
    let guard = lock.acquire().await.unwrap();
    for error in
        [semaphore.acquire().await.unwrap_err(), semaphore.try_acquire().await.unwrap_err()]
    {
        assert_says(&error, ErrorKind::Conflict, &["an exclusive lock", "a semaphore of limit 2"]);
    }
    assert_eq!(manager.contenders("a").await.unwrap().len(), 1);
    guard.release().await.unwrap();

    let permit = semaphore.acquire().await.unwrap();
    for error in [
        lock.acquire().await.unwrap_err(),
        lock.try_acquire().await.unwrap_err(),
        rwlock.read().await.unwrap_err(),
        rwlock.try_write().await.unwrap_err(),
        election.campaign("").await.unwrap_err(),
    ] {
        assert_says(&error, ErrorKind::Conflict, &["a semaphore of limit 2", "asked for as"]);
    }
    assert_eq!(manager.contenders("a").await.unwrap().len(), 1);
    assert!(permit.is_held());
}

#[tokio::test]
async fn a_set_of_locks_that_cannot_be_had() {
    let manager = connect("memory:").await.unwrap();
    let none: [&str; 0] = [];
    let error = manager.acquire_all(none).await.unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["acquire_all", "no name", "one or more"]);
    let error = manager.try_acquire_all(["b", "a", "b"]).await.unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["acquire_all b", "twice", "nothing was queued"]);
    let error = manager.acquire_all(["a", ""]).await.unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["accepted are 1 to 512 bytes"]);
    for name in ["a", "b"] {
        assert_eq!(manager.contenders(name).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_value_that_is_too_long_for_the_store() {
    let manager = connect("memory:").await.unwrap();
    let election = manager.election("a").unwrap();
    let max = manager.capabilities().max_value;
    let (fits, long) = ("x".repeat(max), "x".repeat(max + 1));
    let words = [&*max.to_string(), &*(max + 1).to_string(), "nothing was asked of the store"];
    let error = election.campaign(&*long).await.unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &words);
    let error = election.run(&*long, |_| async { panic!("it leads") }).await.unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &words);
    assert_eq!(manager.contenders("a").await.unwrap(), []);

    let leadership = election.campaign(&*fits).await.unwrap();
    let error = leadership.publish(&*long).await.unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &words);
    assert_eq!(election.leader().await.unwrap().unwrap().value, fits);
}

#[tokio::test]
async fn a_value_published_after_the_loss() {
    let store = Memory::new();
    let manager = LockManager::builder(store.clone()).open().await.unwrap();
    let election = manager.election("a").unwrap();
    let leadership = election.campaign("here").await.unwrap();
    let entry = manager.contenders("a").await.unwrap().remove(0).entry;
    assert!(store.evict(leadership.name(), &entry).await.unwrap());
    let error = leadership.publish("there").await.unwrap_err();
    assert_says(&error, ErrorKind::Lost, &["publish"]);
    let told = tokio::time::timeout(Duration::from_secs(5), leadership.lost()).await;
    assert_eq!(told.expect("told at once"), LossReason::Evicted);
    assert_eq!(election.leader().await.unwrap(), None);
    let error = leadership.publish("there").await.unwrap_err();
    assert_says(&error, ErrorKind::Lost, &["publish"]);
}

#[tokio::test]
async fn work_that_may_take_longer_to_stop_than_the_leadership_lasts() {
    let manager = connect("memory:?ttl=2s").await.unwrap();
    let run = manager.election("a").unwrap();
    let run = run.run("", |_| async { panic!("it leads") }).stop_grace(Duration::from_secs(60));
    assert_says(&run.await.unwrap_err(), ErrorKind::Invalid, &["stop_grace", "60s", "up to"]);
}

#[tokio::test]
async fn a_call_after_the_shutdown() {
    let manager = connect("memory:").await.unwrap();
    let lock = manager.lock("a").unwrap();
    assert_eq!(manager.shutdown(Duration::ZERO).await.unwrap(), 0);
    let error = lock.acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("shut down; nothing is held"), "{error}");
}

#[cfg(not(all(
    feature = "etcd",
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "sqlite",
    feature = "zookeeper"
)))]
#[tokio::test]
async fn a_feature_that_is_off() {
    let urls = [
        #[cfg(not(feature = "etcd"))]
        ("etcd", "etcd://u:s3cret@a"),
        #[cfg(not(feature = "etcd"))]
        ("etcd", "etcds://a?ca=x"),
        #[cfg(not(feature = "mysql"))]
        ("mysql", "mysql://u:s3cret@a/b"),
        #[cfg(not(feature = "postgres"))]
        ("postgres", "postgres://u:s3cret@a/b"),
        #[cfg(not(feature = "redis"))]
        ("redis", "redlock://u:s3cret@a,b,c/1"),
        #[cfg(not(feature = "zookeeper"))]
        ("zookeeper", "zookeeper://u:s3cret@a/b"),
        #[cfg(not(feature = "sqlite"))]
        ("sqlite", "sqlite:"),
    ];
    for (feature, url) in urls {
        let add = format!("cargo add portunus --features {feature}");
        assert_refused(url, ErrorKind::Unsupported, &[feature, &add]).await;
    }
}

/// A refused port, and one that takes the connection and never says a word.
#[tokio::test]
async fn no_server_is_an_error_within_the_connect_timeout() {
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = |listener: &std::net::TcpListener| listener.local_addr().expect("an address");
    let (mute, closed) = (listen(), address(&listen()));
    let tried = [closed.to_string(), address(&mute).to_string()];
    let stores: &[(&str, &str)] = &[
        #[cfg(feature = "etcd")]
        ("etcd", ""),
        #[cfg(feature = "mysql")]
        ("mysql", "/shop"),
        #[cfg(feature = "postgres")]
        ("postgres", "/shop"),
        #[cfg(feature = "redis")]
        ("redlock", ""),
        #[cfg(feature = "zookeeper")]
        ("zookeeper", ""),
    ];
    for (scheme, path) in stores {
        for hosts in [tried[0].clone(), tried[1].clone(), tried.join(",")] {
            let url = format!("{scheme}://u:s3cret@{hosts}{path}?connect_timeout=1s");
            let limit = tokio::time::timeout(Duration::from_secs(15), refused(&url));
            let error = limit.await.unwrap_or_else(|_| panic!("late: {url}"));
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
            let text = format!("{error:#}");
            assert!(text.contains("within 1s"), "{text}");
            assert!(tried.iter().any(|host| text.contains(host)), "it names no server: {text}");
        }
    }
}

#[cfg(feature = "etcd")]
mod etcd {
    use super::*;

    #[tokio::test]
    async fn a_url_that_cannot_work() {
        for (url, word) in [
            ("etcd:", "host"),
            ("etcd://", "host"),
            ("etcd://a,a", "twice"),
            ("etcd://a:port", "host:port"),
            ("etcd://a/path", "`namespace`"),
            ("etcd://user@a", "user:password@"),
            ("etcd://a?namespace=/", "namespace"),
            ("etcd://a?layout=curator", "`verbatim`"),
            ("etcd://a?tls=yes", "`true` or `false`"),
            ("etcds://a?tls=false", "`etcds`"),
            ("etcd://u:s3cret@a?typo=1", "known are allow_weak, ca, cert, connect_timeout"),
            ("etcd://u:s3cret@a?ttl=1ms", "ttl"),
        ] {
            assert_refused(url, ErrorKind::Invalid, &[word]).await;
        }
    }

    #[tokio::test]
    async fn half_given_tls() {
        for (url, word) in [
            ("etcds://a?ca=ca.pem&cert=a.pem", "`key`"),
            ("etcds://a?ca=ca.pem&key=a.pem", "`cert`"),
            ("etcd://a?ca=ca.pem", "`tls=true`"),
            ("etcd://a?cert=a.pem&key=b.pem", "`tls=true`"),
            ("etcds://a", "`ca`"),
        ] {
            assert_refused(url, ErrorKind::Invalid, &[word]).await;
        }
    }

    #[tokio::test]
    async fn an_unreadable_certificate() {
        let absent = "etcds://a?ca=/no/such/ca.pem";
        assert_refused(absent, ErrorKind::Invalid, &["/no/such/ca.pem"]).await;
        let not_pem =
            format!("etcds://a?ca={}", env!("CARGO_MANIFEST_DIR").to_owned() + "/Cargo.toml");
        assert_refused(&not_pem, ErrorKind::Invalid, &["Cargo.toml", "PEM"]).await;
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_file_that_cannot_work() {
    let here = env!("CARGO_MANIFEST_DIR");
    for (url, word) in [
        ("sqlite://host/locks.db".to_owned(), "names a host or a user"),
        ("sqlite://u:s3cret@host/locks.db".to_owned(), "`sqlite:///PATH`"),
        ("sqlite::memory:".to_owned(), "that of a file"),
        ("sqlite:locks.db?tls=true".to_owned(), "unknown option `tls`"),
        ("sqlite:locks.db?namespace=a/b".to_owned(), "without `/`"),
        ("sqlite:locks.db?ttl=1ms".to_owned(), "ttl"),
        (format!("sqlite:{here}"), "is a directory"),
        (format!("sqlite:{here}/none/locks.db"), "no directory"),
        (format!("sqlite:{here}/Cargo.toml"), "something else than an SQLite database"),
    ] {
        assert_refused(&url, ErrorKind::Invalid, &[word]).await;
    }
}

#[cfg(feature = "zookeeper")]
mod zookeeper {
    use super::*;

    #[tokio::test]
    async fn a_url_that_cannot_work() {
        for (url, word) in [
            ("zookeeper:", "host"),
            ("zookeeper://", "host"),
            ("zookeeper://a,a", "twice"),
            ("zookeeper://a:port", "host:port"),
            ("zookeeper://a/b/", "chroot"),
            ("zookeeper://a/b//c", "chroot"),
            ("zookeeper://user@a", "user:password@"),
            ("zookeeper://a?namespace=/", "namespace"),
            ("zookeeper://a?layout=verbatim", "`curator`, `kazoo`"),
            ("zookeeper://a?acl=nobody", "`creator`, `world`"),
            ("zookeeper://a?tls=yes", "`true` or `false`"),
            ("zookeeper://a?tls=true", "`ca`"),
            ("zookeeper://a?ca=ca.pem", "`tls=true`"),
            ("zookeeper://a?tls=true&ca=ca.pem&cert=a.pem", "`key`"),
            ("zookeeper://u:s3cret@a?typo=1", "known are acl, allow_weak, ca, cert"),
            ("zookeeper://u:s3cret@a?ttl=1ms", "ttl"),
        ] {
            assert_refused(url, ErrorKind::Invalid, &[word]).await;
        }
    }
}
