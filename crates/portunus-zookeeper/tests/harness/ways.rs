//! The ways to the nodes, each through a proxy.

use std::time::Duration;

use futures_util::future::{join_all, select_all};
use portunus_core::manager::LockManager;
use portunus_testkit::proxy::{Direction, Proxy};
use portunus_zookeeper::ZooKeeperConfig;

use super::scene::{PROMPT, Scene, within};

/// One proxy before each node.
pub struct Ways(Vec<Proxy>);

impl Ways {
    pub async fn open(scene: &Scene) -> Self {
        let proxies = scene.cluster.endpoints().into_iter().map(Proxy::start);
        Self(join_all(proxies).await.into_iter().map(Result::unwrap).collect())
    }

    pub async fn manager(&self, scene: &Scene, ttl: Duration) -> LockManager {
        scene.with(self.config(scene), ttl).await
    }

    pub fn config(&self, scene: &Scene) -> ZooKeeperConfig {
        scene.config(self.0.iter().map(|proxy| proxy.address().to_string()))
    }

    /// A manager that is connected to this node: the others come into reach after that.
    pub async fn manager_at(&self, scene: &Scene, node: usize, ttl: Duration) -> LockManager {
        self.all(Proxy::refuse);
        self.0[node].pass();
        let manager = self.manager(scene, ttl).await;
        self.all(Proxy::pass);
        manager
    }

    pub fn node(&self, node: usize) -> &Proxy {
        &self.0[node]
    }

    pub fn all(&self, act: fn(&Proxy)) {
        self.0.iter().for_each(act);
    }

    /// The node on whose way something is held first.
    pub async fn held(&self, direction: Direction) -> usize {
        let held = self.0.iter().map(|proxy| Box::pin(proxy.wait_held(direction)));
        within(PROMPT, "something is held", select_all(held)).await.1
    }

    /// Lets everything flow but on one way.
    pub fn pass_but(&self, node: usize) {
        let others = self.0.iter().enumerate().filter(|(other, _)| *other != node);
        others.for_each(|(_, proxy)| proxy.pass());
    }
}
