//! Managers on a server, and waiting with a limit.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use portunus_core::backend::{Attempt, AttemptId, Holder, LockBackend, Mode};
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::guard::Guard;
use portunus_core::manager::{LockManager, ManagerBuilder};
use portunus_core::name::LockName;
use portunus_core::url::StoreUrl;
use portunus_sql::mysql::{Mysql, MysqlConfig};
use portunus_sql::postgres::{Postgres, PostgresConfig};
use tokio::task::JoinHandle;

/// A time to live that a busy machine keeps up.
pub(crate) const TTL: Duration = Duration::from_secs(6);

/// How long that may take which waits for an expiry or a fail-over, besides the time to live.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A manager of the database at a URL.
pub(crate) async fn open(url: &str, ttl: Duration) -> Result<LockManager> {
    let mut url = StoreUrl::parse(url)?;
    let builder = match url.scheme() {
        "mysql" => LockManager::builder(Mysql::new(MysqlConfig::from_url(&mut url)?)?),
        _ => LockManager::builder(Postgres::new(PostgresConfig::from_url(&mut url)?)?),
    };
    let builder: ManagerBuilder = builder.options(&mut url)?.ttl(ttl);
    url.finish()?;
    builder.open().await
}

/// The backend alone, without an engine that repeats or renews.
pub(crate) fn backend(url: &str) -> Arc<dyn LockBackend> {
    let mut url = StoreUrl::parse(url).unwrap();
    match url.scheme() {
        "mysql" => Arc::new(Mysql::new(MysqlConfig::from_url(&mut url).unwrap()).unwrap()),
        _ => Arc::new(Postgres::new(PostgresConfig::from_url(&mut url).unwrap()).unwrap()),
    }
}

/// An attempt at an exclusive lock, which may wait.
pub(crate) fn attempt(name: &str) -> Attempt {
    Attempt {
        id: AttemptId(rand::random()),
        name: LockName::new(name).unwrap(),
        mode: Mode::Exclusive,
        try_only: false,
        value: String::new(),
        holder: Arc::new(Holder { host: "test".into(), pid: 1, app: "".into() }),
    }
}

/// The same URL with another `host:port`.
pub(crate) fn by(url: &str, host: impl ToString) -> String {
    let (login, rest) = url.split_once('@').unwrap();
    let (_, path) = rest.split_once('/').unwrap();
    format!("{login}@{}/{path}", host.to_string())
}

/// Acquires in the background.
pub(crate) fn acquire(manager: &LockManager, name: &str) -> JoinHandle<Result<Guard>> {
    let lock = manager.lock(name).unwrap();
    tokio::spawn(async move { lock.acquire().await })
}

/// Waits until the sessions of these managers were renewed twice more.
pub(crate) async fn renewed(managers: &[&LockManager]) {
    let goals: Vec<_> = managers.iter().map(|manager| manager.stats().renewals + 2).collect();
    eventually("renewals go on", async || {
        let stats = managers.iter().map(|manager| manager.stats());
        let mut late = stats.zip(&goals).filter(|(stats, goal)| stats.renewals < **goal);
        late.next().map_or(Ok(()), |(stats, _)| Err(stats))
    })
    .await;
}

/// The kind of an error that was expected.
pub(crate) fn kind<T: Debug>(result: Result<T>) -> (ErrorKind, Error) {
    let error = result.expect_err("it can't succeed");
    (error.kind(), error)
}

/// Asks again and again until the answer is `Ok`; fails with the last `Err` after [`PATIENCE`].
pub(crate) async fn eventually<T, E: Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let mut last = None;
    let asking = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(answer) => last = Some(answer),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within {PATIENCE:?}: {what}; last seen: {last:?}"),
    }
}

/// Awaits `future`; fails after `limit`.
pub(crate) async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}
