//! The agent under test, run as on a real node, with its log at hand.

use std::{
    ffi::OsStr,
    path::{self, Path, PathBuf},
    process::{ExitStatus, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    node::Node,
    process::{Command, Network, Process},
};

/// Agents side by side would all want its usual port.
const PAGE_OPTION: &str = "--page-address";

/// The agent's binary: the one that was named, or the one beside the running program.
pub fn agent_binary(named: Option<PathBuf>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path,
        None => {
            std::env::current_exe().context("find the running binary")?.with_file_name("holdfast")
        }
    };
    ensure!(
        path.is_file(),
        "no agent at {}: run `cargo build -p holdfast`, or give --agent PATH",
        path.display()
    );
    // It is also run by processes that are elsewhere.
    path::absolute(&path).with_context(|| format!("find {}", path.display()))
}

/// How to start the agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The `holdfast` binary.
    pub binary: PathBuf,
    /// Further arguments after those that the node itself gives.
    pub args: Vec<String>,
    /// Further environment variables.
    pub env: Vec<(String, String)>,
    /// `--log-level`; the agent's own default without it.
    pub log_level: Option<String>,
    /// Where it answers commands; a place of its own in the node's folder without it.
    pub socket: Option<PathBuf>,
    /// A program that runs the agent's command line behind its own arguments, such as setpriv(1).
    pub wrapper: Vec<String>,
    /// On a node on which no BPF file system is mounted.
    pub without_bpffs: bool,
}

impl AgentOptions {
    /// Runs `binary` with nothing but what the node gives it.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            args: Vec::new(),
            env: Vec::new(),
            log_level: None,
            socket: None,
            wrapper: Vec::new(),
            without_bpffs: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Runs it as on a node on which no BPF file system is mounted.
    #[must_use]
    pub fn without_bpffs(mut self) -> Self {
        self.without_bpffs = true;
        // In a mount namespace of its own, so that nobody else misses it.
        let script = "umount /sys/fs/bpf; exec \"$@\"";
        self.wrapper(["unshare", "--mount", "sh", "-c", script, "sh"])
    }

    /// Has the agent answer commands there.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Has the agent run by this program, which must execute it in its own place: signals and
    /// [`Agent::pid`] mean the agent.
    #[must_use]
    pub fn wrapper(mut self, wrapper: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the agent's `--log-level`.
    #[must_use]
    pub fn log_level(mut self, level: impl Into<String>) -> Self {
        self.log_level = Some(level.into());
        self
    }
}

/// Starts the process that posts the sentry when the agent with these options has gone.
pub(crate) fn start_sentry(node: &Node, options: &AgentOptions) -> Result<Process> {
    let AgentOptions { binary, args: _, env, log_level, socket: _, wrapper, without_bpffs } =
        options;
    let mut command = wrapped(wrapper, binary)
        .args(["sentry", "--log-format", "json"])
        .arg("--cgroup-root")
        .arg(node.cgroup_root());
    if !without_bpffs {
        command = command.arg("--bpffs").arg(node.bpffs());
    }
    if let Some(level) = log_level {
        command = command.args(["--log-level", level]);
    }
    for (key, value) in env {
        command = command.env(key, value);
    }
    Process::spawn(&command, Some(&node.sentry_cgroup()?), &Network::Inherit, Box::new(|_| {}))
}

fn wrapped(wrapper: &[String], binary: &Path) -> Command {
    match wrapper.split_first() {
        Some((program, before)) => Command::new(program).args(before).arg(binary),
        None => Command::new(binary),
    }
}

/// A running agent. Dropping it kills it.
#[must_use = "dropping an agent kills it"]
#[derive(Debug)]
pub struct Agent {
    process: Process,
    binary: PathBuf,
    socket: PathBuf,
}

impl Agent {
    pub(crate) fn start(node: &Node, options: &AgentOptions) -> Result<Self> {
        // Two agents of one node do not answer at one place.
        let AgentOptions { binary, args, env, log_level, socket, wrapper, without_bpffs } = options;
        let socket = socket.clone().unwrap_or_else(|| node.next_socket());
        let mut command = wrapped(wrapper, binary)
            .args(["run", "--log-format", "json", "--node-name", node.name()])
            .arg("--kubeconfig")
            .arg(node.kubeconfig())
            .arg("--cgroup-root")
            .arg(node.cgroup_root())
            .arg("--runtime-root")
            .arg(node.runtime_root())
            .arg("--admin-socket")
            .arg(&socket);
        if !without_bpffs {
            command = command.arg("--bpffs").arg(node.bpffs());
        }
        if let Some(level) = log_level {
            command = command.args(["--log-level", level]);
        }
        if !args.iter().any(|arg| arg.starts_with(PAGE_OPTION)) {
            command = command.args([PAGE_OPTION, "none"]);
        }
        command = command.args(args);
        for (key, value) in env {
            command = command.env(key, value);
        }
        let process = Process::spawn(
            &command,
            Some(&node.agent_cgroup()?),
            &Network::Inherit,
            Box::new(|_| {}),
        )?;
        Ok(Self { process, binary: binary.clone(), socket })
    }

    /// Runs one of the commands that ask the agent, with this agent's socket, to its end.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        self.asking(args).output().context("run a command that asks the agent")
    }

    /// The pods that it knows, as `holdfast pods -o json` prints them.
    pub fn pods(&self) -> Result<Vec<Value>> {
        let printed = self.command(["pods", "-o", "json"])?;
        ensure!(printed.status.success(), "{printed:?}");
        serde_json::from_slice(&printed.stdout).context("read the agent's pods")
    }

    /// Such a command, to be run otherwise.
    pub fn asking<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> std::process::Command {
        let mut command = std::process::Command::new(&self.binary);
        command.args(args).env("HOLDFAST_ADMIN_SOCKET", &self.socket);
        command
    }

    /// Where it answers commands.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The first log line, from the agent's start on, that `wanted` accepts; waits for it.
    pub fn wait_log(&self, timeout: Duration, wanted: impl FnMut(&Value) -> bool) -> Result<Value> {
        self.process.wait_log(timeout, wanted)
    }

    /// The first log line with this message.
    pub fn wait_message(&self, timeout: Duration, message: &str) -> Result<Value> {
        self.wait_log(timeout, |line| line["message"] == message)
            .with_context(|| format!("wait for the agent's {message:?}"))
    }

    /// All log lines so far.
    pub fn logs(&self) -> Vec<Value> {
        self.process.log_records()
    }

    /// The log lines with this message.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let mut lines = self.logs();
        lines.retain(|line| line["message"] == message);
        lines
    }

    /// What it wrote to standard error, whether or not that is a log line.
    pub fn stderr(&self) -> Vec<String> {
        self.process.stderr()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its process, for signals and the like.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&self, timeout: Duration) -> Result<ExitStatus> {
        self.process.stop(timeout)
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Waits for an end that the agent itself has chosen.
    pub fn wait_exit(&self, timeout: Duration) -> Result<ExitStatus> {
        self.process.wait(timeout)
    }

    /// The exit status, once it has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.process.exit_status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_named_from_here_is_found_from_elsewhere() {
        let found = agent_binary(Some(PathBuf::from("Cargo.toml"))).unwrap();
        assert!(found.is_absolute() && found.is_file(), "{}", found.display());
    }
}
