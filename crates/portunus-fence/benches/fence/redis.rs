//! One key is written; the fence is a script in place of the command.

use portunus_fence::FencingToken;
use portunus_fence::redis::{RedisFence, key_beside};
use portunus_testkit::cluster::Redis;
use redis::aio::MultiplexedConnection;

use crate::{Pair, Result, compare, token};

pub(crate) async fn scripts() -> Result<()> {
    let server = Redis::shared().await?;
    let connection = redis::Client::open(server.url())?;
    let connection = connection.get_multiplexed_async_connection().await?;
    let fence = RedisFence::new(connection.clone());
    let key = key_beside("stock", "n")?;
    let pair = Scripts { connection, fence, key, token: token() };
    compare("redis write", "≤ 1.2", 5_000, pair).await.map(drop)
}

struct Scripts {
    connection: MultiplexedConnection,
    fence: RedisFence<MultiplexedConnection>,
    key: String,
    token: FencingToken,
}

impl Pair for Scripts {
    async fn bare(&mut self) -> Result<()> {
        Ok(redis::cmd("SET").arg(&self.key).arg(1).exec_async(&mut self.connection).await?)
    }

    async fn fenced(&mut self) -> Result<()> {
        let mut set = redis::cmd("SET");
        set.arg(&self.key).arg(1);
        self.fence.update("stock", &self.token, &[set]).await?;
        Ok(())
    }
}
