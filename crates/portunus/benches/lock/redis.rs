//! Redis: the two requests that make a lock, and what the server counts.

use super::{Counts, Raw, Result};
use redis::Script;
use redis::aio::MultiplexedConnection;
use std::io::{Read, Write};
use std::net::TcpStream;

/// The least that makes a lock with this client: `SET NX PX`, and a script that compares and deletes.
pub(crate) struct Redis(MultiplexedConnection, Script);

impl Redis {
    pub(crate) async fn connect(host: &str) -> Result<Self> {
        let client = redis::Client::open(format!("redis://{host}"))?;
        let connection = client.get_multiplexed_async_connection().await?;
        let release = "if redis.call('get', KEYS[1]) == ARGV[1] then \
                       return redis.call('del', KEYS[1]) else return 0 end";
        Ok(Self(connection, Script::new(release)))
    }
}

impl Raw for Redis {
    const TRIPS: u64 = 2;

    async fn pair(&mut self) -> Result<()> {
        let owner = "0123456789abcdef0123456789abcdef";
        let mut set = redis::cmd("SET");
        set.arg("portunus-bench-raw").arg(owner).arg("NX").arg("PX").arg(6000);
        let taken: Option<String> = set.query_async(&mut self.0).await?;
        taken.ok_or("the raw lock is taken")?;
        let mut release = self.1.prepare_invoke();
        release.key("portunus-bench-raw").arg(owner);
        let deleted: u8 = release.invoke_async(&mut self.0).await?;
        (deleted == 1).then_some(()).ok_or_else(|| "the raw lock vanished".into())
    }
}

/// Scripts that the server has run for clients; what they did inside is not counted.
pub(crate) fn requests(host: &str) -> Result<Counts> {
    let mut stream = TcpStream::connect(host)?;
    stream.write_all(b"INFO commandstats\r\nQUIT\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    let count = line.and_then(|line| line.split(',').next()).unwrap_or("0");
    Ok(vec![("evalsha".to_owned(), count.parse()?)])
}
