//! `holdfast wait`: until a proxy is ready, then a command. For images that run `pilot-agent wait`
//! or `linkerd-await` today, on nodes without an agent as well: it needs no privilege and no BPF.
//!
//! docs/wait.md has the behaviours side by side.

mod command;
mod endpoint;

use std::{ffi::OsString, future::pending, io, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    runtime::Builder,
    time::{Instant, sleep_until, timeout_at},
};

pub use self::endpoint::{Endpoint, EndpointError};
use self::{command::Signals, endpoint::Answer};

/// `EX_UNAVAILABLE` of sysexits(3).
const UNAVAILABLE: u8 = 69;
/// `EX_OSERR` of sysexits(3).
const OS_ERROR: u8 = 71;
/// `os.Exit(-1)` in Go.
const GO_FAILURE: u8 = 255;

/// What is asked of the proxy when the command has ended: that it ends, too.
const SHUTDOWN_PATH: &str = "/shutdown";

/// For that; linkerd-await would wait for ever.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// As whose stand-in this waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Nobody's.
    Holdfast,
    /// `pilot-agent wait`'s (istio: pilot/cmd/pilot-agent/app/wait.go).
    PilotAgent,
    /// `linkerd-await`'s (linkerd/linkerd-await: src/main.rs).
    LinkerdAwait,
}

/// What to wait for, and what to do then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// As whose stand-in.
    pub tool: Tool,
    /// The first that is ready counts.
    pub endpoints: Vec<Endpoint>,
    /// How long in all; `None`: for ever.
    pub timeout: Option<Duration>,
    /// For one request; `None`: no limit of its own.
    pub request_timeout: Option<Duration>,
    /// Between the end of a request and the next.
    pub interval: Duration,
    /// Whether a timeout keeps the command from running.
    pub timeout_fatal: bool,
    /// Where to ask the proxy to end once the command has.
    pub shutdown: Option<Endpoint>,
    /// Tell on standard error what is skipped.
    pub verbose: bool,
    /// Why not to wait at all.
    pub disabled: Option<String>,
    /// What to run then.
    pub command: Vec<OsString>,
}

/// Why the command was not run, or nobody is ready.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The time is up.
    #[error("{asked} not ready within {}: {last}", humantime::format_duration(*.timeout))]
    TimedOut {
        /// As whose stand-in.
        tool: Tool,
        /// Who was asked.
        asked: String,
        /// For how long.
        timeout: Duration,
        /// The last answer.
        last: String,
    },
    /// A signal came first.
    #[error("ended by signal {0} while waiting")]
    Signalled(i32),
    /// The command cannot be run.
    #[error("failed to run {}: {source}", .command.display())]
    Command {
        /// Its name.
        command: OsString,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process lacks what it needs to wait at all.
    #[error("failed to wait: {0}")]
    Start(#[source] io::Error),
}

/// Waits, then becomes the command, if there is one. Returns the exit code otherwise: that of a
/// command that was not to replace this process, or success.
///
/// # Errors
///
/// [`WaitError`], whose exit code says which.
pub fn run(plan: &Plan) -> Result<u8, WaitError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(WaitError::Start)?;
    let done = runtime.block_on(wait_and_spawn(plan));
    // A name that is being looked up must not keep the process from going on.
    runtime.shutdown_background();
    match (done?, &plan.command[..]) {
        (Some(code), _) => Ok(code),
        (None, []) => Ok(0),
        (None, [program, arguments @ ..]) => Err(command::replace(program, arguments)),
    }
}

/// The exit code of a command that ran beside this process; `None` if none did.
async fn wait_and_spawn(plan: &Plan) -> Result<Option<u8>, WaitError> {
    if let Some(reason) = &plan.disabled {
        if plan.verbose {
            tell(&format!("readiness check skipped: {reason}"));
        }
        return Ok(None);
    }
    let mut signals = Signals::new().map_err(WaitError::Start)?;
    let waited = tokio::select! {
        biased;
        // As process 1 of a container it would not end by itself.
        signal = signals.next() => return Err(WaitError::Signalled(signal.as_raw_value())),
        waited = wait(plan) => waited,
    };
    if let Err(error) = waited {
        if plan.timeout_fatal {
            return Err(error);
        }
        tell(&format!("{error}; going on"));
    }
    let (Some(shutdown), [program, arguments @ ..]) = (&plan.shutdown, &plan.command[..]) else {
        return Ok(None);
    };
    let code = command::run(program, arguments, &mut signals).await;
    // Whatever became of the command: the pod ends only when the proxy does.
    // A pod whose proxy goes on never ends, so this is told whether or not anything else is.
    match shutdown.post(SHUTDOWN_TIMEOUT).await {
        Answer::Status(200..=299) => {}
        Answer::Status(status) => {
            tell(&format!("{shutdown} answered {status}: the proxy may go on running"));
        }
        Answer::None(error) => tell(&format!("{shutdown} not asked to end: {error}")),
    }
    code.map(Some)
}

async fn wait(plan: &Plan) -> Result<(), WaitError> {
    let started = Instant::now();
    // One that lies too far ahead never comes.
    let deadline = plan.timeout.and_then(|timeout| started.checked_add(timeout));
    let mut last = "not asked".to_owned();
    if plan.tool == Tool::PilotAgent {
        sleep_to_next(plan.interval, deadline).await;
    }
    while deadline.is_none_or(|deadline| deadline > Instant::now()) {
        // pilot-agent lets a request that has begun come to its end; linkerd-await does not.
        let cut = if plan.tool == Tool::PilotAgent { None } else { deadline };
        match until(cut, any_ready(plan)).await {
            Some(Ok(())) => return Ok(()),
            Some(Err(answer)) => last = answer,
            None => break,
        }
        sleep_to_next(plan.interval, deadline).await;
    }
    let asked = plan.endpoints.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(", ");
    let timeout = plan.timeout.unwrap_or_default();
    Err(WaitError::TimedOut { tool: plan.tool, asked, timeout, last })
}

/// Asks all at once; the last answer if none is ready.
async fn any_ready(plan: &Plan) -> Result<(), String> {
    let ask = |endpoint: &Endpoint| endpoint.clone().get(plan.request_timeout);
    let mut answers: FuturesUnordered<_> = plan.endpoints.iter().map(ask).collect();
    let mut last = String::new();
    while let Some(answer) = answers.next().await {
        last = match answer {
            Answer::Status(status) if plan.tool.is_ready(status) => return Ok(()),
            Answer::Status(status) => format!("HTTP status {status}"),
            // What another said is worth more than that nobody was there.
            Answer::None(_) if !last.is_empty() => last,
            Answer::None(error) => error,
        };
    }
    Err(last)
}

async fn until<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

async fn sleep_to_next(interval: Duration, deadline: Option<Instant>) {
    match (Instant::now().checked_add(interval), deadline) {
        (Some(next), Some(deadline)) => sleep_until(next.min(deadline)).await,
        (Some(at), None) | (None, Some(at)) => sleep_until(at).await,
        (None, None) => pending().await,
    }
}

#[expect(clippy::print_stderr, reason = "the command's log is not there yet")]
fn tell(line: &str) {
    eprintln!("holdfast: {line}");
}

// === impl Tool ===

impl Tool {
    /// The exit code of a command line that is none.
    #[must_use]
    pub const fn usage_code(self) -> u8 {
        match self {
            Self::Holdfast => 64,
            Self::PilotAgent => GO_FAILURE,
            // clap's.
            Self::LinkerdAwait => 2,
        }
    }

    fn is_ready(self, status: u16) -> bool {
        match self {
            Self::PilotAgent => status == 200,
            Self::Holdfast | Self::LinkerdAwait => (200..300).contains(&status),
        }
    }
}

// === impl WaitError ===

impl WaitError {
    /// What the tool that this stands in for would exit with.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::TimedOut { tool: Tool::PilotAgent, .. } => GO_FAILURE,
            Self::TimedOut { .. } => UNAVAILABLE,
            // As a shell tells of a process that a signal ended.
            Self::Signalled(signal) => 128_u8.saturating_add(*signal as u8),
            Self::Command { .. } | Self::Start(_) => OS_ERROR,
        }
    }
}
