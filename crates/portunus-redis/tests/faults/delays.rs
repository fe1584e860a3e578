//! Masters that answer late: a round that took too long is not granted, and is taken back.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portunus_core::backend::{Entered, LockBackend, Session};
use portunus_core::clock::{BootClock, Clock, Moment};
use portunus_core::error::ErrorKind;
use portunus_core::url::StoreUrl;
use portunus_redis::{Redis, RedisConfig};
use portunus_testkit::cluster::RedisMasters;
use portunus_testkit::proxy::{Direction, Proxy};

use super::{attempt, eventually, hold, namespace, open};
use crate::harness::raw;

/// A round may take a twenty-fourth of it for each of its requests.
const TTL: Duration = Duration::from_secs(48);
const LIMIT: Duration = Duration::from_secs(2);

/// A clock that a test sets forward, as it is after the whole machine was suspended: who sleeps just then
/// does not notice.
#[derive(Debug, Default)]
struct Ahead {
    clock: BootClock,
    nanos: AtomicU64,
}

impl Ahead {
    fn by(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::SeqCst))
    }
}

impl Clock for Ahead {
    fn now(&self) -> Moment {
        self.clock.now().after(self.by())
    }

    fn sleep_until(&self, moment: Moment) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.clock.sleep_until(moment.before(self.by()))
    }
}

/// Three masters, of which the second and the third can be made late.
struct Scene {
    masters: RedisMasters<3>,
    late: [Proxy; 2],
    clock: Arc<Ahead>,
    redis: Redis,
    session: Session,
    lock: String,
}

impl Scene {
    async fn new() -> Self {
        let masters: RedisMasters<3> = RedisMasters::builder().start().await.unwrap();
        let late = [
            Proxy::start(masters.endpoint(1)).await.unwrap(),
            Proxy::start(masters.endpoint(2)).await.unwrap(),
        ];
        let (one, [two, three]) = (masters.endpoint(0), late.each_ref().map(Proxy::address));
        let (clock, namespace) = (Arc::<Ahead>::default(), namespace());
        let mut url = StoreUrl::parse(&format!("redlock://{one},{two},{three}")).unwrap();
        let config = RedisConfig::from_url(&mut url).unwrap().namespace(&namespace).unwrap();
        let redis = Redis::with_clock(config, Arc::<Ahead>::clone(&clock)).unwrap();
        let session = open(&redis, TTL).await;
        let scene =
            Self { masters, late, clock, redis, session, lock: format!("{namespace}:{{a}}") };
        // All connections stand, and nothing is left to do by them.
        let (held, ..) = hold(&scene.redis, &scene.session, "a").await;
        scene.redis.leave(&scene.session, &held, false).await.unwrap();
        scene.wait_gone().await;
        scene
    }

    async fn has_it(&self, node: usize) -> bool {
        let mut raw = raw(self.masters.node_url(node)).await;
        redis::cmd("EXISTS").arg(&self.lock).query_async(&mut raw).await.unwrap()
    }

    /// Waits until the master has the lock, or has it no more: much less long than until it expires.
    async fn wait(&self, node: usize, is_there: bool) {
        eventually(TTL / 2, "the lock on a master", async || match self.has_it(node).await {
            has_it if has_it == is_there => Ok(()),
            has_it => Err((node, has_it)),
        })
        .await;
    }

    async fn wait_gone(&self) {
        for node in 0..3 {
            self.wait(node, false).await;
        }
    }

    /// The next one has it, once connections stand again that were given up.
    async fn is_free(&self) {
        eventually(TTL / 2, "it is free", async || {
            let next = attempt("a", true);
            match self.redis.enter(&self.session, &next).await {
                Ok(Entered::Queued { .. }) => Ok(()),
                refused => {
                    self.redis.leave(&self.session, &next, true).await.ok();
                    Err(refused)
                }
            }
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_round_that_a_majority_is_too_late_for_is_taken_back_everywhere() {
    let scene = Scene::new().await;
    scene.late.iter().for_each(|late| late.delay(Direction::Requests, LIMIT * 2));
    let refused = scene.redis.enter(&scene.session, &attempt("a", true)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unconfirmed, "{refused:#}");
    // It comes there after that.
    for node in [1, 2] {
        scene.wait(node, true).await;
    }
    scene.wait_gone().await;
    scene.late.iter().for_each(Proxy::pass);
    scene.is_free().await;
}

#[tokio::test]
#[ignore = "needs a cluster: `cargo xtask test`"]
async fn a_round_that_outlasts_the_time_to_live_is_not_granted_though_a_majority_confirms_it() {
    let scene = Scene::new().await;
    scene.late.iter().for_each(|late| late.delay(Direction::Replies, LIMIT / 4));
    let late = attempt("a", true);
    let pause = async {
        // Before a majority of the answers is there.
        scene.wait(1, true).await;
        let nanos = u64::try_from(TTL.as_nanos()).unwrap();
        scene.clock.nanos.store(nanos, Ordering::SeqCst);
    };
    let (entered, ()) = tokio::join!(scene.redis.enter(&scene.session, &late), pause);
    let refused = entered.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unconfirmed, "{refused:#}");
    scene.wait_gone().await;
    scene.late.iter().for_each(Proxy::pass);
    scene.is_free().await;
}
