//! Options of the commands that ask the agent.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::PossibleValuesParser};

use super::log::log_filter;
use crate::{
    admin::{DEFAULT_SOCKET, OrderWish},
    command::Output,
    core::{Line, PodName},
    reconcile::{OrderRequest, WATCH_AT_MOST},
};

/// How long a gate stays closed unless the operator says otherwise: the default of a hold.
const CLOSED_FOR: Duration = Duration::from_secs(60);

/// Where the agent answers.
#[derive(Args, Clone, Debug)]
pub struct SocketArgs {
    /// The socket at which the agent answers.
    #[arg(long, env = "HOLDFAST_ADMIN_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Options of `holdfast status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,

    /// Where no agent answers: the BPF file system in which one has left what stands now
    /// [default: /sys/fs/bpf].
    #[arg(long, env = "HOLDFAST_BPFFS", value_name = "DIR")]
    pub bpffs: Option<PathBuf>,

    /// The host's /proc.
    #[arg(long, env = "HOLDFAST_PROC_ROOT", value_name = "DIR", default_value = "/proc")]
    pub proc_root: PathBuf,

    /// The form of the answer.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "table")]
    pub output: Output,
}

/// Options of `holdfast pods`.
#[derive(Args, Debug)]
pub struct PodsArgs {
    /// Only the pods of this namespace.
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// Those, too, that are not to be held.
    #[arg(long)]
    pub all: bool,

    /// Where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,

    /// The form of the list.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "table")]
    pub output: Output,
}

/// Options of `holdfast explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The pod.
    #[arg(value_name = "NAMESPACE/POD", value_parser = pod_name)]
    pub pod: PodName,

    /// Where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,

    /// The form of the answer.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "table")]
    pub output: Output,
}

/// Options of `holdfast report`.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Only the workloads of this namespace.
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// Where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,

    /// The form of the report.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "table")]
    pub output: Output,
}

/// Options of `holdfast diagnose`.
#[derive(Args, Debug)]
pub struct DiagnoseArgs {
    /// The pod.
    #[arg(value_name = "NAMESPACE/POD", value_parser = pod_name)]
    pub pod: PodName,

    /// Observe it, and all pods of its workload, for so long, from "1s" to "24h", and tell at the end
    /// what was seen. Nothing of a pod that is observed is held.
    #[arg(long = "for", value_name = "DURATION", value_parser = watch_time)]
    pub time: Option<Duration>,

    /// Where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,

    /// The form of the answer.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "table")]
    pub output: Output,
}

/// Options of `holdfast events`.
#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Go on with those that come, until interrupted.
    #[arg(long, short)]
    pub follow: bool,

    /// Only those of this pod.
    #[arg(long, value_name = "NAMESPACE/POD", value_parser = pod_name)]
    pub pod: Option<PodName>,

    /// Only those of the pods of this namespace.
    #[arg(long, short, value_name = "NAMESPACE", value_parser = part_of_name)]
    pub namespace: Option<String>,

    /// Only those of this kind; several with commas, or by repeating the option.
    #[arg(long, value_name = "KIND", value_delimiter = ',',
          value_parser = PossibleValuesParser::new(Line::KINDS))]
    pub kind: Vec<String>,

    /// Where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,

    /// The form of each: a line, a line of JSON, or a document.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "table")]
    pub output: Output,
}

/// Options of `holdfast gate`.
#[derive(Args, Debug)]
pub struct GateArgs {
    /// What the gate is to be.
    #[arg(value_enum, value_name = "ORDER")]
    pub order: OrderWish,

    /// The pod.
    #[arg(value_name = "NAMESPACE/POD", value_parser = pod_name)]
    pub pod: PodName,

    /// For how long, from "1s" to "1h"; then the facts decide again [default: close: 60s; open: as
    /// long as the pod and this agent live].
    #[arg(long = "for", value_name = "DURATION", value_parser = limit)]
    pub limit: Option<Duration>,

    /// Where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,

    /// The form of the answer: what comes of it, or how the pod stands then.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "table")]
    pub output: Output,
}

impl GateArgs {
    /// For how long it is asked for.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        self.limit.or((self.order == OrderWish::Close).then_some(CLOSED_FOR))
    }
}

/// Options of `holdfast log-level`.
#[derive(Args, Debug)]
pub struct LogLevelArgs {
    /// The level of the log, or a filter, as of "holdfast run --log-level"; without it that is
    /// printed.
    #[arg(value_name = "FILTER", value_parser = log_filter, conflicts_with = "reset")]
    pub filter: Option<String>,

    /// Have the log take all lines about this pod down to debug, whatever the filter says; until the
    /// pod is gone.
    #[arg(long, value_name = "NAMESPACE/POD", value_parser = pod_name)]
    pub pod: Option<PodName>,

    /// With --pod: have its eBPF programs write lines, too.
    #[arg(long, requires = "pod", conflicts_with = "reset")]
    pub kernel: bool,

    /// Back to what the agent was started with; with --pod: for this pod alone.
    #[arg(long)]
    pub reset: bool,

    /// Where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,

    /// The form of the answer.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "table")]
    pub output: Output,
}

/// Options of `holdfast dump`.
#[derive(Args, Debug)]
pub struct DumpArgs {
    /// Where to write it, "-" for standard output [default: holdfast-dump-NODE-TIME.tar.gz in the
    /// working directory].
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Overwrite the file if it is there.
    #[arg(long)]
    pub force: bool,

    /// Where the agent answers.
    #[command(flatten)]
    pub socket: SocketArgs,
}

impl ValueEnum for OrderWish {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Open, Self::Close, Self::Auto]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        use clap::builder::PossibleValue;
        Some(match self {
            Self::Open => {
                PossibleValue::new("open").help("What waits goes on, and nothing is held")
            }
            Self::Close => {
                PossibleValue::new("close").help("Connects are held, for a limited time")
            }
            Self::Auto => PossibleValue::new("auto").help(
                "The facts decide again; a gate whose programs could not be worked is tried again",
            ),
        })
    }
}

/// What the API lets a pod or a namespace be called; anything else would be part of the request.
pub(super) fn part_of_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err("no namespace or pod is called so".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn pod_name(text: &str) -> Result<PodName, String> {
    let parts = text.split_once('/').map(|(namespace, name)| {
        part_of_name(namespace).and_then(|namespace| Ok((namespace, part_of_name(name)?)))
    });
    match parts {
        Some(Ok((namespace, name))) => Ok(PodName::new(&namespace, &name)),
        _ => Err("it must be NAMESPACE/POD, such as shop/cart-7d9f".to_owned()),
    }
}

fn watch_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|time| (Duration::from_secs(1)..=WATCH_AT_MOST).contains(time))
        .ok_or_else(|| "it must be a duration from 1s to 24h, such as 90s or 10m".to_owned())
}

fn limit(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|limit| OrderRequest::LIMITS.contains(limit))
        .ok_or_else(|| "it must be a duration from 1s to 1h, such as 90s or 2m".to_owned())
}
