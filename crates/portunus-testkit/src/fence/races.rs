//! Many clients at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portunus_core::error::ErrorKind;
use portunus_fence::Fence;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::FenceStage;
use super::stage::{refused, text, token};

/// Eight clients with tokens old and new: what was admitted after something else was admitted is not
/// below it, and the value is that of the mark.
pub async fn ten_thousand_racing_writes_never_go_back(stage: &FenceStage) {
    // Numbers the moments at which calls begin and end; the order of the calls' effects is within.
    let clock = Arc::new(AtomicU64::new(0));
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut writers = Vec::new();
    for (client, fence) in (0..).zip(clients(stage).await) {
        let clock = Arc::clone(&clock);
        let chance = StdRng::seed_from_u64(seed ^ client);
        writers.push(tokio::spawn(async move { write(&*fence, &clock, chance).await }));
    }
    let (mut admitted, mut stale) = (Vec::new(), 0);
    for writer in writers {
        let (written, refused) = writer.await.unwrap();
        admitted.extend(written);
        stale += refused;
    }
    println!("{} admitted, {stale} refused", admitted.len());
    assert_eq!(u64::try_from(admitted.len()).unwrap() + stale, CLIENTS * WRITES);
    assert!(admitted.len() > 100 && stale > 100, "the run proves nothing");
    assert!(went_back(&admitted).is_none(), "before, after: {:?}", went_back(&admitted));
    let highest = admitted.iter().map(|write| write.token).max().unwrap();
    stage.is("a", highest, Some(&highest.to_string())).await;
    refused(stage.admit("a", highest - 1, "late").await, ErrorKind::Stale);
}

/// Every writer has a token of its own and no lock keeps them apart: each opens, reads, and writes one
/// more. Whoever is overtaken is refused, and no acknowledged update is lost.
pub async fn no_update_is_lost_without_any_lock(stage: &FenceStage) {
    let tokens = Arc::new(AtomicU64::new(1));
    let mut counters = Vec::new();
    for fence in clients(stage).await {
        let tokens = Arc::clone(&tokens);
        counters.push(tokio::spawn(async move {
            let (mut acknowledged, mut refused) = (0, 0);
            while acknowledged < 25 {
                let token = token(tokens.fetch_add(1, Ordering::SeqCst));
                let one_more = async {
                    let read = text(fence.open("a", &token).await?);
                    let count = read.map_or(0, |count| count.parse::<u64>().unwrap());
                    // Some are overtaken here even where a call never waits.
                    for _ in 0..token.value() % 5 {
                        tokio::task::yield_now().await;
                    }
                    fence.admit("a", &token, (count + 1).to_string().as_bytes()).await
                };
                match one_more.await {
                    Ok(()) => acknowledged += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Stale, "{error:#}");
                        refused += 1;
                    }
                }
            }
            (acknowledged, refused)
        }));
    }
    let (mut acknowledged, mut refused) = (0, 0);
    for counter in counters {
        let (a, r) = counter.await.unwrap();
        (acknowledged, refused) = (acknowledged + a, refused + r);
    }
    println!("{acknowledged} acknowledged, {refused} refused");
    assert!(refused > 0, "the run proves nothing");
    let last = tokens.load(Ordering::SeqCst);
    let count = stage.open("a", last).await.unwrap();
    assert_eq!(count, Some(acknowledged.to_string()));
}

/// All of them before the first begins: to connect may take longer than to write.
async fn clients(stage: &FenceStage) -> Vec<Arc<dyn Fence>> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(stage.client().await);
    }
    clients
}

/// A write that was admitted, between two numbers of the clock.
#[derive(Clone, Copy, Debug)]
struct Admitted {
    token: u64,
    began: u64,
    ended: u64,
}

async fn write(fence: &dyn Fence, clock: &AtomicU64, mut chance: StdRng) -> (Vec<Admitted>, u64) {
    let (mut admitted, mut stale) = (Vec::new(), 0);
    for round in 0..WRITES {
        // They grow over the run, and some are late by many rounds of all clients.
        let number = round * CLIENTS + chance.random_range(1..=CLIENTS * 20);
        let began = clock.fetch_add(1, Ordering::SeqCst);
        let result = fence.admit("a", &token(number), number.to_string().as_bytes()).await;
        let ended = clock.fetch_add(1, Ordering::SeqCst);
        match result {
            Ok(()) => admitted.push(Admitted { token: number, began, ended }),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Stale, "{error:#}");
                stale += 1;
            }
        }
    }
    (admitted, stale)
}

/// Two writes of which the second began after the first had ended, and has a lower token.
fn went_back(admitted: &[Admitted]) -> Option<(Admitted, Admitted)> {
    let (mut by_begin, mut by_end) = (admitted.to_vec(), admitted.to_vec());
    by_begin.sort_by_key(|write| write.began);
    by_end.sort_by_key(|write| write.ended);
    let (mut ended, mut highest) = (by_end.into_iter().peekable(), None::<Admitted>);
    by_begin.into_iter().find_map(|write| {
        while let Some(before) = ended.next_if(|before| before.ended < write.began) {
            highest = highest.filter(|highest| highest.token >= before.token).or(Some(before));
        }
        highest.filter(|highest| highest.token > write.token).map(|highest| (highest, write))
    })
}

const CLIENTS: u64 = 8;
const WRITES: u64 = 1_250;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_goes_back_is_found() {
        let at = |token, began, ended| Admitted { token, began, ended };
        assert!(went_back(&[at(1, 0, 1), at(2, 2, 3), at(2, 4, 5)]).is_none());
        // Beside each other they may have happened in either order.
        assert!(went_back(&[at(2, 0, 3), at(1, 2, 4)]).is_none());
        assert!(went_back(&[at(2, 0, 3), at(1, 4, 5)]).is_some());
        assert!(went_back(&[at(3, 0, 1), at(1, 0, 9), at(2, 2, 3)]).is_some());
    }
}
