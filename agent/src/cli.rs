//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::telemetry::LogFormat;

/// Holds a pod's outbound connect() in the kernel until its service-mesh proxy is ready.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node's agent.
    Run(RunArgs),
}

/// Options of `holdfast run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// This node's name in the cluster (in a DaemonSet: the downward API's spec.nodeName).
    #[arg(long, env = "NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub node_name: String,

    /// Kubeconfig for the API server. Default: the pod's service account.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// How long to try to reach the API server at start.
    #[arg(long, env = "HOLDFAST_API_WAIT", value_name = "DURATION", default_value = "30s",
          value_parser = humantime::parse_duration)]
    pub api_wait: Duration,

    /// How long a connect is held at most (1s to 1h).
    #[arg(long, env = "HOLDFAST_TIMEOUT", value_name = "DURATION", default_value = "60s",
          value_parser = hold_timeout)]
    pub timeout: Duration,

    /// Directory of cgroup2 below which kubelet keeps the pods. Default: where cgroup2 is mounted.
    #[arg(long, env = "HOLDFAST_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,

    /// The host's /proc.
    #[arg(long, env = "HOLDFAST_PROC_ROOT", value_name = "DIR", default_value = "/proc")]
    pub proc_root: PathBuf,

    /// State directory of a container runtime, below which its OCI bundles lie; may be repeated.
    #[arg(long, env = "HOLDFAST_RUNTIME_ROOT", value_name = "DIR", value_delimiter = ',',
          default_values = ["/run/containerd", "/run/k3s/containerd", "/run/containers"])]
    pub runtime_root: Vec<PathBuf>,

    /// The kernel's BTF.
    #[arg(
        long,
        env = "HOLDFAST_BTF",
        value_name = "FILE",
        default_value = "/sys/kernel/btf/vmlinux"
    )]
    pub btf: PathBuf,

    /// A mounted BPF file system: the maps are pinned there while the agent runs, for
    /// `bpftool map dump pinned <DIR>/holdfast/v1/SOCKETS` and the like. Default: not pinned.
    #[arg(long, env = "HOLDFAST_BPFFS", value_name = "DIR")]
    pub bpffs: Option<PathBuf>,

    /// How many held sockets can be replayed and named at a time; further ones are held all the
    /// same and go on with their own retransmission.
    #[arg(long, env = "HOLDFAST_MAX_SOCKETS", value_name = "COUNT", default_value_t = 65_536,
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_sockets: u32,

    /// How many of these one pod may take.
    #[arg(long, env = "HOLDFAST_MAX_SOCKETS_PER_POD", value_name = "COUNT",
          default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_sockets_per_pod: u32,

    /// Format of the log on standard error.
    #[arg(long, env = "HOLDFAST_LOG_FORMAT", value_enum, default_value = "plain")]
    pub log_format: LogFormat,

    /// Level of the log: error, warn, info, debug, trace, or a filter such as
    /// "info,holdfast::reconcile=debug".
    #[arg(long, env = "HOLDFAST_LOG", value_name = "FILTER", default_value = "info",
          value_parser = log_filter)]
    pub log_level: String,

    /// Let the eBPF programs write a debug line for each dropped SYN.
    #[arg(long, env = "HOLDFAST_KERNEL_LOG")]
    pub kernel_log: bool,
}

/// Shortest and longest time for which a connect may be held.
const TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);

fn hold_timeout(text: &str) -> Result<Duration, String> {
    let timeout = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if TIMEOUTS.contains(&timeout) { Ok(timeout) } else { Err("not between 1s and 1h".to_owned()) }
}

fn node_name(text: &str) -> Result<String, String> {
    // It becomes part of a field selector, where these have a meaning.
    if text.is_empty() || text.contains([',', '=', '!', '\\']) {
        return Err("not the name of a node".to_owned());
    }
    Ok(text.to_owned())
}

fn log_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}
