//! Reads that are joined: those of one thing that are ready while one is under way share the next.
//!
//! A hundred readers who are woken together ask the same question. What was asked after a call began
//! answers that call, so all who ask while a request is under way may share the one that follows it.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::oneshot;

use crate::error::Result;

/// Reads by what they read. A backend keeps one for each kind.
pub struct Joint<K, T: Clone> {
    latest: Mutex<HashMap<K, Latest<T>>>,
}

struct Latest<T: Clone> {
    begun: Arc<AtomicBool>,
    read: WeakShared<Reading<T>>,
    /// Completes when the request has ended, or nobody waits for it any more.
    ended: Option<oneshot::Receiver<()>>,
}

type Reading<T> = BoxFuture<'static, Result<T>>;

impl<K, T> Joint<K, T>
where
    K: Clone + Eq + Hash + Send + Sync,
    T: Clone + Send + Sync + 'static,
{
    /// Returns the answer to a request that was sent after this call: one that waits to be sent
    /// already, or else `request`, as soon as the one under way has ended.
    ///
    /// # Errors
    ///
    /// Those of the request, told to all who share it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a request goes on as long as one of those who share it waits for it, and those
    /// who wait behind it do not keep it alive.
    pub fn read<F>(
        &self,
        key: K,
        request: impl FnOnce() -> F,
    ) -> impl Future<Output = Result<T>> + Send
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let read = self.join(&key, request);
        async move {
            // Dropped after the reading, so that it finds whether somebody else still shares it.
            let _forget = Forget { joint: self, key: &key };
            read.await
        }
    }

    fn join<F>(&self, key: &K, request: impl FnOnce() -> F) -> Shared<Reading<T>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut latest = self.latest();
        let under_way = match latest.get_mut(key) {
            Some(last) => match last.read.upgrade() {
                Some(read) if !last.begun.load(Ordering::Acquire) => return read,
                _ => last.ended.take(),
            },
            None => None,
        };
        let begun = Arc::new(AtomicBool::new(false));
        let (ends, ended) = oneshot::channel();
        let (begins, request) = (Arc::clone(&begun), request());
        let read = async move {
            let _ends: oneshot::Sender<()> = ends;
            if let Some(ended) = under_way {
                // Nothing is sent; the other half is dropped.
                let _ = ended.await;
            }
            begins.store(true, Ordering::Release);
            request.await
        };
        let read = read.boxed().shared();
        if let Some(weak) = read.downgrade() {
            latest.insert(key.clone(), Latest { begun, read: weak, ended: Some(ended) });
        }
        read
    }

    fn latest(&self) -> MutexGuard<'_, HashMap<K, Latest<T>>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what is known of a reading with the last who shared it.
struct Forget<'a, K: Clone + Eq + Hash + Send + Sync, T: Clone + Send + Sync + 'static> {
    joint: &'a Joint<K, T>,
    key: &'a K,
}

impl<K, T> Drop for Forget<'_, K, T>
where
    K: Clone + Eq + Hash + Send + Sync,
    T: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        let mut latest = self.joint.latest();
        if latest.get(self.key).is_some_and(|latest| latest.read.upgrade().is_none()) {
            latest.remove(self.key);
        }
    }
}

impl<K, T: Clone> Default for Joint<K, T> {
    fn default() -> Self {
        Self { latest: Mutex::default() }
    }
}

impl<K, T: Clone> fmt::Debug for Joint<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joint").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::error::{Error, ErrorKind};
    use futures_util::future::{join, join_all, poll_immediate};
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use tokio::sync::Semaphore;

    /// A store that answers when it is let, with the number of the request.
    struct Asked {
        count: Arc<AtomicUsize>,
        answers: Arc<Semaphore>,
    }

    impl Asked {
        fn new() -> Self {
            Self { count: Arc::default(), answers: Arc::new(Semaphore::new(0)) }
        }

        async fn ask(&self, joint: &Joint<&'static str, usize>) -> Result<usize> {
            let (count, answers) = (Arc::clone(&self.count), Arc::clone(&self.answers));
            let request = || async move {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                answers.acquire().await.expect("it is never closed").forget();
                Ok(number)
            };
            joint.read("a", request).await
        }
    }

    #[tokio::test]
    async fn all_who_ask_during_one_request_share_the_next() {
        let (joint, asked) = (Joint::default(), Asked::new());
        let mut first = pin!(asked.ask(&joint));
        assert!(poll_immediate(first.as_mut()).await.is_none());
        let mut rest = pin!(join_all((0..99).map(|_| asked.ask(&joint))));
        assert!(poll_immediate(rest.as_mut()).await.is_none());
        assert_eq!(asked.count.load(Ordering::Relaxed), 1);
        asked.answers.add_permits(2);
        // Not the one that was sent before they asked.
        let (first, rest) = join(first, rest).await;
        assert_eq!(first.unwrap(), 1);
        assert!(rest.into_iter().all(|answer| answer.unwrap() == 2));
        assert!(joint.latest().is_empty());
        asked.answers.add_permits(1);
        assert_eq!(asked.ask(&joint).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn one_who_gives_up_takes_nothing_from_the_others() {
        let (joint, asked) = (Joint::default(), Asked::new());
        let mut first = Box::pin(asked.ask(&joint));
        assert!(poll_immediate(first.as_mut()).await.is_none());
        let mut second = Box::pin(asked.ask(&joint));
        assert!(poll_immediate(second.as_mut()).await.is_none());
        let mut third = Box::pin(asked.ask(&joint));
        assert!(poll_immediate(third.as_mut()).await.is_none());
        drop(second);
        asked.answers.add_permits(2);
        let (first, third) = join(first, third).await;
        assert_eq!((first.unwrap(), third.unwrap()), (1, 2));
        assert!(joint.latest().is_empty());
    }

    #[tokio::test]
    async fn a_request_that_hangs_ends_with_those_who_asked_for_it() {
        let (joint, asked) = (Joint::default(), Asked::new());
        let mut hangs = Box::pin(asked.ask(&joint));
        assert!(poll_immediate(hangs.as_mut()).await.is_none());
        let mut next = Box::pin(asked.ask(&joint));
        assert!(poll_immediate(next.as_mut()).await.is_none());
        assert_eq!(asked.count.load(Ordering::Relaxed), 1);
        drop(hangs);
        assert!(poll_immediate(next.as_mut()).await.is_none());
        assert_eq!(asked.count.load(Ordering::Relaxed), 2);
        drop(next);
        assert!(joint.latest().is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all_and_not_kept() {
        let joint = Joint::<&str, usize>::default();
        let fail = || async { Err(Error::new(ErrorKind::Unavailable, "store", "read")) };
        let told = join_all((0..3).map(|_| joint.read("a", fail))).await;
        assert!(told.iter().all(|answer| answer.is_err()));
        assert_eq!(joint.read("a", || async { Ok(7) }).await.unwrap(), 7);
    }
}
