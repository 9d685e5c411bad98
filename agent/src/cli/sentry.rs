//! The options of `holdfast sentry`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    log::LogArgs,
    run::{pod_uid, sentry_time},
};
use crate::core::PodUid;

/// Options of `holdfast sentry`: those of the agent that it stands by for.
#[derive(Args, Debug)]
pub struct SentryArgs {
    /// As of "holdfast run": for how long pods that start while no agent lives are minded at most.
    #[arg(long, env = "HOLDFAST_SENTRY_FOR", value_name = "DURATION", default_value = "10m",
          value_parser = sentry_time)]
    pub sentry_for: Duration,

    /// The uid of the sentry's own pod, as of the agent in it: told to stop, it minds that one's end and
    /// no other's; in a DaemonSet the downward API's metadata.uid.
    #[arg(long, env = "POD_UID", value_name = "UID", value_parser = pod_uid)]
    pub pod_uid: Option<PodUid>,

    /// The BPF file system of the agent [default: /sys/fs/bpf].
    #[arg(long, env = "HOLDFAST_BPFFS", value_name = "DIR")]
    pub bpffs: Option<PathBuf>,

    /// Directory of cgroup2 below which kubelet keeps the pods [default: where it is mounted].
    #[arg(long, env = "HOLDFAST_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,

    /// The host's /proc.
    #[arg(long, env = "HOLDFAST_PROC_ROOT", value_name = "DIR", default_value = "/proc")]
    pub proc_root: PathBuf,

    /// Its log.
    #[command(flatten)]
    pub log: LogArgs,
}
