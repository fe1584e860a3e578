//! Children that end with us: each has its own process group, and a signal to xtask ends it whole.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use crate::Result;

/// The exit code after ctrl-C, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// From now on SIGINT, SIGTERM and SIGHUP end the running child; its caller then cleans up.
pub(crate) fn end_children_on_signal() -> Result<()> {
    ctrlc::set_handler(|| {
        SIGNALLED.store(true, Ordering::SeqCst);
        end(Signal::TERM);
    })?;
    Ok(())
}

/// Whether a signal asked xtask to stop.
pub(crate) fn interrupted() -> bool {
    SIGNALLED.load(Ordering::SeqCst)
}

/// Runs a child to its end.
pub(crate) fn run(command: &mut Command) -> io::Result<ExitStatus> {
    supervise(command, None).map(|output| output.status)
}

/// Runs a child to its end and returns what it wrote to stdout.
pub(crate) fn capture(command: &mut Command) -> io::Result<Output> {
    supervise(command.stdout(Stdio::piped()), None)
}

/// Runs a child for at most `limit`; `TimedOut` when it was ended for that.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> io::Result<ExitStatus> {
    supervise(command, Some(limit)).map(|output| output.status)
}

/// The child's exit code, or what a shell makes of a signal.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    if interrupted() {
        return INTERRUPTED;
    }
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn supervise(command: &mut Command, limit: Option<Duration>) -> io::Result<Output> {
    let child = {
        // Under the lock, so that a signal either comes before the start or finds the child.
        let mut running = running();
        if interrupted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        // A group of its own must not read from the terminal.
        let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        *running = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        child
    };
    let (done, ended) = mpsc::channel();
    // The receiver waits below, so the send succeeds.
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = match limit.map(|limit| ended.recv_timeout(limit)) {
        Some(Ok(output)) => output,
        Some(Err(RecvTimeoutError::Timeout)) => {
            end(Signal::KILL);
            Err(io::ErrorKind::TimedOut.into())
        }
        _ => ended.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())),
    };
    if interrupted() {
        // A grandchild may still be writing down its end; what follows counts on its being gone.
        end(Signal::KILL);
        wait_until_gone();
    }
    *running() = None;
    output
}

/// Waits, within a bound, for the last member of the child's group.
fn wait_until_gone() {
    let Some(group) = *running() else { return };
    for _ in 0..100 {
        if test_kill_process_group(group).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn running() -> MutexGuard<'static, Option<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(signal: Signal) {
    if let Some(group) = *running() {
        // A group that has just gone by itself is what was wanted.
        kill_process_group(group, signal).ok();
    }
}

static RUNNING: Mutex<Option<Pid>> = Mutex::new(None);
static SIGNALLED: AtomicBool = AtomicBool::new(false);
