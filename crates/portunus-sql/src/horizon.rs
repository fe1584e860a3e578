//! How far this process saw a database: what says less was put back from a copy.

use std::sync::{Mutex, MutexGuard, PoisonError};

use portunus_core::token::Incarnation;

/// The furthest that this process saw of the counter.
#[derive(Debug, Default)]
pub(crate) struct Horizon(Mutex<Seen>);

/// Where a database is: the number of its last change, in one of its lives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct At {
    pub(crate) incarnation: Incarnation,
    pub(crate) position: u64,
}

/// The furthest that was seen of each life, as it was at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Vec<At>);

impl Horizon {
    /// What was seen so far. Taken before a transaction begins: what others of this process see while it
    /// runs may be ahead of its state.
    pub(crate) fn seen(&self) -> Seen {
        self.lives().clone()
    }

    /// Notes what a transaction saw that can't be undone any more.
    pub(crate) fn saw(&self, at: At) {
        let Seen(lives) = &mut *self.lives();
        match lives.iter_mut().find(|life| life.incarnation == at.incarnation) {
            Some(life) => life.position = life.position.max(at.position),
            None => lives.push(at),
        }
    }

    fn lives(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// How far it was, if the database now is behind that.
    pub(crate) fn ahead_of(&self, at: &At) -> Option<u64> {
        let life = self.0.iter().find(|life| life.incarnation == at.incarnation)?;
        (at.position < life.position).then_some(life.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_life_can_go_back() {
        let at = |life: u128, position| At { incarnation: life.into(), position };
        let horizon = Horizon::default();
        let before = horizon.seen();
        horizon.saw(at(1, 7));
        horizon.saw(at(1, 5));
        let seen = horizon.seen();
        assert_eq!(seen.ahead_of(&at(1, 6)), Some(7));
        assert_eq!((seen.ahead_of(&at(1, 7)), seen.ahead_of(&at(2, 1))), (None, None));
        assert_eq!(before.ahead_of(&at(1, 6)), None);
        // Another life between does not make the first one forgotten.
        horizon.saw(at(2, 1));
        assert_eq!(horizon.seen().ahead_of(&at(1, 6)), Some(7));
    }
}
