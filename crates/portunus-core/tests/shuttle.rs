//! The two lock-free cells of the engine under `shuttle`, which tries many interleavings.
//!
//! The files are compiled a second time here, with shuttle's atomics in place of the real ones.

#![allow(dead_code, unreachable_pub, reason = "the cells have more methods than are tried here")]

#[path = "../src/keeper/armed.rs"]
mod armed;
#[path = "../src/keeper/deadline.rs"]
mod deadline;
mod sync {
    pub(crate) use shuttle::sync::atomic::{AtomicU8, AtomicU64, Ordering};
}

use self::armed::{Armed, Duty};
use self::deadline::DeadlineCell;
use shuttle::sync::Arc;
use shuttle::thread;

const SCHEDULES: usize = 2_000;

/// Runs `body` in many schedules, uniformly at random and by priorities (PCT).
fn explore(body: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(body.clone(), SCHEDULES);
    shuttle::check_pct(body, SCHEDULES, 3);
}

#[test]
fn once_seen_lost_the_deadline_is_never_live_again() {
    explore(|| {
        let cell = Arc::new(DeadlineCell::new(10));
        let renewal = {
            let cell = Arc::clone(&cell);
            // Its answer came just in time, at 9, or too late, at 11.
            thread::spawn(move || (cell.extend(20, 9), cell.extend(30, 11)))
        };
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let cell = Arc::clone(&cell);
                thread::spawn(move || [10, 11, 12].map(|now| cell.is_live(now)))
            })
            .collect();
        let (in_time, too_late) = renewal.join().unwrap();
        let mut lost = false;
        for looks in readers.into_iter().map(|reader| reader.join().unwrap()) {
            // Within one reader, `false` is for ever.
            assert!(looks.is_sorted_by(|before, after| before >= after), "{looks:?}");
            lost |= looks.contains(&false);
        }
        // All agree in the end: lost for one is lost for all.
        assert_eq!(cell.is_live(12), !lost);
        assert!(in_time || lost);
        assert!(!too_late || in_time);
    });
}

#[test]
fn a_renewal_never_moves_the_deadline_back() {
    explore(|| {
        let cell = Arc::new(DeadlineCell::new(10));
        let tasks = [30, 20].map(|to| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.extend(to, 5))
        });
        assert!(tasks.map(|task| task.join().unwrap()).iter().all(|extended| *extended));
        assert_eq!(cell.get(), Some(30));
    });
}

#[test]
fn one_call_ends_the_cell() {
    explore(|| {
        let cell = Arc::new(DeadlineCell::new(10));
        let tasks = [(), ()].map(|()| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.expire())
        });
        let ended = tasks.map(|task| task.join().unwrap());
        assert_eq!(ended.iter().filter(|ended| **ended).count(), 1);
        assert_eq!(cell.get(), None);
    });
}

#[test]
fn exactly_one_cleans_up_and_knows_of_the_doubt() {
    explore(|| {
        let armed = Arc::new(Armed::new());
        armed.sending();
        armed.unanswered();
        armed.sending();
        let tasks = [(), (), ()].map(|()| {
            let armed = Arc::clone(&armed);
            thread::spawn(move || armed.disarm())
        });
        armed.answered();
        let duties = tasks.map(|task| task.join().unwrap());
        let left = duties.iter().filter(|duty| **duty == Duty::Leave { in_doubt: true }).count();
        assert_eq!(left, 1, "{duties:?}");
        assert_eq!(duties.iter().filter(|duty| **duty == Duty::Taken).count(), 2);
    });
}

#[test]
fn a_request_under_way_is_in_doubt_until_it_is_answered() {
    explore(|| {
        let armed = Arc::new(Armed::new());
        armed.sending();
        let cleaner = {
            let armed = Arc::clone(&armed);
            thread::spawn(move || armed.disarm())
        };
        armed.answered();
        // Before the answer there is doubt, after it there is none; never nothing to clean.
        assert!(matches!(cleaner.join().unwrap(), Duty::Leave { .. }));
        assert_eq!(armed.disarm(), Duty::Taken);
    });
}

#[test]
fn what_was_never_applied_leaves_nothing_to_clean() {
    let nothing = || {
        let armed = Armed::new();
        armed.sending();
        armed.not_applied();
        assert_eq!(armed.disarm(), Duty::Nothing);
    };
    shuttle::check_random(nothing, 1);
}
