//! The command line.

mod admin;
mod log;
mod node;
mod run;
mod sentry;
mod wait;

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use testpod::TestpodArgs;

pub use self::{
    admin::{
        DiagnoseArgs, DumpArgs, EventsArgs, ExplainArgs, GateArgs, LogLevelArgs, PodsArgs,
        ReportArgs, SocketArgs, StatusArgs,
    },
    log::LogArgs,
    node::{CheckArgs, CompletionsArgs, NodeArgs, VersionArgs},
    run::{OnExit, RunArgs},
    sentry::SentryArgs,
    wait::{Invocation, WaitArgs},
};
use crate::{
    cluster::DaemonSetName,
    command::Output,
    core::{Choices, hold_timeout, switch},
    http::ListenAddress,
};

/// What a service manager sees, see [`crate::exit`].
const EXIT_CODES: &str = "\
Exit codes: 64 wrong usage, config file or kubeconfig, 69 something that the agent needs is not there
(cgroup2, BTF, the API server), 75 an agent runs (cleanup), 77 a capability is missing, 1 anything
else. What becomes of the gates when the agent ends is --on-exit's; each has a deadline in any case.";

/// What scripts see of the commands that ask the agent.
const ASK_EXIT_CODES: &str = "\
Exit codes: 0 done, 1 refused (the reason is told), 64 wrong usage, 66 no such pod on this node, 69 no
agent answers or it does not work gates yet, 75 too many readers (events -f), 77 not root.";

const STATUS_EXIT_CODES: &str = "\
Exit codes: 0 healthy, 1 not (the reasons are told), 64 wrong usage, 69 no agent answers, 77 not root.";

const CHECK_EXIT_CODES: &str = "\
Exit codes: 0 if nothing failed (warnings do not count), 1 if something did, 64 wrong usage.";

/// See [`crate::wait::WaitError`].
const WAIT_EXIT_CODES: &str = "\
Exit codes: the command's own; without one 0. After a timeout 69 (as pilot-agent wait: 255), for a
command that cannot be run 71, for wrong usage 64. docs/wait.md has the behaviours side by side.";

/// Holds a pod's outbound connect() in the kernel until its service-mesh proxy is ready.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node's agent.
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArgs>),
    /// Tell how the agent and its node stand, on one screen.
    #[command(after_help = STATUS_EXIT_CODES)]
    Status(StatusArgs),
    /// List the pods that holdfast has to do with: how their gates stand, and why.
    #[command(after_help = ASK_EXIT_CODES)]
    Pods(PodsArgs),
    /// Tell why a pod is held, or is not, and what it waits for.
    #[command(after_help = ASK_EXIT_CODES)]
    Explain(ExplainArgs),
    /// Tell what would become of a pod if it were enabled, and whether that would help it.
    ///
    /// One question to its proxy, and what was seen of its starts. Nothing is held by it. For a pod that
    /// is enabled explain tells more.
    #[command(after_help = ASK_EXIT_CODES)]
    Diagnose(DiagnoseArgs),
    /// List which workloads connect before their proxy is ready, and what becomes of that.
    ///
    /// Of those that are enabled, and with --observe enabled of all that have a proxy: as far as this
    /// node's agent has seen them since it was started.
    #[command(after_help = ASK_EXIT_CODES)]
    Report(ReportArgs),
    /// Tell what happens to the pods: what was lately and, with -f, what comes.
    ///
    /// An interrupt ends it with 0. A reader that is too slow loses entries, and is told how many.
    #[command(after_help = ASK_EXIT_CODES)]
    Events(EventsArgs),
    /// Open or close a pod's gate, whatever the facts say.
    ///
    /// The agent alone remembers the order: it ends with its time, with the pod, and when another agent
    /// takes over. It is logged with the user who gave it.
    #[command(after_help = ASK_EXIT_CODES)]
    Gate(GateArgs),
    /// Tell what the log says, and have it say more or less, of all or of one pod.
    #[command(after_help = ASK_EXIT_CODES)]
    LogLevel(LogLevelArgs),
    /// Write what a bug report needs into one file: what the agent, the kernel and the node say.
    ///
    /// No secrets are in it; but it has the names of pods, their processes and destinations. In a
    /// container nothing can be written to: kubectl exec ... -- /holdfast dump - > dump.tar.gz
    #[command(after_help = ASK_EXIT_CODES)]
    Dump(DumpArgs),
    /// Mind the pods that start while no agent lives: a connect to a proxy that does not listen yet
    /// waits.
    ///
    /// A small process beside the agent. It waits for the agent's end, however that comes, and then puts
    /// a program on the root of kubelet's cgroups, which the next agent takes off.
    #[command(after_help = EXIT_CODES)]
    Sentry(SentryArgs),
    /// Remove what an agent that was killed has left on this node: its gates open.
    Cleanup(CleanupArgs),
    /// Check whether an agent can work on this node, and what it would lack.
    ///
    /// Run it where the agent runs, with the agent's own options and variables: on the node as root, or
    /// in the agent's container (kubectl exec). It changes nothing, and may run beside an agent.
    #[command(after_help = CHECK_EXIT_CODES)]
    Check(CheckArgs),
    /// List the meshes and side-cars that are known.
    Profiles(ProfilesArgs),
    /// Wait for a proxy, then run a command, in place of pilot-agent wait and linkerd-await.
    ///
    /// Needs no privilege. Without an option it asks Istio's and Linkerd's proxies for 60 s, each
    /// 50 ms; with an option of one of the tools, or called by its name, it does as that one does.
    #[command(after_help = WAIT_EXIT_CODES)]
    Wait(WaitArgs),
    /// Tell which holdfast this is.
    Version(VersionArgs),
    /// Print a script that completes holdfast's commands and options in a shell.
    Completions(CompletionsArgs),
    /// Be a container of a test pod: a proxy that comes late, or a client. Needs no privilege.
    #[command(hide = true)]
    Testpod(TestpodArgs),
}

/// Options that choose what holds for all pods.
#[derive(Args, Debug)]
pub struct SettingsArgs {
    /// A file with settings for all pods and with profiles; see docs/configuration.md. The options
    /// here win over it.
    #[arg(long, env = "HOLDFAST_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Whether pods are held that nobody has labelled: enabled or disabled [default: disabled].
    #[arg(long, env = "HOLDFAST_DEFAULT_HOLD", value_name = "SWITCH", value_parser = switch)]
    pub default_hold: Option<bool>,

    /// Whether the meshes' own annotations that ask for a hold count, such as Istio's
    /// holdApplicationUntilProxyStarts: enabled or disabled [default: enabled].
    #[arg(long, env = "HOLDFAST_MESH_WISHES", value_name = "SWITCH", value_parser = switch)]
    pub mesh_wishes: Option<bool>,

    /// Whether pods with a proxy that nobody has enabled are observed: nothing of them is held, and
    /// "holdfast report" tells what would have been: enabled or disabled [default: disabled].
    #[arg(long, env = "HOLDFAST_OBSERVE", value_name = "SWITCH", value_parser = switch)]
    pub observe: Option<bool>,

    /// How long a connect is held at most; from "1s" to "1h" [default: 60s].
    #[arg(long, env = "HOLDFAST_TIMEOUT", value_name = "DURATION", value_parser = hold_timeout)]
    pub timeout: Option<Duration>,

    /// Whether an open gate stays attached, and holds again where nobody listens on the proxy's
    /// port: enabled or disabled [default: disabled].
    #[arg(long, env = "HOLDFAST_GUARD", value_name = "SWITCH", value_parser = switch)]
    pub guard: Option<bool>,
}

impl SettingsArgs {
    /// What they choose, without the file.
    #[must_use]
    pub fn choices(&self) -> Choices {
        Choices {
            hold: self.default_hold,
            mesh_wishes: self.mesh_wishes,
            observe: self.observe,
            timeout: self.timeout,
            guard: self.guard,
            ..Choices::default()
        }
    }
}

/// Options of `holdfast cleanup`.
#[derive(Args, Debug)]
pub struct CleanupArgs {
    /// The BPF file system in which the agent has pinned its programs [default: /sys/fs/bpf].
    #[arg(long, env = "HOLDFAST_BPFFS", value_name = "DIR")]
    pub bpffs: Option<PathBuf>,

    /// Wait for the end of an agent that works on this node, and keep the node clean until SIGTERM, for the pods of a
    /// DaemonSet; without it an agent that works is exit code 75.
    #[arg(long)]
    pub stay: bool,

    /// With --stay: where to serve /readyz, which is 200 while nothing is left on this node [default: not served].
    #[arg(long, env = "HOLDFAST_HEALTH_ADDRESS", value_name = "[ADDR:]PORT")]
    pub health_address: Option<ListenAddress>,

    /// Clean nothing, but wait until all pods of this DaemonSet are ready, which clean their nodes.
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "stay")]
    pub await_daemonset: Option<DaemonSetName>,

    /// With --await-daemonset: as of "holdfast run".
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Options of `holdfast profiles`.
#[derive(Args, Debug)]
pub struct ProfilesArgs {
    /// The file with further profiles.
    #[arg(long, env = "HOLDFAST_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The form of the list; as yaml it can stand below "profiles:" in the config file.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "table")]
    pub output: Output,
}

/// clap's error in one line: what is wrong, its hints, and where to read on. `command` is the first
/// of the arguments.
#[must_use]
pub fn usage_error(error: &clap::Error, command: Option<&OsStr>) -> String {
    let command = command.unwrap_or_default().to_string_lossy();
    let help = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return "no command is given; holdfast --help lists them".to_owned();
        }
        _ if Cli::command().find_subcommand(&*command).is_some() => {
            format!("holdfast {command} --help")
        }
        _ => "holdfast --help".to_owned(),
    };
    let text = error.render().to_string();
    let told = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty());
    let mut line = String::new();
    for part in told {
        let part = part.trim_start_matches("error: ");
        let (separator, part) = part.strip_prefix("tip: ").map_or((" ", part), |hint| ("; ", hint));
        if !line.is_empty() {
            line.push_str(separator);
        }
        line.push_str(part);
    }
    format!("{line}; see {help}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_choose_only_what_they_name() {
        let choices = |args: &[&str]| {
            let args = [&["holdfast", "run", "--node-name", "a"], args].concat();
            match Cli::try_parse_from(args).unwrap().command {
                Command::Run(args) => args.settings.choices(),
                _ => unreachable!("run was asked for"),
            }
        };
        // Whatever is not named is left to the config file.
        assert_eq!(choices(&[]), Choices::default());
        assert_eq!(
            choices(&[
                "--default-hold",
                "enabled",
                "--timeout",
                "2m",
                "--mesh-wishes",
                "disabled",
                "--observe",
                "enabled",
            ]),
            Choices {
                hold: Some(true),
                timeout: Some(Duration::from_secs(120)),
                mesh_wishes: Some(false),
                observe: Some(true),
                ..Choices::default()
            }
        );
    }

    #[test]
    fn usage_errors_are_one_line_that_says_what_and_where_to_read_on() {
        for (args, expected) in [
            (&[][..], "no command is given; holdfast --help lists them"),
            (&["rnu"], "unrecognized subcommand 'rnu'; see holdfast --help"),
            (
                &["run", "--node-nam", "a"],
                "unexpected argument '--node-nam' found; \
                a similar argument exists: '--node-name'; see holdfast run --help",
            ),
            (
                &["run", "--node-name", "a", "--log-format", "xml"],
                "invalid value 'xml' for \
                '--log-format <FORMAT>' [possible values: plain, json]; see holdfast run --help",
            ),
            (
                &["run", "--node-name", "a", "--timeout", "2h"],
                "invalid value '2h' for \
                '--timeout <DURATION>': it must be a duration from 1s to 1h, such as 90s or 2m; see holdfast run --help",
            ),
            (
                &["wait", "--urk", "x"],
                "unexpected argument '--urk' found; a similar argument exists: '--url'; to pass \
                '--urk' as a value, use '-- --urk'; see holdfast wait --help",
            ),
            (
                &["run", "--node-name", "a", "--default-hold", "yes"],
                "invalid value 'yes' for '--default-hold <SWITCH>': it must be enabled or \
                disabled; see holdfast run --help",
            ),
            (
                &["profiles", "-o", "xml"],
                "invalid value 'xml' for '--output <FORM>' [possible values: table, json, yaml]; \
                a similar value exists: 'yaml'; see holdfast profiles --help",
            ),
            (
                &["run", "--node-name", "a", "--health-address", "::1"],
                "invalid value '::1' for '--health-address <[ADDR:]PORT>': it must be a port, such \
                as 8686, or an address and a port, such as 127.0.0.1:8686 or [::1]:8686; see \
                holdfast run --help",
            ),
            (
                &["run", "--node-name", "a", "--page-address", "off"],
                "invalid value 'off' for '--page-address <[ADDR:]PORT>': it must be a port, such \
                as 8687, or an address and a port, such as 127.0.0.1:8687 or [::1]:8687, or none; \
                see holdfast run --help",
            ),
            (
                &["run", "--node-name", "a", "--daemonset", "holdfast"],
                "invalid value 'holdfast' for '--daemonset <NAMESPACE/NAME>': it must be NAMESPACE/NAME, \
                such as holdfast/holdfast; see holdfast run --help",
            ),
            (
                &["run", "--node-name", "a", "--on-exit", "stay"],
                "invalid value 'stay' for '--on-exit <WHAT>' [possible values: keep, detach, \
                auto]; see holdfast run --help",
            ),
            (
                &["run", "--node-name", "a,b"],
                "invalid value 'a,b' for '--node-name <NAME>': no \
                node is called so; kubectl get nodes lists the names; see holdfast run --help",
            ),
        ] {
            let command = args.first().map(OsStr::new);
            let args = std::iter::once(&"holdfast").chain(args);
            let error = Cli::try_parse_from(args).unwrap_err();
            assert_eq!(usage_error(&error, command), expected);
        }
    }
}
