//! A store's public type, as a name for a [`Server`](super::Server) of its own.

/// Implements the traits of a store for a type whose field `server` does the work.
macro_rules! store {
    ($store:ty, $database:ty) => {
        #[async_trait::async_trait]
        impl portunus_core::backend::LockObserver for $store {
            async fn queue(&self, name: &LockName) -> Result<Vec<backend::Entry>> {
                self.server.queue(name).await
            }

            async fn contenders(&self, name: &LockName) -> Result<Vec<backend::Contender>> {
                self.server.contenders(name).await
            }

            async fn follow(
                &self,
                name: &LockName,
                since: u64,
            ) -> Result<backend::BoxStream<Result<backend::Observation>>> {
                self.server.follow(name, since).await
            }

            async fn names(&self, prefix: &str, page: Option<&str>) -> Result<backend::NamePage> {
                self.server.names(prefix, page).await
            }

            async fn evict(&self, name: &LockName, entry: &backend::EntryId) -> Result<bool> {
                self.server.evict(name, entry).await
            }

            async fn probe(&self) -> Result<backend::Probe> {
                self.server.probe().await
            }
        }

        #[async_trait::async_trait]
        impl portunus_core::backend::LockBackend for $store {
            fn capabilities(&self) -> backend::Capabilities {
                <$database as crate::server::tables::Database>::capabilities()
            }

            async fn open_session(&self, ttl: Duration) -> Result<Session> {
                self.server.open_session(ttl).await
            }

            async fn renew(
                &self,
                session: &Session,
                held: &[Arc<Attempt>],
            ) -> Result<backend::Renewal> {
                self.server.renew(session, held).await
            }

            async fn close_session(&self, session: &Session) -> Result<()> {
                self.server.close_session(session).await
            }

            async fn enter(
                &self,
                session: &Session,
                attempt: &Attempt,
            ) -> Result<backend::Entered> {
                self.server.enter(session, attempt).await
            }

            async fn look(
                &self,
                session: &Session,
                attempt: &Attempt,
                entry: &backend::EntryId,
            ) -> Result<backend::Turn> {
                self.server.look(session, attempt, entry).await
            }

            async fn changed(
                &self,
                _session: &Session,
                attempt: &Attempt,
                entry: &backend::EntryId,
                turn: &backend::Turn,
            ) -> Result<()> {
                self.server.changed(attempt, entry, turn).await
            }

            async fn leave(
                &self,
                session: &Session,
                attempt: &Attempt,
                in_doubt: bool,
            ) -> Result<backend::Left> {
                self.server.leave(session, attempt, in_doubt).await
            }

            async fn convert(
                &self,
                session: &Session,
                attempt: &Attempt,
                entry: &backend::EntryId,
            ) -> Result<()> {
                self.server.change("convert", session, attempt, entry, Change::Share).await
            }

            async fn publish(
                &self,
                session: &Session,
                attempt: &Attempt,
                entry: &backend::EntryId,
                value: &str,
            ) -> Result<()> {
                let value = Change::Publish(value.to_owned());
                self.server.change("publish", session, attempt, entry, value).await
            }
        }
    };
}

pub(crate) use store;
