//! Tokens and belief of the same rounds, and what is left behind by those who leave.

use crate::check::Exhaustive;
use crate::protocol::Mutant::{
    ForgottenLink, LateGrant, NoWriteBack, TracelessLeave, UnseededCounts,
};
use crate::protocol::{Expiry, Redlock};
use crate::{FORGOTTEN, ONE_HOLDS, ORDERED, belief};

/// Rounds of two attempts, over counters up to `skew` apart.
fn whole<const N: usize>(skew: u8, expiry: Expiry) -> Redlock<N> {
    belief(&[0, 1], expiry).whole(skew)
}

#[test]
fn tokens_and_belief_hold_whatever_arrives_late_and_again() {
    whole::<3>(1, Expiry::Never).repeated().holds();
    whole::<3>(0, Expiry::AfterValidity).holds();
}

#[test]
fn tokens_and_belief_hold_when_a_node_was_wiped() {
    whole::<3>(0, Expiry::Never).wiped(1).holds();
}

#[test]
fn nothing_is_forgotten_by_those_who_leave() {
    belief::<3>(&[0, 1], Expiry::Never).leaving().holds();
    belief::<3>(&[0, 0], Expiry::Never).leaving().repeated().holds();
}

#[test]
#[ignore = "minutes: `cargo test --release`"]
fn tokens_and_belief_of_more_attempts_rounds_and_nodes() {
    belief::<3>(&[0, 1, 2], Expiry::Never).whole(0).holds();
    belief::<3>(&[0, 0, 1], Expiry::Never).whole(0).holds();
    whole::<5>(0, Expiry::Never).holds();
}

#[test]
#[ignore = "minutes: `cargo test --release`"]
fn tokens_and_belief_with_late_requests_and_a_wiped_node() {
    whole::<3>(0, Expiry::AfterValidity).repeated().holds();
    whole::<3>(0, Expiry::Never).wiped(1).repeated().holds();
}

#[test]
#[ignore = "minutes: `cargo test --release`"]
fn tokens_and_belief_with_two_who_seed_one_node() {
    whole::<3>(0, Expiry::Never).wiped(1).seeded_by(2).holds();
}

#[test]
#[ignore = "minutes: `cargo test --release`"]
fn tokens_and_belief_of_those_who_leave() {
    whole::<3>(0, Expiry::Never).leaving().repeated().holds();
}

#[test]
fn a_leave_without_a_trace_is_found() {
    belief::<3>(&[0, 1], Expiry::Never).leaving().with(TracelessLeave).fails(FORGOTTEN);
    belief::<3>(&[0, 0], Expiry::Never).leaving().with(TracelessLeave).fails(FORGOTTEN);
}

#[test]
fn a_leave_that_an_older_connection_overtakes_is_found() {
    belief::<3>(&[0, 1], Expiry::Never).leaving().with(ForgottenLink).fails(FORGOTTEN);
}

#[test]
fn no_write_back_is_found_beside_belief() {
    whole::<3>(1, Expiry::Never).with(NoWriteBack).fails(ORDERED);
}

#[test]
fn a_late_grant_is_found_beside_tokens() {
    whole::<3>(0, Expiry::AfterValidity).repeated().with(LateGrant).fails(ONE_HOLDS);
}

#[test]
fn a_wiped_node_breaks_tokens_and_belief() {
    whole::<3>(0, Expiry::Never).wiped(1).with(UnseededCounts).fails(ORDERED);
    whole::<3>(0, Expiry::Never).wiped(1).with(UnseededCounts).fails(ONE_HOLDS);
}
