//! Tokens over HTTP: a client attaches its token to each request, a service asks for it and has it
//! compared.
//!
//! A token travels as the header [`FencingToken::HEADER`], `Fencing-Token: <value>;origin=<hex>`, with
//! `;weak` after it if the token [is](crate::FencingToken#weak-tokens), and then `;shared` if the grant is
//! shared. That a client accepts weak tokens is not part of it: the service decides.
//!
//! | who | layer | without tower |
//! |---|---|---|
//! | a client | [`AttachTokenLayer`] | [`attach`] |
//! | a service that keeps the resource in a database | [`RequireTokenLayer`] | [`read`], [`problem`] |
//! | a service that keeps the resource in its own memory | [`FenceLayer`] | [`MemoryFence::hold`](crate::MemoryFence::hold) |
//!
//! **The two layers of a service are not alike.** [`RequireTokenLayer`] compares nothing: what the
//! handler does with the token, in the transaction that changes the resource, is the fence.
//! [`FenceLayer`] compares, and keeps what it found true for as long as the handler runs; it is a fence
//! for what this one process has in its memory, and for nothing else.
//!
//! A token is no credential: whoever reaches the service can make one up, and a high one shuts the
//! holders out. Put the layers inside what authenticates the callers.
//!
//! # Refusals
//!
//! Answered with a body of `application/problem+json` (RFC 9457): `type`, `title`, `status` and
//! `detail`. The types are stable:
//!
//! | `type` | status | when | the client |
//! |---|---|---|---|
//! | `urn:portunus:fence:missing-token` | 428 | there is no such header | acquires the lock first |
//! | `urn:portunus:fence:exclusive-token-required` | 403 | the token is shared, the layer is [`exclusive_only`](FenceLayer::exclusive_only) | acquires the lock exclusively |
//! | `urn:portunus:fence:weak-token` | 403 | the token is weak, the layer does not [`allow_weak`](RequireTokenLayer::allow_weak) | acquires a lock in another store |
//! | `urn:portunus:fence:invalid` | 400 | the header is malformed or there twice, or [`Invalid`](ErrorKind::Invalid) | fixes the request |
//! | `urn:portunus:fence:stale-token` | 409 | [`Stale`](ErrorKind::Stale) | stops: another holder came later |
//! | `urn:portunus:fence:foreign-token` | 409 | [`Conflict`](ErrorKind::Conflict) | stops, and tells an operator |
//! | `urn:portunus:fence:denied` | 403 | [`Denied`](ErrorKind::Denied) | tells an operator |
//! | `urn:portunus:fence:unavailable` | 503 | [`Unavailable`](ErrorKind::Unavailable), [`Overloaded`](ErrorKind::Overloaded): not applied | retries with the same token |
//! | `urn:portunus:fence:unconfirmed` | 500 | [`Unconfirmed`](ErrorKind::Unconfirmed): applied or not | retries what may be done twice |
//! | `urn:portunus:fence:internal` | 500 | any other | reports it |

mod client;
mod fenced;
mod header;
mod problem;
mod require;

pub use self::client::{AttachToken, AttachTokenLayer};
pub use self::fenced::{FenceLayer, Fenced};
pub use self::header::{Token, attach, read};
pub use self::problem::problem;
pub use self::require::{RequireToken, RequireTokenLayer};

#[cfg(doc)]
use crate::{ErrorKind, FencingToken};
