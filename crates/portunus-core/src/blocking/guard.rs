//! Guards that wait where they are asked.

use std::ops::Deref;

use pollster::FutureExt;

use crate::error::Result;
use crate::guard::{DowngradeError, Exclusive, Guard as Inner, LossReason, Released, Shared};
use crate::many::Guards as InnerGuards;
use crate::name::LockName;

/// [`Guard`](Inner) for threads; what needs no waiting is the async one's.
///
/// Dropping it releases the lock in the background.
#[must_use = "if unused, the lock is released at once"]
#[derive(Debug)]
pub struct Guard<M = Exclusive>(pub(super) Inner<M>);

impl<M> Guard<M> {
    /// Waits until the lock is lost: [`lost`](Inner::lost).
    pub fn lost(&self) -> LossReason {
        self.0.lost().block_on()
    }

    /// Releases the lock and says how that ended: [`release`](Inner::release).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release(self) -> Result<Released> {
        self.0.release().block_on()
    }
}

impl Guard<Exclusive> {
    /// Lets readers in: [`downgrade`](Inner::downgrade).
    ///
    /// # Errors
    ///
    /// As there, with the guard if it is held as before.
    pub fn downgrade(self) -> Result<Guard<Shared>, DowngradeError<Self>> {
        let downgraded = self.0.downgrade().block_on().map(Guard);
        downgraded.map_err(|DowngradeError { error, guard }| {
            let guard = guard.map(|guard| Box::new(Self(*guard)));
            DowngradeError { error, guard }
        })
    }
}

impl<M> Deref for Guard<M> {
    type Target = Inner<M>;

    fn deref(&self) -> &Inner<M> {
        &self.0
    }
}

/// [`Guards`](InnerGuards) for threads; what needs no waiting is the async one's.
#[must_use = "if unused, the locks are released at once"]
#[derive(Debug)]
pub struct Guards(pub(super) InnerGuards);

impl Guards {
    /// Waits until one of them is lost: [`lost`](InnerGuards::lost).
    #[must_use]
    pub fn lost(&self) -> (LockName, LossReason) {
        self.0.lost().block_on()
    }

    /// Releases all of them: [`release`](InnerGuards::release).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release(self) -> Result<Released> {
        self.0.release().block_on()
    }
}

impl Deref for Guards {
    type Target = InnerGuards;

    fn deref(&self) -> &InnerGuards {
        &self.0
    }
}
