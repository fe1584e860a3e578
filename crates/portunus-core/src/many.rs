//! Many locks at once: in one order, with one deadline and one loss signal.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use futures_util::future::{join_all, select_all};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::guard::{Exclusive, Guard, LossReason, Ran, Released};
use crate::handle::Handle;
use crate::keeper::{Engine, Request, Wait};
use crate::name::LockName;
use crate::token::FencingToken;

/// Several exclusive locks that are held together, in the order of their names.
///
/// Dropping it releases them all in the background.
#[must_use = "if unused, the locks are released at once"]
#[derive(Debug)]
pub struct Guards {
    guards: Vec<Guard>,
    engine: Arc<Engine>,
    signal: OnceLock<Signal>,
}

impl Guards {
    /// Acquires in the order of the names, so that no two who do so wait for each other; whatever
    /// was acquired goes with the future, with an error, and with a lock that was not to be had.
    pub(crate) async fn acquire(
        engine: &Arc<Engine>,
        mut names: Vec<LockName>,
        wait: Wait,
    ) -> Result<Option<Self>> {
        names.sort_unstable();
        check(engine, &names)?;
        let mut guards = Vec::with_capacity(names.len());
        for name in names {
            let handle = Handle::new(Arc::clone(engine), name);
            match handle.seek(Request::default(), wait).await {
                Ok(Some(guard)) => guards.push(guard),
                Ok(None) => return Ok(None),
                // The others took all the time, and left none for the store to answer in.
                Err(error) if !guards.is_empty() && is_late(engine, &error, wait) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        let guards = Self { guards, engine: Arc::clone(engine), signal: OnceLock::new() };
        match guards.first_lost() {
            None => Ok(Some(guards)),
            Some((name, reason)) => {
                let error = engine.context.error(ErrorKind::Lost, "acquire_all");
                Err(error.with_key(name.as_str()).with_detail(format!(
                    "{reason:?} while others were waited for; all are released"
                )))
            }
        }
    }

    /// Returns the guard of one of the locks.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Guard> {
        self.guards.iter().find(|guard| guard.name().as_str() == name)
    }

    /// Returns the guards in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Guard> {
        self.guards.iter()
    }

    /// Returns the fencing token of one of the locks: each resource gets that of its own lock.
    #[must_use]
    pub fn token(&self, name: &str) -> Option<FencingToken> {
        self.get(name).map(Guard::<Exclusive>::token)
    }

    /// Whether all of them are held now, without I/O. Once `false`, `false` for ever.
    #[must_use]
    pub fn are_held(&self) -> bool {
        self.first_lost().is_none()
    }

    /// Completes when one of them is lost, and says which: what they protect together is not
    /// protected any more. The others stay held until they are released. Never for a release.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn lost(&self) -> (LockName, LossReason) {
        let each = self.guards.iter().map(|guard| Box::pin(guard.lost()));
        let (reason, at, _) = select_all(each).await;
        (self.guards[at].name().clone(), reason)
    }

    /// Returns a token that is cancelled when one of them is lost; never by a release.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.signal.get_or_init(|| Signal::start(self)).token.child_token()
    }

    /// Runs `future` while all of them are held, and drops it where it stands when one is lost; see
    /// [`Guard::run`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops `future`; the guards are as before.
    pub async fn run<F: Future>(&self, future: F) -> Ran<F::Output> {
        if let Some((_, reason)) = self.first_lost() {
            return Ran::Lost(reason);
        }
        tokio::select! {
            biased;
            (_, reason) = self.lost() => Ran::Lost(reason),
            output = future => match self.first_lost() {
                None => Ran::Finished(output),
                Some((_, reason)) => Ran::FinishedAfterLoss(output, reason),
            },
        }
    }

    /// Releases all of them and says how that ended: `Clean` when every
    /// one of them was held until now.
    ///
    /// # Errors
    ///
    /// As for [`Guard::release`], the first of them; none is held any more.
    ///
    /// # Cancel safety
    ///
    /// The releases go on in the background. Only the answer is lost.
    pub async fn release(self) -> Result<Released> {
        let ended = join_all(self.guards.into_iter().map(Guard::release)).await;
        let unclean = ended.into_iter().reduce(|first, next| match first {
            Ok(Released::Clean) => next,
            Ok(Released::AlreadyLost(_)) if next.is_err() => next,
            first => first,
        });
        unclean.unwrap_or(Ok(Released::Clean))
    }

    fn first_lost(&self) -> Option<(LockName, LossReason)> {
        let lost = |guard: &Guard| Some((guard.name().clone(), guard.hold().loss()?));
        self.guards.iter().find_map(lost)
    }
}

/// Whether nothing is wrong but that the time was over.
fn is_late(engine: &Engine, error: &Error, wait: Wait) -> bool {
    let failed = std::error::Error::source(error).is_some() || engine.closing.is_cancelled();
    error.kind() == ErrorKind::Unavailable && !failed && engine.context.is_over(wait)
}

/// Refuses a set that can't be acquired; `names` are sorted.
fn check(engine: &Engine, names: &[LockName]) -> Result<()> {
    let invalid = || engine.context.error(ErrorKind::Invalid, "acquire_all");
    if names.is_empty() {
        return Err(invalid().with_detail("no name was given; accepted are one or more"));
    }
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(twice) => Err(invalid().with_key(twice[0].as_str()).with_detail(
            "the name is given twice, and the second would wait for the first; nothing was queued",
        )),
    }
}

/// The combined loss signal, made for the first who asks for it.
#[derive(Debug)]
struct Signal {
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Signal {
    fn start(guards: &Guards) -> Self {
        let token = CancellationToken::new();
        let signals =
            guards.iter().map(|guard| Box::pin(guard.hold().signal().clone().cancelled_owned()));
        let (any, combined) = (select_all(signals.collect::<Vec<_>>()), token.clone());
        let task = guards.engine.context.threads.on_herald(async move {
            any.await;
            combined.cancel();
        });
        Self { token, task }
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        self.task.abort();
    }
}
