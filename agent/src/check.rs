//! `holdfast check`: whether an agent can work on this node, one line for each thing that it needs.
//!
//! It changes nothing and attaches nothing, so that it may run beside an agent. The checks do not
//! depend on each other: one that fails, or hangs, leaves the others' results as they are.

mod cluster;
mod host;
mod pods;
mod report;

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::{task::spawn_blocking, time::timeout};

pub use self::report::{Check, Report, Status};
use crate::cli::CheckArgs;

/// How long a check of the node's own may take. Loading all programs takes a tenth of a second, and
/// some seconds on a kernel that is built for debugging.
const LOCAL_LIMIT: Duration = Duration::from_secs(30);

/// Looks at one thing of the node; on a thread of its own, since what it asks may block.
type LocalCheck = fn(&CheckArgs) -> Vec<Check>;

/// In the order in which an operator would mend them.
const LOCAL: [(&str, LocalCheck); 11] = [
    (host::KERNEL, host::kernel),
    (host::BTF, host::btf),
    (host::CAPABILITIES, host::capabilities),
    (host::LOCKED_MEMORY, host::locked_memory),
    (host::PROGRAMS, host::programs),
    (host::BPFFS, host::bpffs),
    (pods::CGROUPS, pods::cgroups),
    (pods::PROCESSES, pods::processes),
    (pods::RUNTIMES, pods::runtimes),
    (host::AGENT, host::agent),
    (host::SENTRY, host::sentry),
];

/// Checks everything.
pub async fn run(args: CheckArgs) -> Report {
    let args = Arc::new(args);
    let local = LOCAL.map(|(name, check)| {
        let args = Arc::clone(&args);
        async move {
            let checked = spawn_blocking(move || check(&args));
            match timeout(LOCAL_LIMIT, checked).await {
                Ok(Ok(checks)) => checks,
                Ok(Err(panicked)) => vec![Check::failed(name, panicked, "it is a bug: report it")],
                Err(_) => {
                    let found = format!("no result within {} s", LOCAL_LIMIT.as_secs());
                    vec![Check::failed(name, found, "the node is overloaded, or its kernel hangs")]
                }
            }
        }
    });
    let (local, cluster) = tokio::join!(join_all(local), cluster::checks(&args));
    Report::new(local.into_iter().flatten().chain(cluster).collect())
}
