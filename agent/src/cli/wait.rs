//! The command line of `holdfast wait`, which is also that of the tools it stands in for.

use std::{
    borrow::Cow,
    env,
    ffi::{OsStr, OsString},
    path::Path,
    time::Duration,
};

use clap::{ArgAction, ArgGroup, Args};

use crate::wait::{Endpoint, Plan, Tool};

/// Our own: a proxy is seen as soon as it is ready, at the cost of 20 requests a second.
const INTERVAL: Duration = Duration::from_millis(50);
/// Our own, and the one `pilot-agent wait` has.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Our own, and the one `pilot-agent wait` has.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// The one `pilot-agent wait` has.
const PILOT_PERIOD: Duration = Duration::from_millis(500);

/// `TIMEOUT` of linkerd-await.
const LINKERD_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const LINKERD_BACKOFF: Duration = Duration::from_secs(1);
const LINKERD_PORT: u16 = 4191;
const LINKERD_PATH: &str = "/ready";

const ISTIO_PORT: u16 = 15021;
const ISTIO_PATH: &str = "/healthz/ready";

/// Any of them, if not empty, keeps linkerd-await from waiting.
const LINKERD_DISABLED: [&str; 2] = ["LINKERD_AWAIT_DISABLED", "LINKERD_DISABLED"];
const LINKERD_VERBOSE: &str = "LINKERD_AWAIT_VERBOSE";

/// Options of `holdfast wait`.
#[derive(Args, Debug)]
#[command(
    group(ArgGroup::new("pilot-agent").multiple(true).conflicts_with("linkerd-await")),
    group(ArgGroup::new("linkerd-await").multiple(true))
)]
pub struct WaitArgs {
    /// How long to wait at most, in seconds [default: 60].
    #[arg(
        long = "timeoutSeconds",
        value_name = "COUNT",
        group = "pilot-agent",
        help_heading = "As pilot-agent wait"
    )]
    pub timeout_seconds: Option<u32>,

    /// How long one request may take, in milliseconds; 0 for ever [default: 500].
    #[arg(
        long = "requestTimeoutMillis",
        value_name = "COUNT",
        group = "pilot-agent",
        help_heading = "As pilot-agent wait"
    )]
    pub request_timeout_millis: Option<u32>,

    /// Time before each request, in milliseconds [default: 500].
    #[arg(
        long = "periodMillis",
        value_name = "COUNT",
        group = "pilot-agent",
        help_heading = "As pilot-agent wait"
    )]
    pub period_millis: Option<u32>,

    /// What to ask [default: http://localhost:15021/healthz/ready].
    #[arg(long, value_name = "URL", group = "pilot-agent", help_heading = "As pilot-agent wait")]
    pub url: Option<Endpoint>,

    /// Port of the proxy's admin server, which is asked for /ready [default: 4191].
    #[arg(long, short, value_name = "PORT", group = "linkerd-await",
          help_heading = "As linkerd-await", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// How long to wait at most, such as "2m" [default: for ever].
    #[arg(long, short, value_name = "DURATION", group = "linkerd-await",
          help_heading = "As linkerd-await", value_parser = duration)]
    pub timeout: Option<Duration>,

    /// Time after a request that found the proxy not ready [default: 1s].
    #[arg(long, short, value_name = "DURATION", group = "linkerd-await",
          help_heading = "As linkerd-await", value_parser = duration)]
    pub backoff: Option<Duration>,

    /// Whether the command is not run after a timeout [default: true].
    #[arg(long, value_name = "BOOL", group = "linkerd-await", help_heading = "As linkerd-await",
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          action = ArgAction::Set, requires = "command")]
    pub timeout_fatal: Option<bool>,

    /// Run the command beside this process and ask the proxy to end when the command has.
    #[arg(
        long,
        short = 'S',
        group = "linkerd-await",
        help_heading = "As linkerd-await",
        requires = "command"
    )]
    pub shutdown: bool,

    /// Tell when the wait is skipped.
    #[arg(long, short, group = "linkerd-await", help_heading = "As linkerd-await")]
    pub verbose: bool,

    /// What to run when the proxy is ready, with its arguments.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Under which name this program was called, and with what.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// As `holdfast` would have been called for the same.
    pub arguments: Vec<OsString>,
    /// Whose name it was.
    pub tool: Tool,
}

// === impl Invocation ===

impl Invocation {
    /// A link to this program that is called like one of the tools behaves like it.
    #[must_use]
    pub fn new(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let mut arguments: Vec<OsString> = arguments.into_iter().collect();
        let name = arguments.first().and_then(|path| Path::new(path).file_name());
        let name = name.unwrap_or_default().to_string_lossy();
        let tool = if name.ends_with("linkerd-await") {
            Tool::LinkerdAwait
        } else if name == "pilot-agent" {
            Tool::PilotAgent
        } else {
            Tool::Holdfast
        };
        match tool {
            Tool::Holdfast => {}
            Tool::LinkerdAwait => {
                arguments.splice(..1, ["holdfast".into(), "wait".into()]);
            }
            Tool::PilotAgent if arguments.get(1).is_some_and(|word| word == "wait") => {
                arguments.splice(..1, ["holdfast".into()]);
            }
            // None of its other commands is one of ours, whatever they have in common.
            Tool::PilotAgent => {
                let word =
                    arguments.get(1).map_or_else(Cow::default, |word| word.to_string_lossy());
                let unknown = format!("pilot-agent {word}");
                arguments = vec!["holdfast".into(), unknown.trim_end().into()];
            }
        }
        Self { arguments, tool }
    }
}

// === impl WaitArgs ===

impl WaitArgs {
    /// What they ask for, from a program called like `name`. The tool whose options are given counts
    /// before the name.
    #[must_use]
    pub fn plan(self, name: Tool) -> Plan {
        match self.tool().unwrap_or(name) {
            Tool::Holdfast => Self::own_plan(self.command),
            Tool::PilotAgent => self.pilot_agent_plan(),
            Tool::LinkerdAwait => self.linkerd_await_plan(|variable| env::var_os(variable)),
        }
    }

    fn tool(&self) -> Option<Tool> {
        let Self {
            timeout_seconds,
            request_timeout_millis,
            period_millis,
            url,
            port,
            timeout,
            backoff,
            timeout_fatal,
            shutdown,
            verbose,
            command: _,
        } = self;
        let pilot_agent = timeout_seconds.or(*request_timeout_millis).or(*period_millis).is_some();
        let linkerd_await = timeout.or(*backoff).is_some() || timeout_fatal.is_some();
        if pilot_agent || url.is_some() {
            Some(Tool::PilotAgent)
        } else if linkerd_await || port.is_some() || *shutdown || *verbose {
            Some(Tool::LinkerdAwait)
        } else {
            None
        }
    }

    /// Whichever of the two that it may stand in for is there.
    fn own_plan(command: Vec<OsString>) -> Plan {
        Plan {
            tool: Tool::Holdfast,
            endpoints: vec![
                Endpoint::local(ISTIO_PORT, ISTIO_PATH),
                Endpoint::local(LINKERD_PORT, LINKERD_PATH),
            ],
            timeout: Some(TIMEOUT),
            request_timeout: Some(REQUEST_TIMEOUT),
            interval: INTERVAL,
            timeout_fatal: true,
            shutdown: None,
            verbose: false,
            disabled: None,
            command,
        }
    }

    fn pilot_agent_plan(self) -> Plan {
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let timeout =
            self.timeout_seconds.map_or(TIMEOUT, |count| Duration::from_secs(count.into()));
        let request_timeout = self.request_timeout_millis.map_or(REQUEST_TIMEOUT, millis);
        Plan {
            tool: Tool::PilotAgent,
            endpoints: vec![self.url.unwrap_or_else(|| Endpoint::local(ISTIO_PORT, ISTIO_PATH))],
            timeout: Some(timeout),
            // As with Go's http.Client.
            request_timeout: (!request_timeout.is_zero()).then_some(request_timeout),
            interval: self.period_millis.map_or(PILOT_PERIOD, millis),
            ..Self::own_plan(self.command)
        }
    }

    fn linkerd_await_plan(self, variable: impl Fn(&str) -> Option<OsString>) -> Plan {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let endpoint = Endpoint::local(self.port.unwrap_or(LINKERD_PORT), LINKERD_PATH);
        let disabled = LINKERD_DISABLED.into_iter().find_map(set);
        Plan {
            tool: Tool::LinkerdAwait,
            shutdown: self.shutdown.then(|| endpoint.for_shutdown()),
            endpoints: vec![endpoint],
            timeout: self.timeout.filter(|timeout| !timeout.is_zero()),
            request_timeout: Some(LINKERD_REQUEST_TIMEOUT),
            interval: self.backoff.unwrap_or(LINKERD_BACKOFF),
            timeout_fatal: self.timeout_fatal.unwrap_or(true),
            verbose: self.verbose || set(LINKERD_VERBOSE).is_some_and(|value| is_true(&value)),
            disabled: disabled.map(|reason| reason.to_string_lossy().into_owned()),
            command: self.command,
        }
    }
}

/// As clap reads the variable of a switch.
fn is_true(value: &OsStr) -> bool {
    let value = value.to_string_lossy().to_lowercase();
    !matches!(value.as_str(), "n" | "no" | "f" | "false" | "off" | "0")
}

/// As linkerd-await reads them: one number with its unit, or 0.
fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
