//! The one place that wires the agent together.

use std::path::Path;

use anyhow::Context as _;
use futures::{Stream, StreamExt as _};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::{
    bpf::{self, EventReader, LoadOptions, Loaded},
    cli::RunArgs,
    cluster, config,
    core::{Defaults, KernelEvent, Machine, Rules},
    netns::{Entrance, Netns},
    node::{self, Bundles, CgroupWatch},
    preflight::{self, PreflightError},
    readiness::Prober,
    reconcile::{self, Input, Parts},
};

/// Facts that may wait for the reconcile task. A full channel slows its sources down, which lose
/// nothing by that: the API's and the cgroups' queues are long, the kernel counts what it loses.
const INPUTS: usize = 1024;

/// Batches of the kernel's reports that may wait; more stay in the ring.
const REPORTS: usize = 4;

/// Runs the agent until it is told to stop.
///
/// # Errors
///
/// If something it needs is missing (nothing is attached then), or if a source of facts fails for
/// good (everything is detached then).
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let config = config::load(args.settings.config.as_deref())?;
    let defaults = Defaults::default().with(config.choices).with(args.settings.choices());
    let rules = Rules { defaults, profiles: config.profiles, own_pod: args.pod_uid };
    preflight::capabilities()?;
    preflight::kernel(&args.btf)?;
    let cgroup_root = match args.cgroup_root {
        Some(root) => root,
        None => node::find_cgroup2(&args.proc_root)?,
    };
    node::require_cgroup2(&cgroup_root)?;
    if let Some(bpffs) = &args.bpffs {
        bpf::require_bpffs(bpffs)?;
    }
    let host_netns = host_netns(&args.proc_root)?;
    let stop = stop_on_signal()?;

    let client = tokio::select! {
        client = cluster::connect(args.kubeconfig.as_deref(), args.api_wait) => client?,
        () = stop.cancelled() => return Ok(()),
    };
    let options = LoadOptions {
        kernel_log: args.kernel_log,
        max_sockets: args.max_sockets,
        max_sockets_per_pod: args.max_sockets_per_pod,
        bpffs: args.bpffs,
    };
    let Loaded { gates, sockets, events: ring, kernel_log, pins: _pins } = bpf::load(&options)?;
    let entrance = Entrance::start().context("failed to start the network namespace thread")?;
    let (probe_events, probed) = mpsc::channel(INPUTS);
    let (events, publisher) = cluster::events(client.clone(), &args.node_name);
    let publishing = tokio::spawn(publisher.run(stop.clone()));
    let parts = Parts {
        events,
        machine: Machine::new(rules),
        gates,
        sockets,
        prober: Prober::new(entrance.clone(), args.proc_root.clone(), host_netns, probe_events),
        probed,
        entrance,
        bundles: Bundles::new(args.runtime_root),
        proc_root: args.proc_root,
    };

    let (inputs, inbox) = mpsc::channel(INPUTS);
    let watch = CgroupWatch::start(&cgroup_root)?;
    tracing::info!(
        node = args.node_name, cgroup_root = %cgroup_root.display(),
        version = env!("CARGO_PKG_VERSION"), "agent started"
    );
    if let Some(kernel_log) = kernel_log {
        tokio::spawn(async move {
            let error = kernel_log.pump().await;
            tracing::warn!(%error, "kernel's debug lines have ended");
        });
    }
    let pods = cluster::watch_pods(client.clone(), &args.node_name).map(Input::Cluster);
    let pods = tokio::spawn(forward(pods, inputs.clone()));
    let namespaces = cluster::watch_namespaces(client).map(Input::Cluster);
    let namespaces = tokio::spawn(forward(namespaces, inputs.clone()));
    let cgroups = tokio::spawn(cgroups(watch, inputs));
    let (reports, reported) = mpsc::channel(REPORTS);
    let kernel = tokio::spawn(kernel(ring, reports));
    let reconciling = reconcile::run(parts, inbox, reported, stop.clone());
    let result = tokio::select! {
        result = reconciling => result,
        ended = pods => ended.context("the watch of pods panicked"),
        ended = namespaces => ended.context("the watch of namespaces panicked"),
        ended = cgroups => ended.context("the cgroup watch panicked")?,
        ended = kernel => ended.context("the reader of kernel events panicked")?,
    };
    stop.cancel();
    // All gates are open by now; what the pods' owners should know may take a second more.
    let _: Result<(), _> = publishing.await;
    result
}

/// The inode number of the node's own network namespace, by which a pod with the host's network is
/// known even before the API tells. Where a security module keeps the agent from looking at
/// process 1 its own namespace serves: in a pod of its own that is another one, and the API's word
/// on `hostNetwork` is then the only one.
fn host_netns(proc_root: &Path) -> Result<u64, PreflightError> {
    let netns = match Netns::open(&proc_root.join("1/ns/net")) {
        Ok(netns) => netns,
        Err(error) => {
            tracing::debug!(%error, "process 1 cannot be looked at; taking the agent's own namespace");
            let path = proc_root.join("self/ns/net");
            Netns::open(&path).map_err(|source| PreflightError::Proc { path, source })?
        }
    };
    Ok(netns.inode())
}

/// Cancelled by the first SIGTERM or SIGINT; the second ends the process at once.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to handle SIGINT")?;
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if cancel.is_cancelled() {
                std::process::abort();
            }
            tracing::info!("stopping; all gates open");
            cancel.cancel();
        }
    });
    Ok(stop)
}

async fn forward(stream: impl Stream<Item = Input>, inputs: mpsc::Sender<Input>) {
    let mut stream = std::pin::pin!(stream);
    while let Some(input) = stream.next().await {
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

async fn cgroups(mut watch: CgroupWatch, inputs: mpsc::Sender<Input>) -> anyhow::Result<()> {
    loop {
        let event = watch.next().await?;
        if inputs.send(Input::Cgroup(event)).await.is_err() {
            return Ok(());
        }
    }
}

async fn kernel(
    mut events: EventReader,
    reports: mpsc::Sender<Vec<KernelEvent>>,
) -> anyhow::Result<()> {
    loop {
        let batch = events.next().await?;
        let lost = events.newly_lost();
        if lost > 0 {
            tracing::warn!(lost, "kernel events lost: some holds have no line in this log");
        }
        if reports.send(batch).await.is_err() {
            return Ok(());
        }
    }
}
