//! What is told to people by `tracing`, here and in the client library, in the whole process: a
//! test looks for its own words.

use std::fmt::{Debug, Write};
use std::sync::{Mutex, Once};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Begins to listen, to all threads: the engine speaks on one of its own.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Listener).unwrap());
}

/// The events of a level that hold all of `words`.
pub fn told(level: Level, words: &[&str]) -> Vec<String> {
    let all = TOLD.lock().unwrap();
    let matching = |(at, text): &&(Level, String)| {
        *at == level && words.iter().all(|word| text.contains(word))
    };
    all.iter().filter(matching).map(|(_, text)| text.clone()).collect()
}

static TOLD: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = ["portunus", "zookeeper"].iter().any(|name| metadata.target().starts_with(name));
        metadata.is_event() && ours
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        TOLD.lock().unwrap().push((*event.metadata().level(), text.0));
    }

    // Spans are not enabled.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}
