//! The resource of the stories: a process that owns counters and their log, in an SQLite file.
//!
//! `vault FILE` says its port on stdout and ends with its stdin. Each counter is kept three times:
//! `/guarded/NAME` is opened by reading and written with the token, as it should be; `/unopened/NAME`
//! compares tokens when it is written only; `/plain/NAME` compares nothing. `GET` reads, `PUT` writes,
//! `/log` lists what was written.

use std::io::{Read, stdin};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use portunus::{Error, ErrorKind, FencingToken};
use portunus_fence::http::{RequireTokenLayer, problem};
use portunus_fence::sqlite;
use rusqlite::{Connection, Transaction};

type Vault = State<Arc<Mutex<Connection>>>;

#[tokio::main]
async fn main() {
    let file = std::env::args().nth(1).expect("a file");
    let mut database = Connection::open(file).expect("a database");
    sqlite::create_table(&mut database).expect("a table of marks");
    database.execute_batch(SCHEMA).expect("tables");
    let counters = Router::new()
        .route("/{kind}/{name}", get(read).put(write))
        .layer(RequireTokenLayer::new().exclusive_only().allow_weak())
        .route("/log", get(log))
        .with_state(Arc::new(Mutex::new(database)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    // A thread that is in a read is no reason to stay.
    std::thread::spawn(|| {
        stdin().read_to_end(&mut Vec::new()).ok();
        std::process::exit(0);
    });
    axum::serve(listener, counters).await.expect("it serves");
}

async fn read(
    State(vault): Vault,
    Path((kind, name)): Path<(String, String)>,
    Extension(token): Extension<FencingToken>,
) -> Result<String, Refused> {
    step(&vault, |transaction| {
        if kind == "guarded" {
            sqlite::open(transaction, &name, &token)?;
        }
        let mut counter = transaction
            .prepare("SELECT value FROM counter WHERE kind = ?1 AND name = ?2")
            .map_err(broken)?;
        let value = counter.query_map([&kind, &name], |row| row.get(0)).map_err(broken)?.next();
        Ok(value.transpose().map_err(broken)?.unwrap_or(0_i64).to_string())
    })
}

async fn write(
    State(vault): Vault,
    Path((kind, name)): Path<(String, String)>,
    Extension(token): Extension<FencingToken>,
    value: String,
) -> Result<(), Refused> {
    let value: i64 = value.parse().map_err(broken)?;
    step(&vault, |transaction| {
        if kind != "plain" {
            // Each kind has marks of its own.
            let resource = if kind == "guarded" { name.clone() } else { format!("{kind}/{name}") };
            sqlite::open(transaction, &resource, &token)?;
        }
        transaction
            .execute("INSERT OR REPLACE INTO counter VALUES (?1, ?2, ?3)", (&kind, &name, value))
            .map_err(broken)?;
        let entry = format!("{kind}/{name} {} {value}", token.value());
        transaction.execute("INSERT INTO log VALUES (?1)", [entry]).map_err(broken)?;
        Ok(())
    })
}

async fn log(State(vault): Vault) -> Result<String, Refused> {
    step(&vault, |transaction| {
        let mut log =
            transaction.prepare("SELECT entry FROM log ORDER BY rowid").map_err(broken)?;
        let entries = log.query_map([], |row| row.get::<_, String>(0)).map_err(broken)?;
        entries.map(|entry| Ok(entry.map_err(broken)? + "\n")).collect()
    })
}

/// Comparison and effect are one transaction, on the disk before it is answered.
fn step<T>(
    vault: &Mutex<Connection>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Error>,
) -> Result<T, Refused> {
    let mut database = vault.lock().unwrap_or_else(PoisonError::into_inner);
    let transaction = database.transaction().map_err(broken)?;
    let done = work(&transaction)?;
    transaction.commit().map_err(broken)?;
    Ok(done)
}

/// An error of the fence, as its answer.
struct Refused(Error);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        problem(&self.0)
    }
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Protocol, "vault", "step").with_source(error)
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS counter (kind, name, value INTEGER, PRIMARY KEY (kind, name));
    CREATE TABLE IF NOT EXISTS log (entry TEXT);
";
