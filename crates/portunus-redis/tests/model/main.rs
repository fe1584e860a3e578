//! The tokens of Redlock, checked for every order of events within bounds.
//!
//! Modeled: independent nodes that carry out one script at a time; rounds of several attempts whose
//! takes, write-backs and undos arrive in any order, late, twice, or never (what never arrives is
//! a step that is not taken); keys that expire between any two steps; nodes that lose everything
//! and are seeded again by clients that are late themselves. A client knows an answer from the
//! moment it goes on with it. Renewal only moves a moment that the model leaves open.
//!
//! Two views, for each is small where the other is large. *Tokens*: clocks are worth nothing, so a
//! key may go whenever another is set, which is more than any undo does, and a round of an attempt
//! is like an attempt of its own. *Belief*: who believes, who undoes, what is left behind; there
//! tokens are not counted. Nodes and attempts have no names: states that differ in them are one.
//! `whole.rs` looks at both at once, within narrower bounds.
//!
//! A wiped node's nonce is the count of its wipes here. How nodes come by nonces, and how a new store
//! is seeded, is a model of its own (`seeding/`), in which a grant is one step.
//!
//! `cargo test --release -p portunus-redis --test model -- --ignored` goes further, in minutes.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod check;
mod protocol;
mod seeding;
mod state;
mod steps;
mod whole;

use check::Exhaustive;
use protocol::Mutant::{
    AnyCount, BlindUndo, BlindWriteBack, CountNotCompared, EarlySeed, FewRead, LateGrant, Minority,
    NoFloor, NoNonce, NoWriteBack, UndoAnsweredOnly, Unfenced, UnseededCounts, ValueReused,
};
use protocol::{Expiry, Mutant, Redlock};
use state::ROUNDS;

const UNIQUE: &str = "tokens are unique";
const ORDERED: &str = "tokens are ordered";
const EXACT: &str = "an undo is exact";
const ONE_HOLDS: &str = "one holds";
const FORGOTTEN: &str = "nothing is forgotten";

/// Two attempts over counters up to `skew` apart, on clocks that are worth nothing.
fn tokens<const N: usize>(skew: u8) -> Redlock<N> {
    bounds(&[0, 1], skew, Expiry::Anytime)
}

/// Rounds of these attempts, and who believes.
fn belief<const N: usize>(attempts: &'static [u8], expiry: Expiry) -> Redlock<N> {
    bounds(attempts, 0, expiry)
}

fn bounds<const N: usize>(attempts: &'static [u8], skew: u8, expiry: Expiry) -> Redlock<N> {
    let renamings = renamings(attempts);
    let mutant = None;
    let (is_whole, repeats, leaves) = (false, false, false);
    let (copies, wipes, seeders) = (0, 0, 0);
    Redlock {
        attempts,
        skew,
        expiry,
        is_whole,
        repeats,
        leaves,
        copies,
        wipes,
        seeders,
        mutant,
        renamings,
    }
}

/// The orders of the rounds that keep those of one attempt together and in order.
fn renamings(attempts: &[u8]) -> Vec<[u8; ROUNDS]> {
    let all = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let keeps = |order: &[u8; ROUNDS]| {
        let to = |round: usize| usize::from(order[round]);
        let used = 0..attempts.len();
        (attempts.len()..ROUNDS).all(|round| to(round) == round)
            && used.clone().all(|a| {
                used.clone().filter(|b| *b > a).all(|b| {
                    let together = attempts[a] == attempts[b];
                    together == (attempts[to(a)] == attempts[to(b)]) && (!together || to(a) < to(b))
                })
            })
    };
    all.into_iter().filter(keeps).collect()
}

impl<const N: usize> Redlock<N> {
    /// A node loses everything so often; a seeder for each time.
    fn wiped(self, wipes: u8) -> Self {
        Self { wipes, seeders: usize::from(wipes), ..self }
    }

    /// Several clients seed at once.
    fn seeded_by(self, seeders: usize) -> Self {
        Self { seeders, ..self }
    }

    fn whole(self, skew: u8) -> Self {
        Self { is_whole: true, skew, ..self }
    }

    fn repeated(self) -> Self {
        Self { repeats: true, ..self }
    }

    fn leaving(self) -> Self {
        Self { leaves: true, ..self }
    }

    fn copied(self, copies: u32) -> Self {
        Self { copies, ..self }
    }

    fn with(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }
}

#[test]
fn tokens_are_ordered_whatever_expires() {
    tokens::<3>(2).holds();
}

#[test]
fn tokens_of_three_attempts_are_ordered() {
    bounds::<3>(&[0, 1, 2], 0, Expiry::Anytime).holds();
}

#[test]
fn tokens_of_five_nodes_are_ordered() {
    tokens::<5>(0).holds();
}

#[test]
fn tokens_are_ordered_when_a_node_was_wiped() {
    tokens::<3>(0).wiped(1).holds();
}

#[test]
fn tokens_are_ordered_when_a_take_arrives_twice() {
    tokens::<3>(0).copied(2).holds();
}

#[test]
fn without_copies_the_write_back_need_not_compare_the_count() {
    tokens::<3>(2).with(CountNotCompared).holds();
}

#[test]
fn one_holds_and_nothing_is_forgotten_where_nothing_expires() {
    belief::<3>(&[0, 1], Expiry::Never).holds();
    belief::<5>(&[0, 1], Expiry::Never).holds();
}

#[test]
fn one_holds_when_a_node_was_wiped_and_waited() {
    belief::<3>(&[0, 1], Expiry::Never).wiped(1).holds();
}

#[test]
fn one_holds_where_clocks_run_at_one_rate() {
    belief::<3>(&[0, 1], Expiry::AfterValidity).holds();
}

#[test]
#[ignore = "minutes: `cargo test --release`"]
fn more_attempts_and_skew() {
    bounds::<3>(&[0, 1, 2], 2, Expiry::Anytime).holds();
    tokens::<5>(1).holds();
}

#[test]
#[ignore = "minutes: `cargo test --release`"]
fn more_wipes() {
    tokens::<3>(1).wiped(1).holds();
    tokens::<3>(0).wiped(1).copied(1).holds();
}

#[test]
#[ignore = "minutes: `cargo test --release`"]
fn more_copies() {
    tokens::<3>(2).copied(2).holds();
}

#[test]
#[ignore = "minutes: `cargo test --release`"]
fn belief_over_more_rounds_and_a_wiped_node() {
    belief::<3>(&[0, 0, 1], Expiry::Never).holds();
    belief::<3>(&[0, 1, 2], Expiry::Never).holds();
    belief::<3>(&[0, 1], Expiry::AfterValidity).wiped(1).holds();
}

#[test]
fn no_write_back_is_found() {
    tokens::<3>(1).with(NoWriteBack).fails(ORDERED);
}

#[test]
fn a_token_that_is_not_the_highest_is_found() {
    tokens::<3>(1).with(AnyCount).fails(ORDERED);
}

#[test]
fn a_blind_write_back_is_found() {
    tokens::<3>(1).with(BlindWriteBack).fails(UNIQUE);
}

#[test]
fn a_write_back_that_compares_no_count_is_found_by_a_copy() {
    tokens::<3>(1).copied(2).with(CountNotCompared).fails(UNIQUE);
}

#[test]
fn a_minority_is_found() {
    tokens::<3>(0).with(Minority).fails(UNIQUE);
    belief::<3>(&[0, 1], Expiry::Never).with(Minority).fails(ONE_HOLDS);
    belief::<5>(&[0, 1], Expiry::Never).with(Minority).fails(ONE_HOLDS);
}

#[test]
fn a_late_grant_is_found() {
    belief::<3>(&[0, 1], Expiry::AfterValidity).with(LateGrant).fails(ONE_HOLDS);
}

#[test]
fn a_value_used_twice_is_found() {
    belief::<3>(&[0, 0], Expiry::Never).with(ValueReused).fails(EXACT);
}

#[test]
fn a_blind_undo_is_found() {
    belief::<3>(&[0, 1], Expiry::Never).with(BlindUndo).fails(EXACT);
}

#[test]
fn an_undo_that_a_late_take_overrides_is_found() {
    belief::<3>(&[0, 1], Expiry::Never).with(NoFloor).fails(FORGOTTEN);
}

#[test]
fn an_undo_of_some_nodes_is_found() {
    belief::<3>(&[0, 1], Expiry::Never).with(UndoAnsweredOnly).fails(FORGOTTEN);
}

/// Also a node that went back to an old state, with its counter: `appendfsync everysec`.
#[test]
fn a_node_that_forgot_and_takes_part_is_found() {
    tokens::<3>(0).wiped(1).with(UnseededCounts).fails(ORDERED);
}

#[test]
fn a_seed_above_a_minority_is_found() {
    tokens::<3>(0).wiped(1).with(FewRead).fails(ORDERED);
}

#[test]
fn a_seed_beside_a_round_under_way_is_found() {
    tokens::<3>(1).wiped(1).with(Unfenced).fails(ORDERED);
}

#[test]
fn a_seed_that_comes_after_the_next_wipe_is_found() {
    tokens::<3>(0).wiped(2).with(NoNonce).fails(ORDERED);
}

#[test]
fn a_seed_within_the_time_to_live_is_found() {
    belief::<3>(&[0, 1], Expiry::Never).wiped(1).with(EarlySeed).fails(ONE_HOLDS);
}
