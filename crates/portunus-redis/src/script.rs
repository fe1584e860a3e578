//! The scripts, which are files beside this one, and what they answer.

use std::sync::LazyLock;
use std::time::Duration;

use portunus_core::error::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script, Value};

use crate::error::STORE;

macro_rules! code {
    ($file:literal) => {
        concat!(include_str!("scripts/records.lua"), "\n", include_str!(concat!("scripts/", $file)))
    };
}

macro_rules! scripts {
    ($($name:ident = $file:literal;)+) => {
        $(pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(code!($file)));)+
        const CODE: &[&str] = &[$(code!($file)),+];
    };
}

scripts! {
    CLAIM = "claim.lua";
    CLOSE = "close.lua";
    CONFIRM = "confirm.lua";
    EVICT = "evict.lua";
    LEAVE = "leave.lua";
    LIST = "list.lua";
    OPEN = "open.lua";
    PLACE = "place.lua";
    PUBLISH = "publish.lua";
    RENEW = "renew.lua";
    SEED = "seed.lua";
    STAND = "stand.lua";
    TAKE = "take.lua";
    UNDO = "undo.lua";
}

/// Has a server know all scripts, so that each request is one round trip.
pub(crate) async fn load(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let mut pipeline = redis::pipe();
    for code in CODE {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(code).ignore();
    }
    pipeline.query_async(connection).await
}

/// One request: a script with its keys and arguments.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    script: &'static Script,
    keys: Vec<String>,
    args: Vec<String>,
}

/// What a script answered: a word, and what belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    operation: &'static str,
    values: Vec<Value>,
}

impl Call {
    pub(crate) fn new(
        operation: &'static str,
        script: &'static Script,
        keys: impl IntoIterator<Item = String>,
        args: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            operation,
            script,
            keys: keys.into_iter().collect(),
            args: args.into_iter().collect(),
        }
    }

    /// Sends it by a connection of this number, which every script is told last.
    pub(crate) async fn invoke(
        self,
        connection: &mut MultiplexedConnection,
        number: u64,
    ) -> RedisResult<Reply> {
        let mut invocation = self.script.prepare_invoke();
        for key in &self.keys {
            invocation.key(key);
        }
        for arg in &self.args {
            invocation.arg(arg);
        }
        invocation.arg(number);
        let values = invocation.invoke_async(connection).await?;
        Ok(Reply { operation: self.operation, values })
    }
}

impl Reply {
    /// What happened.
    pub(crate) fn word(&self) -> &str {
        text(self.values.first()).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// A text of it; the word itself is number 0.
    pub(crate) fn text(&self, at: usize) -> Result<&str> {
        text(self.values.get(at)).ok_or_else(|| self.garbled())
    }

    pub(crate) fn bytes(&self, at: usize) -> Result<&[u8]> {
        match self.values.get(at) {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            _ => Err(self.garbled()),
        }
    }

    /// A number of it, in digits or as such.
    pub(crate) fn number(&self, at: usize) -> Result<u64> {
        let number = match self.values.get(at) {
            Some(Value::Int(number)) => u64::try_from(*number).ok(),
            value => text(value).and_then(|text| text.parse().ok()),
        };
        number.ok_or_else(|| self.garbled())
    }

    /// A holder: its value, which may be empty, and what is left of its time to live, if it has any.
    pub(crate) fn holder(&self, at: usize) -> Result<Option<(&[u8], Option<Duration>)>> {
        match self.values.get(at + 1) {
            Some(Value::Int(FREE)) => Ok(None),
            Some(Value::Int(left)) => {
                Ok(Some((self.bytes(at)?, u64::try_from(*left).ok().map(Duration::from_millis))))
            }
            _ => Err(self.garbled()),
        }
    }

    /// The error of an answer that makes no sense, or says that a key is another's.
    pub(crate) fn garbled(&self) -> Error {
        let error = |kind| Error::new(kind, STORE, self.operation);
        match (self.word(), text(self.values.get(1))) {
            ("garbled", Some(kind)) => error(ErrorKind::Conflict).with_detail(format!(
                "the lock's key holds a {kind}, and no string; it is left as it is"
            )),
            (word, _) => error(ErrorKind::Protocol)
                .with_detail(format!("the script's reply `{}`", word.escape_debug())),
        }
    }
}

fn text(value: Option<&Value>) -> Option<&str> {
    match value {
        Some(Value::BulkString(text)) => std::str::from_utf8(text).ok(),
        Some(Value::SimpleString(text)) => Some(text),
        _ => None,
    }
}

/// The time to live of a key that is not there, as `PTTL` says it.
const FREE: i64 = -2;
