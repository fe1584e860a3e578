//! The author of a backend outside this workspace proves it with the suite.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use portunus_testkit::conformance::GROUPS;

#[test]
fn a_backend_from_outside_the_workspace_runs_the_suite() {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = kit.ancestors().nth(2).unwrap();
    let author = Author::new(&PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("outside"));
    author.write("Cargo.toml", &manifest(kit)).unwrap();
    author.write("src/lib.rs", BACKEND).unwrap();
    author.write("tests/conformance.rs", TESTS).unwrap();
    let locked = fs::read_to_string(workspace.join("Cargo.lock")).unwrap();
    author.write("Cargo.lock", &locked).unwrap();

    let (ok, output) = author.cargo_test(&[]).unwrap();
    let count = |wanted: &[&str]| -> usize {
        let groups =
            GROUPS.iter().filter(|group| wanted.is_empty() || wanted.contains(&group.name));
        groups.map(|group| group.behaviours.len()).sum()
    };
    // And one for each list: that it fits what the store claims.
    let (all, ignored) = (count(&[]) + 1, count(&["naming", "shared", "permits"]) + 1);
    let expected = format!("test result: ok. {all} passed; 0 failed; {ignored} ignored");
    assert!(ok && output.contains(&expected), "not `{expected}`: {output}");
    let (ok, output) = author.cargo_test(&["--features", "forgetful", "--", LATE_CREATE]).unwrap();
    assert!(
        !ok && output.contains("it came back to life"),
        "the suite took a bad backend: {output}"
    );
}

/// A crate of somebody else's, in a directory of its own.
struct Author {
    home: PathBuf,
}

impl Author {
    fn new(home: &Path) -> Self {
        Self { home: home.to_owned() }
    }

    /// Writes only what changed, so that a second run builds nothing.
    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let path = self.home.join(path);
        if fs::read_to_string(&path).is_ok_and(|before| before == text) {
            return Ok(());
        }
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, text)
    }

    /// Runs its tests; whether they passed, and what they printed.
    fn cargo_test(&self, options: &[&str]) -> io::Result<(bool, String)> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["test", "--offline", "--quiet", "--test", "conformance"]).args(options);
        // Inside the workspace's target directory, so that `cargo clean` finds it.
        cargo.current_dir(&self.home).env("CARGO_TARGET_DIR", self.home.join("target"));
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        let output = cargo.output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }
}

fn manifest(kit: &Path) -> String {
    let core = kit.join("../portunus-core");
    format!(
        r#"[package]
name = "outside"
version = "0.1.0"
edition = "2024"

[features]
forgetful = []

[dependencies]
portunus-core = {{ path = {core:?} }}

[dev-dependencies]
portunus-testkit = {{ path = {kit:?} }}

[workspace]
"#
    )
}

/// What `--features forgetful` breaks.
const LATE_CREATE: &str = "cancellation::a_create_that_arrives_after_leave_has_no_effect";
const BACKEND: &str = include_str!("outside/backend.rs");
const TESTS: &str = include_str!("outside/conformance.rs");
