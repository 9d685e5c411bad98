//! Options about the node on which a command runs, and of the commands that only look at it.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::run::node_name;
use crate::{cluster::DaemonSetName, command::Output};

/// Where the node's parts are.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// Directory of cgroup2 below which kubelet keeps the pods [default: where it is mounted].
    #[arg(long, env = "HOLDFAST_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,

    /// The host's /proc.
    #[arg(long, env = "HOLDFAST_PROC_ROOT", value_name = "DIR", default_value = "/proc")]
    pub proc_root: PathBuf,

    /// State directory of a container runtime, below which its OCI bundles lie; several with
    /// commas, or by repeating the option.
    #[arg(long, env = "HOLDFAST_RUNTIME_ROOT", value_name = "DIR", value_delimiter = ',',
          default_values = ["/run/containerd", "/run/k3s/containerd", "/run/containers"])]
    pub runtime_root: Vec<PathBuf>,

    /// The kernel's description of its own types (BTF).
    #[arg(
        long,
        env = "HOLDFAST_BTF",
        value_name = "FILE",
        default_value = "/sys/kernel/btf/vmlinux"
    )]
    pub btf: PathBuf,

    /// A mounted BPF file system. What is pinned there outlives the agent, so that the next one goes
    /// on with its gates; and only one agent works there at a time, others stand by
    /// [default: /sys/fs/bpf; if that is none, gates open when the agent ends].
    #[arg(long, env = "HOLDFAST_BPFFS", value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
}

/// Options of `holdfast check`: the agent's own, as far as they matter here.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// This node's name in the cluster; in a DaemonSet the downward API's spec.nodeName
    /// [default: not checked].
    #[arg(long, env = "NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub node_name: Option<String>,

    /// Kubeconfig for the API server; several with colons [default: the pod's service account].
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Where the node's parts are.
    #[command(flatten)]
    pub node: NodeArgs,

    /// The agent's own DaemonSet, which it must be able to read [default: not checked].
    #[arg(long, env = "HOLDFAST_DAEMONSET", value_name = "NAMESPACE/NAME")]
    pub daemonset: Option<DaemonSetName>,

    /// Check the right to remove the start-up taint, too.
    #[arg(long, env = "HOLDFAST_REMOVE_STARTUP_TAINT")]
    pub remove_startup_taint: bool,

    /// The form of the result.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "table")]
    pub output: Output,
}

/// Options of `holdfast version`.
#[derive(Args, Debug)]
pub struct VersionArgs {
    /// The form of the answer.
    #[arg(long, short, value_name = "FORM", value_enum, default_value = "table")]
    pub output: Output,
}

/// Options of `holdfast completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// For which shell.
    #[arg(value_enum)]
    pub shell: Shell,
}
