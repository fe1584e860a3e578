//! Commands inside a node: to their end, or beside the test.

use futures_util::StreamExt;
use testcontainers::bollard::container::LogOutput;
use testcontainers::bollard::exec::{CreateExecOptions, StartExecResults};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Cluster, Error, Result, engine};

/// How a command ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Output {
    /// Its exit code; `None` when the node went down under it.
    pub code: Option<i64>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Output {
    pub(super) fn success(self, command: &str) -> Result<Self> {
        if self.code == Some(0) {
            Ok(self)
        } else {
            Err(Error::Command { command: command.to_owned(), output: self })
        }
    }
}

impl Cluster {
    /// Runs a command in a node to its end, whatever its exit code.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], also when the node is down or frozen.
    pub async fn exec(&self, node: usize, command: &[&str]) -> Result<Output> {
        self.begin(node, command).await?.output().await
    }

    /// Starts a command in a node and leaves it running.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], also when the node is down or frozen.
    pub async fn spawn(&self, node: usize, command: &[&str]) -> Result<Process> {
        // The shell says its number in the node, and becomes the command.
        let shell = ["sh", "-c", "echo $$; exec \"$@\"", "sh"];
        let mut running = self.begin(node, &[&shell, command].concat()).await?;
        let pid = running.lines.recv().await.unwrap_or_default();
        Ok(Process { cluster: self.clone(), node, pid, running })
    }

    async fn begin(&self, node: usize, command: &[&str]) -> Result<Running> {
        let container = self.node(node).container.clone();
        let command: Vec<String> = command.iter().copied().map(str::to_owned).collect();
        engine::run(async move {
            let docker = engine::client().await?;
            let options = CreateExecOptions {
                cmd: Some(command),
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                ..CreateExecOptions::default()
            };
            let exec =
                docker.create_exec(&container, options).await.map_err(Error::engine(RUN))?.id;
            let started = docker.start_exec(&exec, None).await.map_err(Error::engine(RUN))?;
            let StartExecResults::Attached { mut output, .. } = started else {
                return Err(Error::engine(RUN)("it was detached"));
            };
            let (told, lines) = mpsc::unbounded_channel();
            let ended = tokio::spawn(async move {
                let (mut stdout, mut stderr, mut told_up_to) = (Vec::new(), Vec::new(), 0);
                while let Some(piece) = output.next().await {
                    match piece.map_err(Error::engine("read a command's output"))? {
                        LogOutput::StdErr { message } => stderr.extend_from_slice(&message),
                        other => stdout.extend_from_slice(&other.into_bytes()),
                    }
                    while let Some(length) = stdout[told_up_to..].iter().position(|b| *b == b'\n') {
                        let line = &stdout[told_up_to..told_up_to + length];
                        // Nobody need listen.
                        told.send(String::from_utf8_lossy(line).into_owned()).ok();
                        told_up_to += length + 1;
                    }
                }
                let code = docker.inspect_exec(&exec).await.map_err(Error::engine(RUN))?.exit_code;
                let [stdout, stderr] =
                    [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
                Ok(Output { code, stdout, stderr })
            });
            Ok(Running { lines, ended })
        })
        .await
    }
}

/// A command that runs in a node beside the test. It goes with the node at the latest; dropping
/// this value does not end it.
#[derive(Debug)]
pub struct Process {
    cluster: Cluster,
    node: usize,
    pid: String,
    running: Running,
}

impl Process {
    /// The next line of its stdout; `None` once that has ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no line is lost.
    pub async fn line(&mut self) -> Option<String> {
        self.running.lines.recv().await
    }

    /// Sends it a signal, by name (`"TERM"`, `"KILL"`, `"STOP"`).
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when it has ended, [`Error::Engine`] also when the node is down.
    pub async fn signal(&self, name: &str) -> Result<()> {
        // The shell's own `kill`: the image has no program of that name.
        let kill = format!("kill -{name} {}", self.pid);
        self.cluster.exec(self.node, &["sh", "-c", &kill]).await?.success(&kill).map(drop)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] when the engine fails meanwhile.
    pub async fn output(self) -> Result<Output> {
        let mut output = self.running.output().await?;
        // The first line is the shell's.
        output.stdout = output.stdout.split_once('\n').unwrap_or_default().1.to_owned();
        Ok(output)
    }
}

#[derive(Debug)]
struct Running {
    lines: mpsc::UnboundedReceiver<String>,
    ended: JoinHandle<Result<Output>>,
}

impl Running {
    async fn output(self) -> Result<Output> {
        self.ended.await.map_err(Error::engine("follow a command"))?
    }
}

const RUN: &str = "run a command";
