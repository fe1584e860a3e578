//! The engine under simulation: many clients on the memory store behind faulty networks, in paused
//! time. One seed gives one schedule; each history is judged.
//!
//! `PORTUNUS_SEED=n` replays one seed, `PORTUNUS_SEEDS=n` runs that many fresh ones.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod client;
mod kind;
mod leaders;
mod permits;
mod world;

use world::World;

/// How many schedules a normal run judges.
const SEEDS: u64 = 2_000;

#[test]
fn every_history_is_right() {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match (variable("PORTUNUS_SEED"), variable("PORTUNUS_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => {
            let first = u64::from(std::process::id()) << 32;
            first..first + count
        }
        (None, None) => 0..SEEDS,
    };
    let mut total = world::Summary::default();
    for seed in seeds.clone() {
        match World::run(seed) {
            Ok(summary) => total += summary,
            Err(violation) => panic!("PORTUNUS_SEED={seed}: {violation}"),
        }
    }
    println!("{} schedules: {total:?}", seeds.end - seeds.start);
    // A run in which nothing happens proves nothing.
    assert!(total.grants > seeds.end - seeds.start, "{total:?}");
    if seeds.end - seeds.start >= SEEDS {
        assert!(total.kinds.iter().all(|schedules| *schedules > 100), "{total:?}");
        assert!(total.lost > 100 && total.evicted > 100 && total.cancelled > 1000, "{total:?}");
    }
}

#[test]
fn a_seed_repeats_itself() {
    let runs: Vec<_> = (0..2).map(|_| World::run(17).unwrap()).collect();
    assert_eq!(runs[0], runs[1]);
}

#[test]
fn a_permit_is_handed_over_at_once() {
    permits::handed_over().unwrap();
}

#[cfg(portunus_mutant)]
mod mutants {
    use super::World;
    use super::kind::Kind;
    use portunus_core::Mutant;

    /// Runs schedules until one shows the fault.
    fn killed(mutant: Mutant) {
        killed_by(mutant, |_| true);
    }

    /// Runs those of some kinds only.
    fn killed_by(mutant: Mutant, kinds: impl Fn(Kind) -> bool) {
        for seed in (0..super::SEEDS).filter(|seed| kinds(Kind::of(*seed))) {
            if let Err(violation) = mutant.during(|| World::run(seed)) {
                println!("{mutant:?} is killed by seed {seed}: {violation}");
                return;
            }
        }
        panic!("{mutant:?} survived {} schedules", super::SEEDS);
    }

    #[test]
    fn callback_not_awaited_is_killed() {
        killed_by(Mutant::CallbackNotAwaited, |kind| kind == Kind::Leaders);
    }

    #[test]
    fn deadline_from_reply_is_killed() {
        killed(Mutant::DeadlineFromReply);
    }

    #[test]
    fn deadline_revived_is_killed() {
        killed(Mutant::DeadlineRevived);
    }

    #[test]
    fn late_arrival_ignored_is_killed() {
        killed(Mutant::LateArrivalIgnored);
    }

    #[test]
    fn look_is_enter_is_killed() {
        killed(Mutant::LookIsEnter);
    }

    #[test]
    fn own_entry_unconfirmed_is_killed() {
        killed(Mutant::OwnEntryUnconfirmed);
    }

    #[test]
    fn own_entry_unconfirmed_is_killed_by_elections() {
        killed_by(Mutant::OwnEntryUnconfirmed, |kind| kind == Kind::Leaders);
    }

    /// A fault of liveness, which the sweep would mend.
    #[test]
    fn permit_watches_one_is_killed() {
        let slow = Mutant::PermitWatchesOne.during(super::permits::handed_over);
        println!("PermitWatchesOne is killed: {}", slow.expect_err("it survived"));
    }

    #[test]
    fn reader_overtakes_is_killed() {
        killed_by(Mutant::ReaderOvertakes, |kind| kind == Kind::Readers);
    }

    #[test]
    fn release_by_name_is_killed() {
        killed(Mutant::ReleaseByName);
    }

    #[test]
    fn unknown_is_failed_is_killed() {
        killed(Mutant::UnknownIsFailed);
    }
}
