//! What the store calls things: the names of keys and channels.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use portunus_core::backend::SessionId;
use portunus_core::error::{ErrorKind, Result};
use portunus_core::name::LockName;

use crate::error::error;

/// How the key of a lock is called.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Layout {
    /// `<namespace>:{<name>}`: locks of one namespace meet nothing else.
    #[default]
    Namespace,
    /// The name of the lock as it is: the key that other clients use who lock by `SET NX PX`, as
    /// redis-py's `Lock`, redsync or bsm/redislock do.
    Plain,
}

/// The keys of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    namespace: String,
    layout: Layout,
}

impl Keys {
    pub(crate) fn new(namespace: String, layout: Layout) -> Self {
        Self { namespace, layout }
    }

    /// How the keys of locks are called, as a server remembers it.
    pub(crate) fn layout(&self) -> &'static str {
        match self.layout {
            Layout::Namespace => "namespace",
            Layout::Plain => "plain",
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Refuses a name that is the key of something else of ours.
    pub(crate) fn check(&self, name: &LockName) -> Result<()> {
        let rest = name.as_str().strip_prefix(&*self.namespace);
        if self.layout == Layout::Namespace || !rest.is_some_and(|rest| rest.starts_with(':')) {
            return Ok(());
        }
        Err(error(ErrorKind::Invalid, "enter").with_key(name.as_str()).with_detail(format!(
            "with `layout=plain` no lock is called `{}:…`, for such are this library's own keys",
            self.namespace
        )))
    }

    /// The marker and the counter of a server.
    pub(crate) fn node(&self) -> String {
        format!("{}:node", self.namespace)
    }

    /// What a server without a marker has instead.
    pub(crate) fn wiped(&self) -> String {
        format!("{}:node:wiped", self.namespace)
    }

    /// What the keys of sessions begin with.
    pub(crate) fn sessions(&self) -> String {
        format!("{}:session:", self.namespace)
    }

    /// The key of a session, and the channel on which it hears of its entries' end.
    pub(crate) fn session(&self, session: SessionId) -> String {
        format!("{}{session}", self.sessions())
    }

    /// The key that excludes.
    pub(crate) fn lock(&self, name: &LockName) -> String {
        match self.layout {
            Layout::Namespace => self.channel(name),
            Layout::Plain => name.as_str().to_owned(),
        }
    }

    /// The key of those who wait.
    pub(crate) fn line(&self, name: &LockName) -> String {
        format!("{}{LINE}", self.channel(name))
    }

    /// Where the going of a holder is told.
    pub(crate) fn channel(&self, name: &LockName) -> String {
        format!("{}:{{{}}}", self.namespace, escape(name.as_str()))
    }

    /// A pattern that matches the keys of locks whose names begin with `prefix`, and some more;
    /// `None` where a lock's key does not tell that it is one.
    pub(crate) fn pattern(&self, prefix: &str) -> Option<String> {
        let begin = format!("{}:{{{}", self.namespace, escape(prefix));
        (self.layout == Layout::Namespace).then(|| format!("{}*", glob(&begin)))
    }

    /// The lock that a key of [`pattern`](Self::pattern) belongs to.
    pub(crate) fn name(&self, key: &str) -> Option<LockName> {
        let rest = key.strip_prefix(&*self.namespace)?.strip_prefix(":{")?;
        let rest = rest.strip_suffix(LINE).unwrap_or(rest);
        let name = percent_decode_str(rest.strip_suffix('}')?).decode_utf8().ok()?;
        LockName::new(&*name).ok()
    }
}

/// A cluster chooses the slot by what is between the first braces.
fn escape(name: &str) -> Cow<'_, str> {
    if !name.contains(['%', '{', '}']) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.replace('%', "%25").replace('{', "%7B").replace('}', "%7D"))
}

fn glob(text: &str) -> String {
    let mut glob = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            glob.push('\\');
        }
        glob.push(c);
    }
    glob
}

const LINE: &str = ":line";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_never_meet() {
        let keys = Keys::new("ns".into(), Layout::Namespace);
        let mut seen = std::collections::HashSet::new();
        for name in
            ["a", "a}:line", "a:line", "{a}", "%7Ba%7D", "a%", "*", "ü", "node", "session:1"]
        {
            let name = LockName::new(name).unwrap();
            for key in [keys.lock(&name), keys.line(&name)] {
                assert_eq!(keys.name(&key).as_ref(), Some(&name), "{key}");
                assert!(seen.insert(key));
            }
        }
        assert!(seen.insert(keys.node()) && seen.insert(keys.session(SessionId(1))));
        assert_eq!(keys.name(&keys.node()), None);
        assert_eq!(keys.pattern("a*{").unwrap(), "ns:{a\\*%7B*");
        let plain = Keys::new("ns".into(), Layout::Plain);
        assert_eq!(plain.lock(&LockName::new("a:{b}").unwrap()), "a:{b}");
        assert_eq!(plain.pattern("a"), None);
    }
}
