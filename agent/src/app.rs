//! The one place that wires the agent together.

mod ending;
mod handover;

use std::{convert::identity, future::pending, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::{
    ending::{Ending, Endings},
    handover::Handover,
};
use crate::{
    admin::{self, Admin},
    bpf::{self, Arrivals, BpfError, EventReader, LoadOptions, Loaded, Meanwhile, Place, Sentry},
    cli::RunArgs,
    clock,
    cluster::{self, ClusterError, Kept, Watches},
    config,
    core::{Defaults, KernelEvent, Machine, Rules},
    exporter::{Exporter, Sources},
    health::{self, Liveness, Readiness, Reason},
    memory,
    metrics::{Counts, PodMetrics},
    netns::{Entrance, Netns},
    node::{self, Bundles, CgroupWatch},
    page,
    preflight::{self, PreflightError},
    readiness::Prober,
    reconcile::{self, Asker, EntryStream, Input, Journal, Parts, ReplayCounts},
    signals::told_to_stop,
    status::Status,
    telemetry::{KernelLines, Levels, LinesDropped, Names},
    worker::Worker,
};

/// Facts that may wait for the reconcile task. A full channel slows its sources down, which lose
/// nothing by that: the API's and the cgroups' queues are long, the kernel counts what it loses.
const INPUTS: usize = 1024;

/// Batches of the kernel's reports that may wait; more stay in the ring.
const REPORTS: usize = 4;

/// How long the API server has to answer before the agent goes on without it: enough for one that is
/// there, and no more, because pods that start meanwhile are not held.
const FIRST_TRY: Duration = Duration::from_millis(500);

/// How long it has while another agent works on this node, which goes on if this one ends.
const BEFORE_STANDING_BY: Duration = Duration::from_secs(30);

/// Runs the agent until it is told to stop. `levels` are those of its log.
///
/// # Errors
///
/// If something it needs is missing (nothing is attached then), or if a source of facts fails for
/// good.
pub async fn run(
    args: RunArgs,
    levels: Levels,
    log_lines_dropped: LinesDropped,
) -> anyhow::Result<()> {
    let config = config::load(args.settings.config.as_deref())?;
    let defaults = Defaults::default().with(config.choices).with(args.settings.choices());
    let kept = Kept::of(&config.profiles);
    let rules = Rules { defaults, profiles: config.profiles, own_pod: args.pod_uid.clone() };
    preflight::kernel(&args.node.btf)?;
    preflight::capabilities()?;
    let cgroup_root = node::cgroup_root(args.node.cgroup_root, &args.node.proc_root)?;
    let bpffs = bpf::choose_bpffs(args.node.bpffs)?;
    preflight::raise_file_limit();
    let host_netns = host_netns(&args.node.proc_root)?;
    let told = told_to_stop()?;
    let (readiness, liveness) = (Readiness::default(), Liveness::default());
    let (asker, asks) = Asker::new();
    let (entries, watches) = (EntryStream::default(), Watches::default());
    let status = Status::new(&args.node_name, readiness.clone(), asker, watches.clone());
    let pod_metrics = if args.pod_metrics { PodMetrics::On } else { PodMetrics::Off };
    let counts = Counts::new(pod_metrics);
    let exporter =
        Exporter::new(status.clone(), counts.clone(), entries.clone(), log_lines_dropped);
    if let Some(address) = args.health_address {
        let server = health::server(address, readiness.clone(), liveness.clone())?;
        tracing::info!(address = %server.address(), "health is served");
        tokio::spawn(server.run());
    }
    if let Some(address) = args.metrics_address {
        let server = exporter.server(address)?;
        tracing::info!(address = %server.address(), "metrics are served");
        tokio::spawn(server.run());
    }
    page::serve(args.page_address, status.clone())?;

    let admin = Admin::new(status.clone(), entries.clone(), levels.clone());
    admin::serve(args.admin_socket.as_deref(), admin.with(exporter.router()))?;

    let server = cluster::Server::new(args.kubeconfig.as_deref()).await?;
    if bpffs.is_none() {
        tracing::warn!(
            "no BPF file system at /sys/fs/bpf, and no --bpffs: gates open when this agent ends"
        );
    }
    let place = Place::try_take(bpffs.as_deref(), &cgroup_root)?;
    tokio::select! {
        reached = greet(&server, place.as_ref(), args.api_wait) => reached?,
        () = told.cancelled() => return Ok(()),
    }
    let client = server.client();
    let options = LoadOptions {
        kernel_log: args.kernel_log,
        max_sockets: args.max_sockets,
        max_sockets_per_pod: args.max_sockets_per_pod,
        pod: args.pod_uid,
        meanwhile: Some(Meanwhile { cgroup_root: cgroup_root.clone(), longest: args.sentry_for }),
    };
    let entrance = Entrance::start().context("failed to start the network namespace thread")?;
    let reader = Worker::start("tables").context("failed to start the thread that reads tables")?;
    // Proven before this agent may say that it stands by.
    drop(CgroupWatch::start(&cgroup_root)?);
    // It asks the kernel with programs of its own, so not before all that can be wrong without.
    bpf::warn_of_missing_parts();
    let place = match place {
        Some(place) => place,
        None => tokio::select! {
            place = stand_by(bpffs.as_deref(), &cgroup_root, &options, &readiness) => place?,
            () = told.cancelled() => return Ok(()),
        },
    };
    let watch = CgroupWatch::start(&cgroup_root)?;
    // The last that can fail: from here on gates of an earlier agent are this one's.
    let (claim, _lock) = place.into_parts();
    let names = Names::default();
    let lines = Arc::new(KernelLines::new(names.clone()));
    let Loaded { gates, sockets, events: ring, awaited } = bpf::load(&options, claim, lines)?;
    readiness.met(Reason::ProgramsLoaded);
    let (sentry, mut handover) = match bpffs.as_deref() {
        Some(bpffs) => sentry(bpffs, &cgroup_root, &rules, args.sentry_for),
        None => (None, None),
    };
    let (probe_events, probed) = mpsc::channel(INPUTS);
    let stop = CancellationToken::new();
    let endings = Endings {
        on_exit: args.on_exit,
        daemonset: args.daemonset,
        server,
        status: status.clone(),
    };
    let (events, publisher) = cluster::events(client.clone(), &args.node_name);
    let publishing = tokio::spawn(publisher.run(stop.clone()));
    if args.remove_startup_taint {
        let (client, node, readiness) = (client.clone(), args.node_name.clone(), readiness.clone());
        tokio::spawn(async move {
            readiness.armed().await;
            cluster::remove_startup_taint(client, &node).await;
        });
    }
    tokio::spawn(memory::give_back(readiness.clone()));
    let journal = Journal::new(status.epoch(), events.clone(), entries, counts);
    let replays = ReplayCounts::default();
    let proc_root = args.node.proc_root.clone();
    let (awaited_ports, arrivals) = awaited.unzip();
    let prober = Prober::new(entrance.clone(), proc_root, host_netns, awaited_ports, probe_events);
    exporter.connect(Sources {
        events,
        probes: prober.counts(),
        replays: replays.clone(),
        max_sockets: args.max_sockets,
    });
    let parts = Parts {
        journal,
        readiness,
        machine: Machine::new(rules),
        gates,
        sockets,
        prober,
        probed,
        entrance,
        reader,
        bundles: Bundles::new(args.node.runtime_root),
        proc_root: args.node.proc_root,
        sentry,
        bpffs,
        replays,
        names,
        levels,
    };

    let (inputs, inbox) = mpsc::channel(INPUTS);
    tracing::info!(
        node = args.node_name, cgroup_root = %cgroup_root.display(),
        version = env!("CARGO_PKG_VERSION"), "agent started"
    );
    let pods = cluster::watch_pods(client.clone(), &args.node_name, &watches, kept.clone())
        .map(Input::Cluster);
    let pods = tokio::spawn(forward(pods, inputs.clone()));
    let namespaces = cluster::watch_namespaces(client, &watches, kept).map(Input::Cluster);
    let namespaces = tokio::spawn(forward(namespaces, inputs.clone()));
    let pings = received(liveness.pings()).map(Input::Ping);
    tokio::spawn(forward(pings, inputs.clone()));
    tokio::spawn(forward(received(asks).map(Input::Ask), inputs.clone()));
    let cgroups = tokio::spawn(cgroups(watch, inputs));
    let (reports, reported) = mpsc::channel(REPORTS);
    let mut kernel = tokio::spawn(kernel(ring, reports, status.clone()));
    let arrivals = tokio::spawn(bring(arrivals));
    let ending = async {
        let ended = tokio::select! {
            // The gates go on being worked until it is known what is to become of them.
            () = told.cancelled() => Ok(endings.when_told().await),
            () = stop.cancelled() => Ok(endings.when_failed()),
            ended = pods => Err(ended.context("the watch of pods panicked")),
            ended = namespaces => Err(ended.context("the watch of namespaces panicked")),
            ended = arrivals => Err(ended.context("the reader of listeners panicked").flatten()),
            ended = cgroups => Err(ended.context("the cgroup watch panicked").flatten()),
            ended = &mut kernel => Err(ended.context("the reader of kernel events panicked").flatten()),
        };
        // Posted while the gates are still worked: no pod starts unheld in between.
        if ending_of(&ended, &endings) == Ending::Keep
            && let Some(handover) = &mut handover
        {
            handover.post();
        }
        stop.cancel();
        ended
    };
    let (ended, (gates, reconciled)) =
        tokio::join!(ending, reconcile::run(parts, inbox, reported, stop.clone()));
    let (ending, result) =
        (ending_of(&ended, &endings), ended.map_or_else(identity, |_| reconciled));
    // The next agent reads the ring as soon as this one has let go of its place.
    kernel.abort();
    let _: Result<_, _> = kernel.await;
    match ending {
        Ending::Keep if gates.outlive_the_agent() => {
            // The task that works gates may have relieved it in its last moment.
            if let Some(handover) = &mut handover {
                handover.post();
            }
            tracing::info!("stopping; gates stay as they are until another agent takes them over");
            gates.leave();
        }
        Ending::Keep | Ending::Detach => {
            tracing::info!("stopping; all gates open");
            if let Err(error) = gates.remove() {
                tracing::warn!(%error, "not all that is pinned could be removed");
            }
        }
    }
    // What the pods' owners should know may take a second more.
    let _: Result<(), _> = publishing.await;
    result
}

/// Asks the API server for the first time.
///
/// An agent that has something to work with never waits for it, nor ends for its sake: pods are
/// found by their cgroups, and held until their proxy is ready or their deadline has come. Ending
/// would leave them to nobody, and whoever follows would be no better off.
async fn greet(
    server: &cluster::Server,
    place: Option<&Place>,
    api_wait: Option<Duration>,
) -> Result<(), ClusterError> {
    let Some(place) = place else {
        return server.reach(api_wait.unwrap_or(BEFORE_STANDING_BY)).await;
    };
    let inherits = place.has_gates();
    if !inherits && let Some(wait) = api_wait {
        return server.reach(wait).await;
    }
    match server.reach(FIRST_TRY).await {
        // Nobody waits for this agent yet, and it could never learn whom to hold.
        Err(error @ ClusterError::Forbidden { .. }) if !inherits => Err(error),
        Err(error) => {
            tracing::warn!(%error, "working without the API server until it answers");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Waits for the agent that works on this node to end, as while a DaemonSet is rolled out, and takes
/// its place; but first makes sure that this one could go on in it.
async fn stand_by(
    bpffs: Option<&Path>,
    cgroup_root: &Path,
    options: &LoadOptions,
    readiness: &Readiness,
) -> Result<Place, BpfError> {
    bpf::prove(options)?;
    readiness.stand_by();
    tracing::info!("standing by for the agent that works on this node to end");
    let place = Place::take(bpffs, cgroup_root).await?;
    tracing::info!(mono_ns = clock::now().0, "taking over");
    Ok(place)
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

fn received<T>(mut receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    stream::poll_fn(move |context| receiver.poll_recv(context))
}

async fn forward(stream: impl Stream<Item = Input>, inputs: mpsc::Sender<Input>) {
    let mut stream = std::pin::pin!(stream);
    while let Some(input) = stream.next().await {
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

/// What becomes of the gates: who was told to stop knows, who has failed does not.
fn ending_of(ended: &Result<Ending, anyhow::Result<()>>, endings: &Endings) -> Ending {
    ended.as_ref().map_or_else(|_| endings.when_failed(), |ending| *ending)
}

/// The sentry, for who works the gates and for the agent's end. Without it only pods are at a loss
/// that start while no agent lives.
fn sentry(
    bpffs: &Path,
    cgroup_root: &Path,
    rules: &Rules,
    longest: Duration,
) -> (Option<Sentry>, Option<Handover>) {
    fn or_none<T>(opened: Result<Option<T>, BpfError>) -> Option<T> {
        opened.unwrap_or_else(|error| {
            tracing::warn!(%error, "pods that start while no agent lives are not held");
            None
        })
    }
    // Who cannot post one at the agent's end can still relieve the one that stands.
    let handover = or_none(Handover::new(bpffs, cgroup_root, rules, longest));
    (or_none(Sentry::open(bpffs)), handover)
}

async fn cgroups(mut watch: CgroupWatch, inputs: mpsc::Sender<Input>) -> anyhow::Result<()> {
    loop {
        let event = watch.next().await?;
        let input = Input::Cgroup { event, at: clock::now() };
        if inputs.send(input).await.is_err() {
            return Ok(());
        }
        // Looks into directories, for which no pod's gate has to wait.
        if let Some(up_to) = watch.newly_complete()?
            && inputs.send(Input::CgroupsComplete(up_to)).await.is_err()
        {
            return Ok(());
        }
    }
}

/// Where the kernel does not tell of listeners there is nothing to bring, for ever.
async fn bring(arrivals: Option<Arrivals>) -> anyhow::Result<()> {
    match arrivals {
        Some(arrivals) => match arrivals.bring().await? {},
        None => pending().await,
    }
}

async fn kernel(
    mut events: EventReader,
    reports: mpsc::Sender<Vec<KernelEvent>>,
    status: Status,
) -> anyhow::Result<()> {
    loop {
        let batch = events.next().await?;
        let lost = events.newly_lost();
        if lost > 0 {
            status.lost(lost);
            tracing::warn!(lost, "kernel events lost: some holds have no line in this log");
        }
        if reports.send(batch).await.is_err() {
            return Ok(());
        }
    }
}
