//! A connection with a thread of its own: SQLite blocks, and no runtime may wait for it.
//!
//! Requests take their turn in the order in which they were made. One whose caller has gone before its
//! turn came is not begun; one that has begun goes on to its end, so its outcome is unknown to a caller
//! who dropped it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portunus_core::error::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use super::connection::Open;
use super::error::{Fallible, STORE};
use super::place::Place;
use super::precedence::Manners;

/// A thread and its connection; both begin with the first request and end with this value.
#[derive(Debug)]
pub(super) struct Line {
    thread: &'static str,
    place: Place,
    manners: Manners,
    jobs: Mutex<Option<Sender<Job>>>,
}

type Job = Box<dyn FnOnce(&mut Seat) + Send>;

/// What a request is for, and how long it may wait for the file's lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose<'a> {
    pub(super) operation: &'static str,
    pub(super) key: Option<&'a str>,
    pub(super) patience: Duration,
}

impl Line {
    pub(super) fn new(thread: &'static str, place: Place, manners: Manners) -> Self {
        Self { thread, place, manners, jobs: Mutex::default() }
    }

    /// Runs `work` on the connection.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        purpose: Purpose<'_>,
        work: impl FnOnce(&mut Open) -> Fallible<T> + Send + 'static,
    ) -> Result<T> {
        self.run_or_undo(purpose, work, |_, _| {}).await
    }

    /// Runs `work` on the connection, and then `undo` if its caller has gone meanwhile.
    pub(super) async fn run_or_undo<T: Send + 'static>(
        &self,
        purpose: Purpose<'_>,
        work: impl FnOnce(&mut Open) -> Fallible<T> + Send + 'static,
        undo: impl FnOnce(T, &mut Open) + Send + 'static,
    ) -> Result<T> {
        let Purpose { operation, key, patience } = purpose;
        let (tell, told) = oneshot::channel();
        let renewing = self.manners.claim();
        let job: Job = Box::new(move |seat| {
            // To its end, whatever that is.
            let _renewing = renewing;
            if tell.is_closed() {
                return;
            }
            seat.manners.wait(patience);
            let done = seat.connected(patience).and_then(work);
            if done.as_ref().is_err_and(super::error::Failure::spoils_connection) {
                seat.open = None;
            }
            if let Err(Ok(unwanted)) = tell.send(done)
                && let Some(open) = &mut seat.open
            {
                undo(unwanted, open);
            }
        });
        self.begin(job, operation)?;
        match told.await {
            Ok(done) => done.map_err(|failure| failure.into_error(operation, key)),
            // A panic on the thread: the transaction was rolled back, unless it was just committed.
            Err(_) => Err(Error::new(ErrorKind::Unconfirmed, STORE, operation)),
        }
    }

    fn begin(&self, job: Job, operation: &'static str) -> Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut job = job;
        if let Some(sender) = &*jobs {
            match sender.send(job) {
                Ok(()) => return Ok(()),
                // Its thread panicked; another takes its place.
                Err(unsent) => job = unsent.0,
            }
        }
        let (sender, receiver) = channel();
        let (place, manners) = (self.place.clone(), self.manners.clone());
        let seat = Seat { place, manners, open: None };
        let thread = std::thread::Builder::new().name(self.thread.to_owned());
        thread.spawn(move || seat.work(&receiver)).map_err(|cause| {
            Error::new(ErrorKind::Unavailable, STORE, operation)
                .with_detail("no thread can be started")
                .with_source(cause)
        })?;
        // The receiver lives as long as the thread, which has just begun.
        let _ = sender.send(job);
        *jobs = Some(sender);
        Ok(())
    }
}

/// The thread's side.
struct Seat {
    place: Place,
    manners: Manners,
    open: Option<Open>,
}

impl Seat {
    fn work(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            job(&mut self);
        }
    }

    /// The connection, to the file that the path names now: after it was replaced, whatever is asked
    /// of the new one finds no session there.
    fn connected(&mut self, patience: Duration) -> Fallible<&mut Open> {
        self.open = self.open.take().filter(|open| open.is_at(&self.place));
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new(&self.place, patience)?,
        };
        self.manners.set(&mut open.connection, patience)?;
        Ok(self.open.insert(open))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::sync_channel;

    use futures_util::FutureExt;
    use tempfile::TempDir;
    use tokio::time::Instant;

    use super::*;

    const PURPOSE: Purpose<'static> =
        Purpose { operation: "test", key: None, patience: Duration::from_secs(1) };

    fn line() -> (TempDir, Line) {
        let home = tempfile::tempdir().unwrap();
        let place = Place { path: home.path().join("locks.db"), makes_directory: false };
        (home, Line::new("test", place, Manners::GivesWay(Arc::default())))
    }

    #[tokio::test]
    async fn requests_wait_for_a_renewal_and_not_for_ever() {
        let (_home, line) = line();
        let Manners::GivesWay(precedence) = &line.manners else { panic!("{line:?}") };
        let renewals = Manners::Goes(Arc::clone(precedence));
        let renewals = Line::new("renewals", line.place.clone(), renewals);
        let (go, gone) = sync_channel(1);
        let mut renewal = Box::pin(renewals.run(PURPOSE, move |_| Ok(gone.recv().is_ok())));
        assert!((&mut renewal).now_or_never().is_none());
        let began = Instant::now();
        line.run(PURPOSE, |_| Ok(())).await.unwrap();
        assert!(began.elapsed() >= PURPOSE.patience / 4, "{:?}", began.elapsed());
        go.send(()).unwrap();
        assert!(renewal.await.unwrap());
        // One that nobody waits for any more holds nobody up either.
        line.run(PURPOSE, |_| Ok(())).await.unwrap();
        drop(renewals);
        assert!(line.manners.claim().is_none());
    }

    #[tokio::test]
    async fn a_renewal_asks_for_the_lock_until_its_patience_is_over() {
        let (_home, line) = line();
        let Manners::GivesWay(precedence) = &line.manners else { panic!("{line:?}") };
        let renewals = Manners::Goes(Arc::clone(precedence));
        let renewals = Line::new("renewals", line.place.clone(), renewals);
        let lock = |open: &mut Open| Ok(open.connection.execute_batch("BEGIN IMMEDIATE")?);
        line.run(PURPOSE, lock).await.unwrap();
        let began = Instant::now();
        let busy = renewals.run(PURPOSE, lock).await.unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Unavailable, "{busy}");
        assert!(began.elapsed() >= PURPOSE.patience, "{:?}", began.elapsed());
        let mut renewal = Box::pin(renewals.run(PURPOSE, lock));
        assert!((&mut renewal).now_or_never().is_none());
        drop(line);
        renewal.await.unwrap();
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_begun() {
        let (_home, line) = line();
        let (go, gone) = sync_channel(1);
        let mut first = Box::pin(line.run(PURPOSE, move |_| Ok(gone.recv().is_ok())));
        assert!((&mut first).now_or_never().is_none());
        let begun = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&begun);
        let mut dropped = Box::pin(line.run(PURPOSE, move |_| {
            begins.store(true, Ordering::SeqCst);
            Ok(())
        }));
        assert!((&mut dropped).now_or_never().is_none());
        drop(dropped);
        go.send(()).unwrap();
        assert!(first.await.unwrap());
        line.run(PURPOSE, |_| Ok(())).await.unwrap();
        assert!(!begun.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn what_was_done_for_nobody_is_undone_where_that_was_asked_for() {
        let (_home, line) = line();
        let ((begin, begun), (go, gone)) = (sync_channel(1), sync_channel(1));
        let undone = Arc::new(AtomicBool::new(false));
        let undoes = Arc::clone(&undone);
        let work = move |_: &mut Open| {
            begin.send(()).unwrap();
            gone.recv().unwrap();
            Ok(7)
        };
        let undo = move |done, _: &mut Open| undoes.store(done == 7, Ordering::SeqCst);
        let mut dropped = Box::pin(line.run_or_undo(PURPOSE, work, undo));
        assert!((&mut dropped).now_or_never().is_none());
        begun.recv().unwrap();
        drop(dropped);
        go.send(()).unwrap();
        line.run(PURPOSE, |_| Ok(())).await.unwrap();
        assert!(undone.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_panic_is_no_answer_and_the_next_request_gets_a_new_thread() {
        let (_home, line) = line();
        let panicked = line.run::<()>(PURPOSE, |_| panic!("on purpose")).await;
        assert_eq!(panicked.unwrap_err().kind(), ErrorKind::Unconfirmed);
        // One that comes before the thread has unwound may share its fate.
        while let Err(error) = line.run(PURPOSE, |_| Ok(())).await {
            assert_eq!(error.kind(), ErrorKind::Unconfirmed);
        }
    }
}
