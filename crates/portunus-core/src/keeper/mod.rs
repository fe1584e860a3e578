//! The engine: sessions that are renewed, attempts that are driven, losses that are told, clean-up
//! that reaches its end.
//!
//! | file | its one idea |
//! |---|---|
//! | `threads` | where work runs, so that user code starves nothing |
//! | `context` | what all parts of one manager share |
//! | `deadline` | the terminal deadline cell |
//! | `session` | one session: renewal, suspension, loss, end |
//! | `sessions` | the present session, opened once for all |
//! | `armed` | whether there is something to clean up, and who does it |
//! | `claim` | one attempt's claim, and the reaper |
//! | `hold` | one grant: its bounds, its loss signal, the watch over its entry |
//! | `change` | a downgrade, a leader's value: changes to the entry of a grant |
//! | `waiters` | one lock: highest token, the sweep that forgets no waiter |
//! | `seek` | one call of `acquire` from its session to its grant |
//! | `follow` | the head of a queue, followed across broken connections |
//! | `term` | one leader's term: when its work has to stop, and what if it does not |
//! | `engine` | all of it together, and the shutdown |

mod armed;
mod change;
mod claim;
mod context;
mod deadline;
mod engine;
mod follow;
mod hold;
mod seek;
mod session;
mod sessions;
mod term;
mod threads;
mod waiters;

pub(crate) use self::change::{Change, change};
pub(crate) use self::claim::Withdrawn;
pub(crate) use self::context::{BusyMark, Context, Options};
pub(crate) use self::engine::Engine;
pub(crate) use self::follow::Following;
pub(crate) use self::hold::Hold;
pub(crate) use self::seek::{Request, Wait};
pub(crate) use self::term::Term;
pub(crate) use self::threads::Threads;
pub(crate) use self::waiters::LockState;
