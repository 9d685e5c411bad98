//! Processes of the node: started straight into their cgroup and namespace, watched until they end.

mod launch;
mod usage;

use std::{
    ffi::{OsStr, OsString},
    io::{BufRead as _, BufReader, Read},
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    process::ExitStatus,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde_json::Value;

pub(crate) use self::launch::Network;
pub use self::usage::Usage;
use crate::cgroup::Cgroup;

/// After the process has ended, how long its output may stay open: a grandchild can hold the pipe.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);
/// How long a killed process may take to be reaped before its handle stops caring.
const REAP_WITHIN: Duration = Duration::from_secs(5);
/// How many of the last output lines an error shows.
const SHOWN_LINES: usize = 15;

/// What to run in a container: the testbed's counterpart of a container spec.
#[derive(Clone, Debug)]
pub struct Command {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) user: User,
    /// What it sees as /etc/resolv.conf, unless that is the machine's own.
    pub(crate) resolv_conf: Option<PathBuf>,
}

/// The user and group a process runs as; root with root's group unless it says otherwise, as in an
/// image without `USER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id; the only group the process has.
    pub gid: u32,
}

impl Command {
    /// Runs `program`, looked up in `PATH` when it has no slash.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            user: User::default(),
            resolv_conf: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable on top of the caller's own environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs as this user and group.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = User { uid, gid };
        self
    }
}

/// Called by the thread that reaps the process, before anybody who waits for it is told.
pub(crate) type OnExit = Box<dyn FnOnce(ExitStatus) + Send>;

/// A running process. Dropping the handle kills it.
#[must_use = "dropping a process handle kills the process"]
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stdout: Vec<String>,
    stderr: Vec<String>,
    open_streams: u8,
    exit: Option<ExitStatus>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves plain vectors behind: still worth reading, and cleanup must run.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `done` gives a value; `None` after `timeout`.
    fn wait_for<T>(
        &self,
        timeout: Duration,
        mut done: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(value) = done(&mut state) {
                return Some(value);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            (state, _) =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Process {
    pub(crate) fn spawn(
        command: &Command,
        cgroup: Option<&Cgroup>,
        network: &Network<'_>,
        on_exit: OnExit,
    ) -> Result<Self> {
        let (mut child, pidfd) = launch::launch(command, cgroup, network)?;
        let pid = child.id();
        let shared = Arc::new(Shared::default());
        shared.lock().open_streams = 2;
        if let Some(stdout) = child.stdout.take() {
            read_lines(stdout, &shared, |state, line| state.stdout.push(line));
        }
        if let Some(stderr) = child.stderr.take() {
            read_lines(stderr, &shared, |state, line| state.stderr.push(line));
        }
        let reaped = Arc::clone(&shared);
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                on_exit(status);
                reaped.update(|state| state.exit = Some(status));
            }
        });
        Ok(Self { pid, pidfd, shared })
    }

    /// The process id, in the testbed's own pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal; nothing happens when the process has ended.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        // SAFETY: the descriptor is a pidfd that lives as long as `self`; no siginfo is passed.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&self) {
        self.signal(nix::sys::signal::Signal::SIGKILL);
        self.reaped(REAP_WITHIN);
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait(timeout)
    }

    /// The exit status once the process has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.shared.lock().exit
    }

    /// Waits for the end of the process and of its output.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let Some(status) = self.reaped(timeout) else {
            bail!("process {} still runs after {timeout:?}\n{}", self.pid, self.tail());
        };
        self.shared.wait_for(DRAIN_WITHIN, |state| (state.open_streams == 0).then_some(()));
        Ok(status)
    }

    fn reaped(&self, timeout: Duration) -> Option<ExitStatus> {
        self.shared.wait_for(timeout, |state| state.exit)
    }

    /// Everything on standard output so far, line by line.
    pub fn stdout(&self) -> Vec<String> {
        self.shared.lock().stdout.clone()
    }

    /// Everything on standard error so far, line by line.
    pub fn stderr(&self) -> Vec<String> {
        self.shared.lock().stderr.clone()
    }

    /// The lines of standard output that are JSON objects.
    pub fn records(&self) -> Vec<Value> {
        json_lines(&self.shared.lock().stdout)
    }

    /// The lines of standard error that are JSON objects.
    pub fn log_records(&self) -> Vec<Value> {
        json_lines(&self.shared.lock().stderr)
    }

    /// The first JSON line on standard output that `wanted` accepts, from the beginning on.
    pub fn wait_record(
        &self,
        timeout: Duration,
        wanted: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        self.wait_json(timeout, |state| &state.stdout, wanted)
    }

    /// As [`Self::wait_record`], on standard error.
    pub fn wait_log(&self, timeout: Duration, wanted: impl FnMut(&Value) -> bool) -> Result<Value> {
        self.wait_json(timeout, |state| &state.stderr, wanted)
    }

    fn wait_json(
        &self,
        timeout: Duration,
        lines: impl Fn(&State) -> &Vec<String>,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let mut read = 0;
        let mut ended_at = None;
        let found = self.shared.wait_for(timeout, |state| {
            let lines = lines(state);
            let new = json_lines(&lines[read..]);
            read = lines.len();
            if let Some(value) = new.into_iter().find(|value| wanted(value)) {
                return Some(Some(value));
            }
            // Nothing more can come once both streams are closed.
            if state.exit.is_some() && state.open_streams == 0 {
                ended_at = state.exit;
                return Some(None);
            }
            None
        });
        match found {
            Some(Some(value)) => Ok(value),
            Some(None) => bail!(
                "process {} ended ({}) without the expected line\n{}",
                self.pid,
                ended_at.map(|status| status.to_string()).unwrap_or_default(),
                self.tail()
            ),
            None => bail!(
                "process {} did not print the expected line within {timeout:?}\n{}",
                self.pid,
                self.tail()
            ),
        }
    }

    fn tail(&self) -> String {
        let state = self.shared.lock();
        let last = |name: &str, lines: &[String]| {
            let from = lines.len().saturating_sub(SHOWN_LINES);
            format!("last lines of {name}:\n  {}", lines[from..].join("\n  "))
        };
        format!("{}\n{}", last("stdout", &state.stdout), last("stderr", &state.stderr))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit_status().is_none() {
            self.kill();
        }
    }
}

fn read_lines(
    stream: impl Read + Send + 'static,
    shared: &Arc<Shared>,
    keep: impl Fn(&mut State, String) + Send + 'static,
) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        // Bytes, not text: a line that is not UTF-8 must not stop the reading and block the writer.
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            shared.update(|state| keep(state, text));
            line.clear();
        }
        shared.update(|state| state.open_streams -= 1);
    });
}

fn json_lines(lines: &[String]) -> Vec<Value> {
    lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(Value::is_object)
        .collect()
}
