//! One term of one leader.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use crate::error::{ErrorKind, Result};
use crate::guard::{Guard, Released};
use crate::keeper::{Change, Context, Term, change};
use crate::name::LockName;
use crate::token::FencingToken;

/// One term of this leader: the [`Guard`] of the election's lock, with a value that observers see.
///
/// Dropping it resigns in the background.
#[must_use = "if unused, it resigns at once"]
pub struct Leadership {
    guard: Guard,
    term: Term,
    /// One after another, so that the last one called is the one that stands.
    publishing: AsyncMutex<()>,
}

impl Leadership {
    pub(super) fn new(guard: Guard) -> Self {
        let term = Term::new(guard.hold());
        Self { guard, term, publishing: AsyncMutex::default() }
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    pub(super) fn watched(&self) -> &Term {
        &self.term
    }

    /// Returns the number of the term: the fencing token, larger than that of every earlier term.
    #[must_use]
    pub fn term(&self) -> FencingToken {
        self.guard.token()
    }

    /// Whether it leads, and the lease was confirmed as lately as it should have been; without I/O.
    ///
    /// For readiness probes: `false` some time before the leadership is lost, as soon as a renewal
    /// is late, and also when every thread was paused. It may be `true` again afterwards.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.guard.hold().is_fresh()
    }

    /// Returns a token that is cancelled when the work of this term has to stop: when the leadership
    /// is lost, and under [`Election::run`](super::Election::run) also when it has to end in time.
    /// Not by [`resign`](Self::resign): who calls that has stopped the work.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.term.stop.child_token()
    }

    /// Replaces the value that observers see. Of several calls the last one's stands.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Lost`]: the leadership was lost before, or meanwhile; observers may have seen
    ///   the value while it lasted, and see it no longer.
    /// - [`ErrorKind::Invalid`]: it is longer than the store takes
    ///   ([`Capabilities::max_value`](crate::backend::Capabilities::max_value)); the old one stands.
    /// - [`ErrorKind::Denied`], rarely another kind: the store refuses it; the old one stands, except
    ///   where the error says that the store went back.
    ///
    /// While the store does not answer, it is asked again until the leadership is lost.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: observers see the old value or the new one.
    pub async fn publish(&self, value: impl Into<String>) -> Result<()> {
        let value = value.into();
        let hold = self.guard.hold();
        check(hold.context(), self.guard.name(), &value)?;
        let _turn = self.publishing.lock().await;
        let publishing = change(Arc::clone(hold), Change::Publish(value));
        self.guard.engine().run("publish", publishing).await
    }

    /// Ends the term, so that the next candidate leads at once.
    ///
    /// # Errors
    ///
    /// As for [`Guard::release`].
    ///
    /// # Cancel safety
    ///
    /// As for [`Guard::release`].
    pub async fn resign(self) -> Result<Released> {
        self.guard.release().await
    }
}

/// All that a guard tells: `is_held`, `remaining`, `status`, `lost`, `run`.
///
/// Those who share a leadership with [`Election::run`](super::Election::run) see it lost, with the
/// reason [`Released`](crate::guard::LossReason::Released), once that has resigned.
impl Deref for Leadership {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// Refuses a value that the store could not show.
pub(super) fn check(context: &Context, name: &LockName, value: &str) -> Result<()> {
    let max = context.capabilities.max_value;
    if value.len() <= max {
        return Ok(());
    }
    Err(context.error(ErrorKind::Invalid, "election").with_key(name.as_str()).with_detail(format!(
        "the value has {} bytes; accepted are at most {max}; nothing was asked of the store",
        value.len()
    )))
}
