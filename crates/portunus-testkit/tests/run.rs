//! What `Election::run` promises its work: when it is told to stop, and that it is awaited.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

use portunus_core::clock::{Clock, Moment, TokioClock};
use portunus_core::election::{Election, Leadership, Transition};
use portunus_core::error::ErrorKind;
use portunus_core::guard::{CancellationToken, LossReason, Released};
use portunus_core::manager::ManagerBuilder;
use portunus_core::memory::Memory;
use portunus_testkit::faults::{Faults, Faulty};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(6);
const SECOND: Duration = Duration::from_secs(1);

/// Two candidates on one store in paused time, the first behind a network that can be cut.
struct Bench {
    clock: Arc<TokioClock>,
    network: Faulty,
    first: Election,
    second: Election,
    /// What happened, and when.
    told: Told,
}

type Told = Arc<Mutex<Vec<(Moment, &'static str)>>>;

impl Bench {
    async fn new() -> Self {
        let clock = Arc::new(TokioClock::start());
        let store = Memory::with_clock(clock.clone());
        let network = Faulty::new(Arc::new(store.clone()), clock.clone(), 1);
        let begin = |seed, backend| {
            ManagerBuilder::new(backend).clock(clock.clone()).seed(seed).inline().ttl(TTL).open()
        };
        let first = begin(1, Arc::new(network.clone())).await.unwrap().election("e").unwrap();
        let second = begin(2, Arc::new(store.clone())).await.unwrap().election("e").unwrap();
        Self { clock, network, first, second, told: Told::default() }
    }

    fn cut(&self) {
        self.network.set(Faults { request_lost: 1.0, ..Faults::default() });
    }

    fn tell(&self) -> impl Fn(&'static str) + Send + Clone + use<> {
        let (clock, told) = (self.clock.clone(), self.told.clone());
        move |what| told.lock().unwrap().push((clock.now(), what))
    }

    fn words(&self) -> Vec<&'static str> {
        self.told.lock().unwrap().iter().map(|(_, what)| *what).collect()
    }

    fn when(&self, what: &str) -> Moment {
        let told = self.told.lock().unwrap();
        told.iter().find(|(_, word)| *word == what).unwrap_or_else(|| panic!("no {what}")).0
    }
}

/// Says when it is dropped.
struct Dropped<F: Fn(&'static str)>(F);

impl<F: Fn(&'static str)> Drop for Dropped<F> {
    fn drop(&mut self) {
        (self.0)("dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn work_is_told_its_grace_before_the_deadline_and_dropped_at_it() {
    let bench = Bench::new().await;
    let (led, leads) = tokio::sync::oneshot::channel();
    let (tell, mut led) = (bench.tell(), Some(led));
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(
        bench
            .first
            .run("first", move |leadership: Arc<Leadership>| {
                let tell = tell.clone();
                if let Some(led) = led.take() {
                    let _ = led.send(leadership.clone());
                }
                async move {
                    let _dropped = Dropped(tell.clone());
                    leadership.cancellation_token().cancelled().await;
                    assert!(leadership.is_held() && !leadership.is_fresh());
                    tell("stop");
                    std::future::pending::<()>().await;
                }
            })
            .stop_grace(SECOND)
            .until(shutdown.clone())
            .into_future(),
    );
    let leadership = leads.await.unwrap();
    // Long enough for renewals to have moved the deadline.
    sleep(3 * TTL).await;
    assert!(leadership.is_fresh() && bench.words().is_empty());
    bench.cut();
    let next = bench.second.campaign("second").await.unwrap();
    let elected = bench.clock.now();
    assert_eq!(bench.words(), ["stop", "dropped"]);
    let (stop, dropped) = (bench.when("stop"), bench.when("dropped"));
    assert_eq!(dropped.since(stop), SECOND);
    assert!(dropped < elected, "another led before the work was dropped");
    assert!(!leadership.is_held());
    assert!(next.term() > leadership.term());
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_awaits_the_work_and_then_resigns() {
    let bench = Bench::new().await;
    let (tell, shutdown) = (bench.tell(), CancellationToken::new());
    let (told, begun) = (bench.tell(), shutdown.clone());
    let running = bench
        .first
        .run("first", move |leadership| {
            let (tell, shutdown) = (tell.clone(), begun.clone());
            async move {
                sleep(SECOND / 3).await;
                shutdown.cancel();
                leadership.cancellation_token().cancelled().await;
                sleep(SECOND / 3).await;
                assert!(leadership.is_held(), "it resigned while its work ran");
                tell("ended");
            }
        })
        .stop_grace(SECOND)
        .on_transition(move |transition| match transition {
            Transition::Elected(_) => told("elected"),
            Transition::Resigned { released: Ok(Released::Clean), .. } => told("resigned"),
            other => panic!("{other:?}"),
        })
        .until(shutdown);
    let (ran, next) = tokio::join!(running.into_future(), async {
        while bench.second.leader().await.unwrap().is_none() {
            sleep(SECOND / 100).await;
        }
        bench.second.campaign("second").await.unwrap()
    });
    ran.unwrap();
    assert_eq!(bench.words(), ["elected", "ended", "resigned"]);
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn work_that_does_not_stop_is_dropped_when_its_grace_is_over() {
    let bench = Bench::new().await;
    let (tell, shutdown) = (bench.tell(), CancellationToken::new());
    let stop = shutdown.clone();
    let running = bench.first.run("first", move |_| {
        let (dropped, shutdown) = (Dropped(tell.clone()), stop.clone());
        async move {
            shutdown.cancel();
            std::future::pending::<()>().await;
            drop(dropped);
        }
    });
    let begun = bench.clock.now();
    running.stop_grace(SECOND).until(shutdown).await.unwrap();
    assert_eq!(bench.when("dropped").since(begun), SECOND);
    assert_eq!(bench.second.leader().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn whoever_shares_a_leadership_learns_that_it_was_given_up() {
    let bench = Bench::new().await;
    let shutdown = CancellationToken::new();
    let (share, mut shared) = tokio::sync::mpsc::unbounded_channel();
    let stop = shutdown.clone();
    let running = bench.first.run("first", move |leadership| {
        share.send(leadership).unwrap();
        stop.cancel();
        std::future::ready(())
    });
    running.until(shutdown).await.unwrap();
    let leadership = shared.recv().await.unwrap();
    assert!(leadership.cancellation_token().is_cancelled());
    assert_eq!(leadership.lost().await, LossReason::Released);
    assert!(!leadership.is_held() && !leadership.is_fresh());
    let refused = leadership.publish("late").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn work_that_ends_by_itself_gives_way_to_the_next() {
    let bench = Bench::new().await;
    let tell = bench.tell();
    let shutdown = CancellationToken::new();
    let (terms, stop) = (Arc::new(Mutex::new(Vec::new())), shutdown.clone());
    let seen = terms.clone();
    let first = bench.first.run("first", move |leadership| {
        let count = {
            let mut terms = seen.lock().unwrap();
            terms.push(leadership.term().value());
            terms.len()
        };
        if count == 3 {
            stop.cancel();
        }
        sleep(SECOND)
    });
    let first = tokio::spawn(first.until(shutdown).into_future());
    // One campaign only; it is served between two terms of the first.
    tokio::task::yield_now().await;
    bench.second.campaign("second").await.unwrap().resign().await.unwrap();
    tell("second led");
    first.await.unwrap().unwrap();
    let terms = terms.lock().unwrap().clone();
    assert_eq!(terms.len(), 3);
    assert!(terms.is_sorted() && terms[2] > terms[0]);
    assert_eq!(bench.words(), ["second led"]);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_run_drops_the_work_and_resigns() {
    let bench = Bench::new().await;
    let tell = bench.tell();
    let (share, mut shared) = tokio::sync::mpsc::unbounded_channel();
    let running = bench.first.run("first", move |leadership| {
        share.send(leadership).unwrap();
        let dropped = Dropped(tell.clone());
        async move {
            std::future::pending::<()>().await;
            drop(dropped);
        }
    });
    assert!(tokio::time::timeout(TTL, running.into_future()).await.is_err());
    assert_eq!(bench.words(), ["dropped"]);
    // Also when somebody still has it in hand.
    let leadership = shared.recv().await.unwrap();
    assert!(!leadership.is_held() && leadership.cancellation_token().is_cancelled());
    let begun = bench.clock.now();
    let next = bench.second.campaign("second").await.unwrap();
    assert!(next.is_held() && bench.clock.now().since(begun) < SECOND);
}

#[tokio::test(start_paused = true)]
async fn work_that_panics_leads_no_longer() {
    let bench = Bench::new().await;
    let (share, mut shared) = tokio::sync::mpsc::unbounded_channel();
    let running = bench.first.run("first", move |leadership| {
        share.send(leadership).unwrap();
        async { panic!("at work") }
    });
    assert!(tokio::spawn(running.into_future()).await.unwrap_err().is_panic());
    assert!(!shared.recv().await.unwrap().is_held());
    let next = bench.second.campaign("second").await.unwrap();
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_looks_seldom_is_told_the_newest() {
    let bench = Bench::new().await;
    let mut seen = bench.first.observe();
    for at in 0..5 {
        let leadership = bench.second.campaign(at.to_string()).await.unwrap();
        sleep(SECOND).await;
        leadership.publish(format!("{at} again")).await.unwrap();
        leadership.resign().await.unwrap();
        sleep(SECOND).await;
    }
    let last = bench.second.campaign("last").await.unwrap();
    sleep(SECOND).await;
    let leader = seen.next().await.unwrap().unwrap().unwrap();
    assert_eq!((&*leader.value, leader.term), ("last", last.term()));
}

#[tokio::test(start_paused = true)]
async fn a_grace_that_every_late_renewal_would_use_up_is_refused() {
    let bench = Bench::new().await;
    let error = bench.first.run("first", |_| async {}).stop_grace(TTL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // TTL less 1 % and 2 %, the third after which a renewal is due, and the sixth that it may take.
    assert!(error.to_string().contains("up to 2.82"), "{error}");
    assert_eq!(bench.second.leader().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_manager_ends_the_run() {
    let clock = Arc::new(TokioClock::start());
    let store: Arc<Memory> = Arc::new(Memory::with_clock(clock.clone()));
    let manager = ManagerBuilder::new(store).clock(clock).inline().ttl(TTL).open().await.unwrap();
    let election = manager.election("e").unwrap();
    let running = tokio::spawn(
        election
            .run("first", |leadership| async move {
                leadership.cancellation_token().cancelled().await;
            })
            .into_future(),
    );
    while election.leader().await.unwrap().is_none() {
        sleep(SECOND).await;
    }
    assert_eq!(manager.shutdown(SECOND).await.unwrap(), 0);
    assert_eq!(running.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
}
