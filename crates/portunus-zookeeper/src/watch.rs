//! Waiting until a node goes, or is marked.

use std::sync::Arc;

use futures_util::future::{join_all, select_all};
use portunus_core::backend::{Attempt, Mode, Turn};
use portunus_core::error::{ErrorKind, Result};
use zookeeper_client::{Client, Error as ClientError, OneshotWatcher};

use crate::backend::{ZooKeeper, error};
use crate::connection::Connection;
use crate::endpoints::Endpoints;
use crate::error::{Effect, Fault};
use crate::queue::Strangers;
use crate::session::LiveSession;
use crate::store::is_ephemeral;

/// Completes when the own node or one of the blockers went or was written to, or may have been.
pub(crate) async fn changed(
    endpoints: &Endpoints,
    own: &Arc<str>,
    blockers: Blockers<'_>,
    strangers: &Strangers,
) -> Result<(), Fault> {
    // Boxed: thousands of holders wait below, and have the requests behind them.
    let set = Box::pin(watch(endpoints, own, blockers, strangers)).await?;
    let Some((connection, watchers)) = set else { return Ok(()) };
    let watched = watchers.into_iter().map(|watcher| Box::pin(connection.watched(watcher)));
    match select_all(watched).await.0 {
        Some(_) => Ok(()),
        // The watch went with its connection.
        None => Err(Fault::new(ClientError::ConnectionLoss, Effect::Read)),
    }
}

/// Whom a contender waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blockers<'a> {
    paths: &'a [Arc<str>],
    /// A mark on the one of them is news, also one that was made before the watch.
    marked_is_news: bool,
}

impl<'a> Blockers<'a> {
    pub(crate) fn new(mode: Mode, paths: &'a [Arc<str>]) -> Self {
        // One blocker of a permit is the waiter before it, who marks its node when it holds. Where
        // one alone may hold, it may be that holder itself, and only its going is news.
        let marks = matches!(mode, Mode::Permit { limit } if limit > 1);
        Self { paths, marked_is_news: marks && paths.len() == 1 }
    }
}

/// Sets the watches; none when a node is gone, or is to be looked at.
///
/// A watch is set by reading the node, which says at once when it is gone already: nothing is missed
/// between a look and a wait, and nothing is left on the server for a node that is not there.
async fn watch(
    endpoints: &Endpoints,
    own: &Arc<str>,
    Blockers { paths: blockers, marked_is_news }: Blockers<'_>,
    strangers: &Strangers,
) -> Result<Option<(Arc<Connection>, Vec<OneshotWatcher>)>, Fault> {
    let mut call = endpoints.begin().await?;
    let reads = [own].into_iter().chain(blockers).map(|path| call.client.get_and_watch_data(path));
    let mut watchers = Vec::with_capacity(1 + blockers.len());
    for (at, read) in join_all(reads).await.into_iter().enumerate() {
        match read {
            Ok((_, stat, _)) if at > 0 && !is_ephemeral(&stat) => {
                call.answered();
                strangers.suspect(&blockers[at - 1]);
                return Ok(None);
            }
            Ok((_, stat, _)) if at > 0 && marked_is_news && stat.version > 0 => {
                call.answered();
                return Ok(None);
            }
            Ok((_, _, watcher)) => watchers.push(watcher),
            Err(ClientError::NoNode) => {
                call.answered();
                return Ok(None);
            }
            Err(error) => return Err(call.fault(error)),
        }
    }
    Ok(Some((call.into_connection(), watchers)))
}

impl ZooKeeper {
    /// Looks at a blocker of which a watch found that it may never go.
    pub(crate) async fn check_blockers(
        &self,
        live: &LiveSession,
        attempt: &Attempt,
        turn: Turn,
    ) -> Result<Turn> {
        if let Turn::Waiting { blockers, .. } = &turn
            && let Some(path) = self.strangers.suspected(blockers)
        {
            self.check_node(live, attempt, &path).await?;
        }
        Ok(turn)
    }

    /// Fails on a node that no session will ever take away.
    pub(crate) async fn check_node(
        &self,
        live: &LiveSession,
        attempt: &Attempt,
        path: &str,
    ) -> Result<()> {
        let read = |client: Client| async move { client.check_stat(path).await };
        let name = Some(attempt.name.as_str());
        let stat = live.endpoints.run(Effect::Read, read).await;
        match stat.map_err(|fault| fault.into_error("look", name))? {
            Some(stat) if !is_ephemeral(&stat) => Err(error(ErrorKind::Conflict, "look", attempt)
                .with_detail(format!(
                    "the node `{path}` is in the way and will not go by itself: it belongs to no \
                     session; accepted below a lock's node are ephemeral nodes; it is left as it is"
                ))),
            _ => Ok(()),
        }
    }
}
