//! What holds of seeding, and which mistakes are found.

use super::Mutant::{
    AnyProposal, BeginBesideVotes, EarlySeed, FenceBeforeWant, FewRead, FirstOfSome,
    LongestBeforeWant, LostIsNew, NoNonce, NonceByAnyStep, ReadTwice,
};
use super::{Mutant, ONE_HOLDS, ONE_LIFE, ORDERED, Seeding};
use crate::check::Exhaustive;

/// Clients at once on servers that never had a vote, in these orders.
fn new(orders: &[[usize; 3]]) -> Seeding<3> {
    Seeding { is_new: true, orders: orders.to_vec(), wipes: 0, grants: 2, mutant: None }
}

/// Clients at once on a store in use.
fn used(clients: usize) -> Seeding<3> {
    Seeding { is_new: false, ..new(&vec![FORTH; clients]) }
}

impl<const N: usize> Seeding<N> {
    fn wiped(self, wipes: u8) -> Self {
        Self { wipes, ..self }
    }

    fn with(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }
}

const FORTH: [usize; 3] = [0, 1, 2];
const BACK: [usize; 3] = [2, 1, 0];

#[test]
fn a_new_store_is_seeded_by_two_at_once() {
    new(&[FORTH, BACK]).wiped(1).holds();
}

#[test]
fn a_wiped_server_is_seeded_by_two_at_once() {
    used(2).wiped(2).holds();
}

#[test]
#[ignore = "minutes: `cargo test --release`"]
fn more_wipes_and_orders() {
    new(&[FORTH, FORTH]).wiped(1).holds();
    new(&[FORTH, [1, 2, 0]]).wiped(1).holds();
    new(&[FORTH, BACK]).wiped(2).holds();
}

#[test]
#[ignore = "minutes: `cargo test --release`"]
fn a_wiped_server_is_seeded_by_three_at_once() {
    Seeding { grants: 1, ..used(3).wiped(1) }.holds();
}

#[test]
#[ignore = "minutes: `cargo test --release`"]
fn a_new_store_is_seeded_by_three_at_once() {
    Seeding { grants: 1, ..new(&[FORTH, FORTH, BACK]) }.holds();
}

#[test]
fn a_nonce_that_any_step_names_is_found() {
    new(&[FORTH, FORTH]).wiped(1).with(NonceByAnyStep).fails(ONE_HOLDS);
    new(&[FORTH, FORTH]).wiped(1).with(NonceByAnyStep).fails(ORDERED);
    used(2).wiped(2).with(NonceByAnyStep).fails(ONE_HOLDS);
    used(2).wiped(2).with(NonceByAnyStep).fails(ORDERED);
}

#[test]
fn a_seed_for_any_want_is_found() {
    used(2).wiped(2).with(NoNonce).fails(ORDERED);
}

#[test]
fn a_read_that_is_carried_out_twice_is_found() {
    used(2).wiped(2).with(ReadTwice).fails(ORDERED);
}

#[test]
fn a_first_seeding_beside_votes_is_found() {
    new(&[FORTH, BACK]).wiped(1).with(BeginBesideVotes).fails(ONE_HOLDS);
    new(&[FORTH, BACK]).wiped(1).with(BeginBesideVotes).fails(ORDERED);
}

#[test]
fn a_first_seeding_of_a_server_that_lost_its_vote_is_found() {
    new(&[FORTH, FORTH]).wiped(1).with(LostIsNew).fails(ORDERED);
}

#[test]
fn a_first_seeding_without_an_answer_of_all_is_found() {
    new(&[FORTH, FORTH]).wiped(1).with(FirstOfSome).fails(ONE_HOLDS);
}

#[test]
fn counters_read_before_the_want_are_found() {
    used(1).wiped(1).with(FenceBeforeWant).fails(ORDERED);
}

#[test]
fn a_time_to_live_read_before_the_want_is_found() {
    used(1).wiped(1).with(LongestBeforeWant).fails(ONE_HOLDS);
}

#[test]
fn a_seed_within_the_time_to_live_is_found() {
    used(1).wiped(1).with(EarlySeed).fails(ONE_HOLDS);
}

#[test]
fn a_seed_above_a_minority_is_found() {
    used(1).wiped(1).with(FewRead).fails(ORDERED);
}

#[test]
fn a_life_that_was_not_proposed_is_found() {
    new(&[FORTH, BACK]).with(AnyProposal).fails(ONE_LIFE);
}
