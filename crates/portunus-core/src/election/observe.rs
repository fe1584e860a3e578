//! Who leads, seen without taking part.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use futures_core::Stream;
use futures_util::StreamExt;

use crate::backend::{Contender, Holder};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Handle;
use crate::keeper::{Engine, Following};
use crate::token::{FencingToken, Origin};

/// A leader, as observers see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leader {
    /// What it published last.
    pub value: String,
    /// The number of its term.
    pub term: FencingToken,
    /// Who it is; `None` for clients other than this library.
    pub holder: Option<Holder>,
}

/// Who leads, as a stream; from [`Election::observe`](super::Election::observe).
///
/// `None` says that nobody does. An error is the last item: [`ErrorKind::Regression`] when the store
/// went back in time, [`ErrorKind::Denied`] when it no longer answers this client. Without an error
/// it ends with its manager.
#[must_use = "it does nothing unless it is polled"]
pub struct Observe {
    handle: Handle,
    following: Option<Following>,
    /// What was told last, once something was.
    last: Option<Option<Leader>>,
    highest: u64,
}

impl Observe {
    pub(super) fn start(handle: &Handle) -> Self {
        let following = Following::start(&handle.engine, handle.name().clone());
        let handle = handle.clone();
        Self { handle, following: Some(following), last: None, highest: 0 }
    }

    /// Returns the next leader, or `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// See [`Observe`]; nothing follows an error.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is left out.
    pub async fn next(&mut self) -> Option<Result<Option<Leader>>> {
        StreamExt::next(self).await
    }

    /// What there is to tell of a head; nothing when it is what was told last.
    fn tell(&mut self, head: Option<Contender>) -> Option<Result<Option<Leader>>> {
        let seen = match head.map(|head| leader_of(&self.handle, head)).transpose() {
            Ok(seen) => seen,
            Err(error) => return Some(Err(error)),
        };
        if let Some(leader) = &seen {
            let term = leader.term.value();
            if term < self.highest {
                let error = self.handle.context().error(ErrorKind::Regression, "observe");
                return Some(Err(error.with_key(self.handle.name().as_str()).with_detail(
                    format!("term {term} is below {}, which was seen before", self.highest),
                )));
            }
            self.highest = term;
        }
        if self.last.as_ref() == Some(&seen) {
            return None;
        }
        self.last = Some(seen.clone());
        Some(Ok(seen))
    }
}

impl Stream for Observe {
    type Item = Result<Option<Leader>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        if self.following.is_some()
            && let Err(forked) = self.handle.engine.check_fork("observe")
        {
            self.following = None;
            return Poll::Ready(Some(Err(forked)));
        }
        loop {
            let Some(following) = &mut self.following else { return Poll::Ready(None) };
            let told = match ready!(following.poll_next(cx)) {
                Some(Ok(head)) => self.tell(head.holder),
                Some(Err(error)) => Some(Err(error)),
                None => {
                    self.following = None;
                    return Poll::Ready(None);
                }
            };
            if let Some(Err(_)) = told {
                self.following = None;
            }
            if told.is_some() {
                return Poll::Ready(told);
            }
        }
    }
}

impl fmt::Debug for Observe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { handle, last, .. } = self;
        f.debug_struct("Observe").field("name", handle.name()).field("last", last).finish()
    }
}

/// Asks who leads now.
pub(super) async fn leader(handle: &Handle) -> Result<Option<Leader>> {
    let (context, name) = (Arc::clone(handle.context()), handle.name().clone());
    let asked = handle.engine.run("leader", async move {
        let first = async || match context.backend.follow(&name, 0).await?.next().await {
            Some(head) => head,
            None => Err(context.error(ErrorKind::Unavailable, "leader")),
        };
        context.ask("leader", first).await
    });
    asked.await?.holder.map(|head| leader_of(handle, head)).transpose()
}

fn leader_of(handle: &Handle, head: Contender) -> Result<Leader> {
    let engine: &Engine = &handle.engine;
    let failed = || -> Error {
        let error = engine.context.error(ErrorKind::Protocol, "observe");
        error.with_key(handle.name().as_str()).with_detail("the leader's entry tells no term")
    };
    let (token, incarnation) = head.token.zip(engine.sessions.incarnation()).ok_or_else(failed)?;
    let term = engine.context.token(token, Origin::new(incarnation, handle.name().clone()));
    Ok(Leader { value: head.record.value, term, holder: head.record.holder })
}
