//! Runs a model through every state.

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

pub(crate) trait Exhaustive: Model + Sized {
    /// Every state: no property fails, and what has to be reached is.
    fn holds(self);

    /// The checker finds a way to break this property.
    fn fails(self, property: &'static str);
}

impl<M> Exhaustive for M
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    #[track_caller]
    fn holds(self) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let checker = self.checker().threads(threads).spawn_dfs().join();
        println!("{} states, {} different", checker.state_count(), checker.unique_state_count());
        checker.assert_properties();
    }

    #[track_caller]
    fn fails(self, property: &'static str) {
        let found = HasDiscoveries::AnyOf([property].into());
        let checker = self.checker().finish_when(found).spawn_dfs().join();
        let way = checker.assert_any_discovery(property).into_actions();
        println!("{} states, {} steps: {way:?}", checker.state_count(), way.len());
    }
}
