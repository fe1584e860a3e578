//! The easy way: a fenced value, opened before it is read.

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::token::FencingToken;

use crate::fence::Fence;

/// A fenced value in the hands of one holder: opened before it was read, and written with the same
/// token.
///
/// ```
/// # use portunus_fence::{MemoryFence, Register, Result};
/// # async fn count(fence: &MemoryFence, guard: &portunus_core::guard::Guard) -> Result<()> {
/// let mut count = Register::open(fence, "visitors", guard.token()).await?;
/// let before = count.value().map_or(0, |value| value[0]);
/// count.write([before + 1]).await?;
/// # Ok(())
/// # }
/// ```
pub struct Register<'f> {
    fence: &'f dyn Fence,
    resource: String,
    token: FencingToken,
    value: Option<Vec<u8>>,
    /// What was sent and may still land.
    pending: Option<Vec<u8>>,
}

impl<'f> Register<'f> {
    /// Raises the mark and reads the value.
    ///
    /// # Errors
    ///
    /// As [`Fence::open`].
    ///
    /// # Cancel safety
    ///
    /// As [`Fence::open`].
    pub async fn open(fence: &'f dyn Fence, resource: &str, token: FencingToken) -> Result<Self> {
        let value = fence.open(resource, &token).await?;
        Ok(Self { fence, resource: resource.to_owned(), token, value, pending: None })
    }

    /// Returns the value as it was read or written last.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// Writes the value, unless a higher token has been there since.
    ///
    /// A write whose outcome is not known may still land, and tokens that are equal pass. So after one
    /// only the same value is written again, until that is confirmed.
    ///
    /// # Errors
    ///
    /// As [`Fence::admit`]. After an error [`value`](Self::value) is what it was before.
    /// [`ErrorKind::Unconfirmed`] also, and nothing is sent, when another value may still land: acquire
    /// the lock again, for a higher token.
    ///
    /// # Cancel safety
    ///
    /// As [`Fence::admit`].
    pub async fn write(&mut self, value: impl Into<Vec<u8>>) -> Result<()> {
        let value = value.into();
        let repeated = self.pending.is_some();
        if self.pending.as_ref().is_some_and(|pending| *pending != value) {
            return Err(Error::new(ErrorKind::Unconfirmed, "fence", "write")
                .with_key(&*self.resource)
                .with_detail(
                    "an earlier write of another value may still land; nothing was sent",
                ));
        }
        // Before it is sent: this future may be dropped.
        self.pending = Some(value.clone());
        let written = self.fence.admit(&self.resource, &self.token, &value).await;
        match &written {
            Ok(()) => (self.pending, self.value) = (None, Some(value)),
            Err(error) if error.kind() == ErrorKind::Unconfirmed => {}
            // This call did nothing; one before it, which is repeated here, may yet.
            Err(_) if repeated => {}
            Err(_) => self.pending = None,
        }
        written
    }
}

impl std::fmt::Debug for Register<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Register")
            .field("resource", &self.resource)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}
