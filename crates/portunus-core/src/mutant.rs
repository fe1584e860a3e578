//! Seeded mutants: deliberate faults that the simulation must find.
//!
//! They exist only under `--cfg portunus_mutant`, and not in a release build. Without that flag
//! [`Mutant::is_on`] is the constant `false` and the compiler removes every trace.

/// One deliberate fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mutant {
    /// A leader resigns while its callback still runs.
    CallbackNotAwaited,
    /// The deadline counts from the reply to a renewal, not from before it was sent.
    DeadlineFromReply,
    /// A renewal that is confirmed late revives a deadline that has passed.
    DeadlineRevived,
    /// `leave` forgets that a request sent before may arrive later.
    LateArrivalIgnored,
    /// `enter` is called where `look` belongs, so that an evicted entry is made again.
    LookIsEnter,
    /// A waiter is granted without a look at its own entry.
    OwnEntryUnconfirmed,
    /// The first permit that waits watches the entry before it alone, not every holder.
    PermitWatchesOne,
    /// A reader is granted beside other readers although a writer waits before it.
    ReaderOvertakes,
    /// `leave` removes whoever holds the lock of that name.
    ReleaseByName,
    /// A request without an answer is taken for one that failed.
    UnknownIsFailed,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::CallbackNotAwaited,
        Self::DeadlineFromReply,
        Self::DeadlineRevived,
        Self::LateArrivalIgnored,
        Self::LookIsEnter,
        Self::OwnEntryUnconfirmed,
        Self::PermitWatchesOne,
        Self::ReaderOvertakes,
        Self::ReleaseByName,
        Self::UnknownIsFailed,
    ];

    #[cfg(not(portunus_mutant))]
    #[inline(always)]
    pub(crate) const fn is_on(self) -> bool {
        false
    }

    #[cfg(portunus_mutant)]
    pub(crate) fn is_on(self) -> bool {
        chosen::CHOSEN.with(std::cell::Cell::get) == Some(self)
    }

    /// Puts this fault in while `body` runs, on this thread only.
    #[cfg(portunus_mutant)]
    pub fn during<T>(self, body: impl FnOnce() -> T) -> T {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                chosen::CHOSEN.with(|chosen| chosen.set(None));
            }
        }
        chosen::CHOSEN.with(|chosen| chosen.set(Some(self)));
        let _reset = Reset;
        body()
    }
}

#[cfg(portunus_mutant)]
mod chosen {
    #[cfg(not(debug_assertions))]
    compile_error!("mutants never go into a release build");

    thread_local! {
        pub(super) static CHOSEN: std::cell::Cell<Option<super::Mutant>> =
            const { std::cell::Cell::new(None) };
    }
}
