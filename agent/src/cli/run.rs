//! The options of `holdfast run`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{NodeArgs, SettingsArgs, log::LogArgs};
use crate::{cluster::DaemonSetName, core::PodUid, http::ListenAddress, page::PageAddress};

/// Options of `holdfast run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// This node's name in the cluster; in a DaemonSet the downward API's spec.nodeName.
    #[arg(long, env = "NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub node_name: String,

    /// The uid of the agent's own pod, which is never held; in a DaemonSet the downward API's
    /// metadata.uid.
    #[arg(long, env = "POD_UID", value_name = "UID", value_parser = pod_uid)]
    pub pod_uid: Option<PodUid>,

    /// Kubeconfig for the API server; several with colons [default: the pod's service account].
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Work on no pod before the API server has answered, and end if it has not after this time, such
    /// as "30s" or "2m" [default: work without it until it answers, however long that takes]. Where
    /// an agent that has died has left gates, they are worked in any case.
    #[arg(long, env = "HOLDFAST_API_WAIT", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub api_wait: Option<Duration>,

    /// What holds for all pods.
    #[command(flatten)]
    pub settings: SettingsArgs,

    /// Where the node's parts are.
    #[command(flatten)]
    pub node: NodeArgs,

    /// How many held sockets can be named and replayed at a time. Further ones are held all the
    /// same; they go on with their own retransmission, up to 500 ms after the others.
    #[arg(long, env = "HOLDFAST_MAX_SOCKETS", value_name = "COUNT", default_value_t = 65_536,
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_sockets: u32,

    /// How many of these one pod may take.
    #[arg(long, env = "HOLDFAST_MAX_SOCKETS_PER_POD", value_name = "COUNT",
          default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_sockets_per_pod: u32,

    /// What becomes of the gates when the agent is told to stop. Whatever it is, each has a deadline
    /// that the kernel keeps.
    #[arg(long, env = "HOLDFAST_ON_EXIT", value_name = "WHAT", value_enum, default_value = "auto")]
    pub on_exit: OnExit,

    /// For how long pods that start after this agent has ended are minded at most, if its gates stay
    /// as they are: a connect to a proxy that does not listen yet waits. "0s": not at all.
    #[arg(long, env = "HOLDFAST_SENTRY_FOR", value_name = "DURATION", default_value = "10m",
          value_parser = sentry_time)]
    pub sentry_for: Duration,

    /// The agent's own DaemonSet, for --on-exit auto.
    #[arg(long, env = "HOLDFAST_DAEMONSET", value_name = "NAMESPACE/NAME")]
    pub daemonset: Option<DaemonSetName>,

    /// Where to serve /livez and /readyz: a port of all addresses, IPv4 and IPv6, such as 8686, or of
    /// one, such as 127.0.0.1:8686 [default: not served].
    #[arg(long, env = "HOLDFAST_HEALTH_ADDRESS", value_name = "[ADDR:]PORT")]
    pub health_address: Option<ListenAddress>,

    /// Where to serve Prometheus' metrics at /metrics: a port of all addresses, IPv4 and IPv6, such as
    /// 9464, or of one, such as 127.0.0.1:9464 [default: not served].
    #[arg(long, env = "HOLDFAST_METRICS_ADDRESS", value_name = "[ADDR:]PORT")]
    pub metrics_address: Option<ListenAddress>,

    /// Have series for each pod in the metrics, as long as the pod is there.
    #[arg(long, env = "HOLDFAST_POD_METRICS")]
    pub pod_metrics: bool,

    /// The unix socket at which the commands are answered (holdfast status and others), for root
    /// alone; where another agent answers, once that one has ended [default: /run/holdfast/admin.sock].
    #[arg(long, env = "HOLDFAST_ADMIN_SOCKET", value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,

    /// Where to serve the node page, which shows the node's pods and their starts to a browser: a
    /// port of all addresses, or one address and its port, or "none" [default: 127.0.0.1:8687].
    #[arg(long, env = "HOLDFAST_PAGE_ADDRESS", value_name = "[ADDR:]PORT")]
    pub page_address: Option<PageAddress>,

    /// Once armed, remove the taint holdfast.dev/agent-not-ready from this node.
    #[arg(long, env = "HOLDFAST_REMOVE_STARTUP_TAINT")]
    pub remove_startup_taint: bool,

    /// Its log.
    #[command(flatten)]
    pub log: LogArgs,

    /// Have the eBPF programs of all pods write debug lines, which the log shows at level debug.
    #[arg(long, env = "HOLDFAST_KERNEL_LOG")]
    pub kernel_log: bool,
}

/// What becomes of the gates when the agent is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnExit {
    /// They stay as they are: another agent takes them over.
    Keep,
    /// They open and are removed.
    Detach,
    /// They stay if the agent's DaemonSet does, or if the API server does not tell; without
    /// --daemonset they are removed.
    Auto,
}

pub(super) fn node_name(text: &str) -> Result<String, String> {
    // It becomes part of a field selector, where these have a meaning.
    if text.is_empty() {
        return Err("it is empty; kubectl get nodes lists the names".to_owned());
    }
    if text.contains([',', '=', '!', '\\']) {
        return Err("no node is called so; kubectl get nodes lists the names".to_owned());
    }
    Ok(text.to_owned())
}

/// Longer than a day nobody is without an agent and does not know.
const LONGEST_SENTRY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn sentry_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok().filter(|time| *time <= LONGEST_SENTRY);
    time.ok_or_else(|| "it must be a duration up to 24h, such as 10m, or 0s for none".to_owned())
}

pub(super) fn pod_uid(text: &str) -> Result<PodUid, std::convert::Infallible> {
    Ok(PodUid::new(text))
}
