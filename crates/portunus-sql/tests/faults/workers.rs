//! Several processes' worth of managers that count under one lock, and what was believed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portunus_core::clock::{BootClock, Clock};
use portunus_core::error::{Error, ErrorKind};
use portunus_core::manager::LockManager;
use portunus_testkit::history::History;
use tokio::task::JoinSet;

use crate::scene::{PATIENCE, TTL, eventually, open, within};

/// They run until [`Workers::end`].
pub(crate) struct Workers {
    history: History,
    grants: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// What last kept one from working.
    trouble: Arc<Mutex<String>>,
    tasks: JoinSet<Vec<ErrorKind>>,
}

impl Workers {
    /// Each has a manager of its own, and makes another when that fails.
    pub(crate) fn start(url: &str, count: usize) -> Self {
        let (history, tasks) = (History::default(), JoinSet::new());
        let (grants, stop, trouble) = (Arc::default(), Arc::default(), Arc::default());
        let mut workers = Self { history, grants, stop, trouble, tasks };
        for n in 0..count {
            let (history, url) = (workers.history.clone(), url.to_owned());
            let (grants, stop) = (Arc::clone(&workers.grants), Arc::clone(&workers.stop));
            let trouble = Arc::clone(&workers.trouble);
            workers.tasks.spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(SeqCst) {
                    // None while no server takes writes.
                    let worked = match open(&url, TTL).await {
                        Ok(manager) => {
                            work(&manager, &n.to_string(), &history, &grants, &stop).await
                        }
                        Err(error) => Err(error),
                    };
                    if let Err(error) = worked {
                        failures.push(error.kind());
                        *trouble.lock().unwrap() = format!("{error:#}");
                    }
                }
                failures
            });
        }
        workers
    }

    /// Waits until the lock was granted some times more.
    pub(crate) async fn progress(&self, what: &str) {
        let goal = self.grants.load(SeqCst) + 8;
        eventually(what, async || match self.grants.load(SeqCst) {
            seen if seen >= goal => Ok(()),
            seen => Err((seen, self.trouble.lock().unwrap().clone())),
        })
        .await;
    }

    /// Stops them, and checks S1 and S4 of all grants.
    pub(crate) async fn end(self) {
        self.stop.store(true, SeqCst);
        let failures = within(PATIENCE, "the workers end", self.tasks.join_all()).await;
        let grants = self.history.check().unwrap();
        println!("{grants} grants; failures: {failures:?}");
    }
}

async fn work(
    manager: &LockManager,
    holder: &str,
    history: &History,
    grants: &AtomicU64,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let (lock, clock) = (manager.lock("counter").unwrap(), BootClock::new());
    while !stop.load(SeqCst) {
        let asked = clock.now();
        let Some(guard) = lock.acquire_timeout(TTL).await? else { continue };
        let granted = clock.now();
        let belief = history.granted("counter", holder, guard.token().value(), asked, granted);
        // Some hold it while the fault comes.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let looked = clock.now();
        if guard.is_held() {
            grants.fetch_add(1, SeqCst);
            belief.ended(looked);
        } else {
            belief.ended(granted);
        }
        // A release that no server confirmed in time is no fault: the entry goes later.
        drop(guard.release().await);
    }
    Ok(())
}
