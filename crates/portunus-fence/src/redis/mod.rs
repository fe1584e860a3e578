//! A fence in Redis: the mark is compared and raised, and the effect applied, by one script.

mod error;

use std::fmt;
use std::sync::LazyLock;

use async_trait::async_trait;
use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::name::LockName;
use portunus_core::token::{FencingToken, SharedToken};
use redis::aio::ConnectionLike;
use redis::{Arg, Cmd, Script, Value};

use self::error::{failed, failed_command};
use crate::call::{Call, Effect};
use crate::fence::Fence;

/// A *mark fence* in Redis 5 or later, for data that lives there; it takes the tokens of a lock of any
/// store.
///
/// `C` is a connection that is cloned for each call: `MultiplexedConnection`, `ConnectionManager`, or
/// a connection to a cluster. Build the latter with `retries(0)`: otherwise it sends a request again by
/// itself after a lost answer, and commands run twice without a word. Each call is one round trip, but
/// for the first, which loads a script.
///
/// A mark is the hash `portunus:fence:{<resource>}` with the fields `token`, `origin` and `value`; in
/// its name `{`, `}` and `%` of the resource are written as `%7B`, `%7D` and `%25`.
///
/// **A mark is as durable as the data beside it**, and no more. A fail-over to a replica that had not
/// got everything takes both back, and so does a restart without `appendfsync always`: an old token may
/// pass then until the next holder opens. The server must not evict (`maxmemory-policy noeviction`, or
/// one of `volatile-*`), and marks must have no time to live.
///
/// # Example
///
/// ```no_run
/// use portunus_fence::redis::{RedisFence, key_beside};
/// use portunus_fence::{Fence, Result};
/// use redis::aio::MultiplexedConnection;
///
/// # async fn sell(
/// #     fence: &RedisFence<MultiplexedConnection>,
/// #     guard: &portunus_core::guard::Guard,
/// # ) -> Result<()> {
/// let token = guard.token();
/// fence.open("shop/7", &token).await?; // before the first read
/// let stock = key_beside("shop/7", "stock")?;
/// let mut sell = redis::cmd("DECR");
/// sell.arg(&stock);
/// let replies = fence.update("shop/7", &token, &[sell]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisFence<C> {
    connection: C,
}

/// Names a key of yours for [`RedisFence::update`]: `{<resource>}:<suffix>`, in the same slot of a
/// cluster as the resource's mark, whatever the resource is called. No two resources share a key.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] when the resource's name is.
pub fn key_beside(resource: &str, suffix: &str) -> Result<String> {
    let call = Call::new(FENCE, "key", resource)?;
    Ok(format!("{{{}}}:{suffix}", tag(call.resource())))
}

impl<C: ConnectionLike + Clone + Send + Sync> RedisFence<C> {
    /// Makes a fence on a connection. Nothing is asked of the server yet.
    #[must_use]
    pub fn new(connection: C) -> Self {
        Self { connection }
    }

    /// Raises the mark to `token` and runs `commands`, in one step; returns their replies, in order.
    ///
    /// In a cluster all keys have to be in the slot of the mark: [`key_beside`] names such. The
    /// commands run in a script, so none may block or touch the mark's own key, and whole numbers in a reply are exact up to 2⁵³.
    /// A command has at most 4000 words.
    ///
    /// # Errors
    ///
    /// As [`Fence`], and no command was run, but for `Unconfirmed` and for this:
    ///
    /// - [`ErrorKind::Protocol`], or [`ErrorKind::Denied`]: the server refuses one of the commands, which
    ///   the error names (for example because its key is of another type). **Redis takes nothing
    ///   back**: the mark is raised, the commands before it are applied, those after it are not.
    /// - [`ErrorKind::Unconfirmed`]: after a retry with the same token the commands may have run twice,
    ///   and those of the first try may run after those of a later step. Where that matters acquire the
    ///   lock again first, for a higher token.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the step was taken, is taken later, or never. A higher token bars it.
    pub async fn update(
        &self,
        resource: &str,
        token: &FencingToken,
        commands: &[Cmd],
    ) -> Result<Vec<Value>> {
        self.step(&Call::new(FENCE, "update", resource)?, token, commands).await
    }

    async fn step(
        &self,
        call: &Call,
        token: &FencingToken,
        commands: &[Cmd],
    ) -> Result<Vec<Value>> {
        call.exclusive(token, u64::MAX)?;
        let mut step = STEP.key(key(call.resource()));
        step.arg(token.value()).arg(token.origin().to_string());
        for command in commands {
            let words = words(call, command)?;
            step.arg(words.len());
            for word in words {
                step.arg(word);
            }
        }
        let mut connection = self.connection.clone();
        let reply: Vec<Value> = step
            .invoke_async(&mut connection)
            .await
            .map_err(|error| failed(call, error, Effect::Write))?;
        match (text(reply.first()), reply.get(1..).unwrap_or_default()) {
            (Some("passed"), [Value::Array(replies)]) => Ok(replies.clone()),
            (Some("refused"), [number, origin]) => {
                call.pass(Some(&mark(call, number, origin)?), token)?;
                Err(call.garbled("the mark is not below the token, and yet refuses it"))
            }
            (Some("failed"), [Value::Int(at), error]) => {
                Err(failed_command(call, *at, text(Some(error)).unwrap_or_default()))
            }
            (Some("garbled"), [what]) => Err(garbled(call, what)),
            _ => Err(call.garbled("the script's reply")),
        }
    }

    async fn read(&self, call: &Call) -> Result<(Option<FencingToken>, Option<Vec<u8>>)> {
        let mut connection = self.connection.clone();
        let reply: Vec<Value> = READ
            .key(key(call.resource()))
            .invoke_async(&mut connection)
            .await
            .map_err(|error| failed(call, error, Effect::Read))?;
        match (text(reply.first()), reply.get(1..).unwrap_or_default()) {
            (Some("none"), []) => Ok((None, None)),
            // Older servers end the array before a nil.
            (Some("mark"), [number, origin]) => Ok((Some(mark(call, number, origin)?), None)),
            (Some("mark"), [number, origin, written]) => {
                Ok((Some(mark(call, number, origin)?), value(call, written)?))
            }
            (Some("garbled"), [what]) => Err(garbled(call, what)),
            _ => Err(call.garbled("the script's reply")),
        }
    }
}

#[async_trait]
impl<C: ConnectionLike + Clone + Send + Sync> Fence for RedisFence<C> {
    async fn open(&self, resource: &str, token: &FencingToken) -> Result<Option<Vec<u8>>> {
        let call = Call::new(FENCE, "open", resource)?;
        let mut read = redis::cmd("HGET");
        read.arg(key(call.resource())).arg("value");
        match &*self.step(&call, token, &[read]).await? {
            [written] => value(&call, written),
            _ => Err(call.garbled("the script's reply")),
        }
    }

    async fn admit(&self, resource: &str, token: &FencingToken, value: &[u8]) -> Result<()> {
        let call = Call::new(FENCE, "admit", resource)?;
        call.value(value)?;
        let mut write = redis::cmd("HSET");
        write.arg(key(call.resource())).arg("value").arg(value);
        self.step(&call, token, &[write]).await.map(drop)
    }

    async fn check(&self, resource: &str, token: &SharedToken) -> Result<Option<Vec<u8>>> {
        let call = Call::new(FENCE, "check", resource)?;
        call.shared(token, u64::MAX)?;
        let (mark, value) = self.read(&call).await?;
        call.pass_shared(mark.as_ref(), token)?;
        Ok(value)
    }

    async fn mark(&self, resource: &str) -> Result<Option<FencingToken>> {
        Ok(self.read(&Call::new(FENCE, "mark", resource)?).await?.0)
    }
}

impl<C> fmt::Debug for RedisFence<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisFence").finish_non_exhaustive()
    }
}

fn key(resource: &LockName) -> String {
    format!("portunus:fence:{{{}}}", tag(resource))
}

/// The part of a key by which a cluster chooses its slot: it ends at the first `}`.
fn tag(resource: &LockName) -> String {
    resource.as_str().replace('%', "%25").replace('{', "%7B").replace('}', "%7D")
}

fn words<'c>(call: &Call, command: &'c Cmd) -> Result<Vec<&'c [u8]>> {
    let words = command.args_iter().map(|word| match word {
        Arg::Simple(word) => Ok(word),
        _ => Err("the command has a cursor, which nothing here would follow"),
    });
    let words = words.collect::<Result<Vec<_>, _>>();
    let words = words.and_then(|words| match words.len() {
        0 => Err("the command is empty"),
        1..=MAX_WORDS => Ok(words),
        _ => Err("the command has more than 4000 words"),
    });
    words.map_err(|detail| call.error(ErrorKind::Invalid).with_detail(detail))
}

fn mark(call: &Call, number: &Value, origin: &Value) -> Result<FencingToken> {
    let parsed = text(Some(number)).zip(text(Some(origin)));
    parsed
        .and_then(|(number, origin)| format!("{number};origin={origin}").parse().ok())
        .ok_or_else(|| call.garbled("the mark's hash holds no token"))
}

fn value(call: &Call, value: &Value) -> Result<Option<Vec<u8>>> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(value) => Ok(Some(value.clone())),
        _ => Err(call.garbled("the value is no string")),
    }
}

fn garbled(call: &Call, what: &Value) -> Error {
    let what = text(Some(what)).unwrap_or_default();
    let detail = format!("the mark's key holds {what}, and no mark");
    call.error(ErrorKind::Protocol).with_detail(detail)
}

fn text(value: Option<&Value>) -> Option<&str> {
    match value {
        Some(Value::BulkString(text)) => std::str::from_utf8(text).ok(),
        Some(Value::SimpleString(text)) => Some(text),
        _ => None,
    }
}

static STEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("step.lua")));
static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("read.lua")));

/// Half of what Lua's `unpack` takes.
const MAX_WORDS: usize = 4000;

const FENCE: &str = "redis fence";

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(resource: &str) -> String {
        key_beside(resource, "x").unwrap()
    }

    /// The slot's part of a key, as the cluster specification has it.
    fn slot_part(key: &str) -> &str {
        let after = &key[key.find('{').unwrap() + 1..];
        &after[..after.find('}').unwrap()]
    }

    #[test]
    fn keys_of_one_resource_share_a_slot_and_those_of_two_never_meet() {
        let names = ["a", "a}b", "a{b", "{", "}", "{}", "%7D", "a/b", "ü", "a:x", "a}:x"];
        let mut seen = std::collections::HashSet::new();
        for name in names {
            let mark = key(&LockName::new(name).unwrap());
            let part = slot_part(&mark);
            assert!(!part.is_empty(), "{mark}");
            assert_eq!(part, slot_part(&beside(name)), "{mark}");
            assert!(seen.insert(mark.clone()) && seen.insert(beside(name)), "{mark}");
        }
        assert_eq!(beside("a}b"), "{a%7Db}:x");
        assert_eq!(key_beside("", "x").unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn commands_that_a_script_cannot_run_are_refused() {
        let call = Call::new(FENCE, "update", "a").unwrap();
        let mut long = redis::cmd("DEL");
        (0..MAX_WORDS).for_each(|_| {
            long.arg("a");
        });
        let mut cursor = redis::cmd("SCAN");
        cursor.cursor_arg(0);
        for command in [Cmd::new(), long, cursor] {
            assert_eq!(words(&call, &command).unwrap_err().kind(), ErrorKind::Invalid);
        }
        let mut get = redis::cmd("GET");
        get.arg("a");
        assert_eq!(words(&call, &get).unwrap(), [b"GET".as_slice(), b"a"]);
    }
}
