//! The one task that owns all state. Sources send it facts; it asks the core what follows and has
//! the edges do it.

mod answer;
mod ask;
mod diagnose;
mod follow;
mod journal;
mod log;
mod notice;
mod replay;
mod sentry;
mod unwind;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::pending,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_ebpf::GateCounts;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

#[cfg(test)]
pub(crate) use self::journal::BEHIND;
pub use self::{
    ask::{
        Ask, AskError, Asker, OrderError, OrderRequest, Snapshot, WATCH_AT_MOST, WatchError,
        Workloads,
    },
    follow::{FollowError, Followed},
    journal::{EntryStream, Journal},
    replay::{ReplayCounts, ReplayOf, Replayer},
};
use self::{sentry::SentryBooks, unwind::AbortOnPanic};
use crate::{
    bpf::{BpfError, Gates, Sentry, SocketTable, take_down_sentries},
    clock,
    core::{Action, CgroupId, Event, Finding, KernelEvent, Machine, Monotonic, PodUid},
    health::{Ping, Readiness, Reason},
    netns::{Entrance, Netns},
    node::{Bundle, Bundles, CgroupEvent, container_of, oldest_process},
    readiness::{ProbeEvent, ProbeTarget, Prober},
    telemetry::{Levels, Names},
    worker::Worker,
};

/// Between two tries to tell that this agent works. A sentry that is posted meanwhile stands so much
/// longer; each costs two system calls.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What the sources send.
#[derive(Debug)]
pub enum Input {
    /// The API has something to say.
    Cluster(Event),
    /// Kubelet's cgroups have changed.
    Cgroup {
        /// How.
        event: CgroupEvent,
        /// When that was read.
        at: Monotonic,
    },
    /// All pods have been sent of which the cgroup has an id up to this one.
    CgroupsComplete(CgroupId),
    /// Somebody wants to know whether the task still works.
    Ping(Ping),
    /// Somebody wants to know how things stand, or to give an order.
    Ask(Ask),
}

/// The parts that the task works with.
#[derive(Debug)]
pub struct Parts {
    /// The decisions.
    pub machine: Machine,
    /// Tells what happens.
    pub journal: Journal,
    /// Told what has been listed.
    pub readiness: Readiness,
    /// The gates.
    pub gates: Gates,
    /// The held sockets.
    pub sockets: SocketTable,
    /// The probes.
    pub prober: Prober,
    /// What the probes find out.
    pub probed: mpsc::Receiver<ProbeEvent>,
    /// The way into the pods' network namespaces.
    pub entrance: Entrance,
    /// Reads long tables.
    pub reader: Worker,
    /// The OCI bundles.
    pub bundles: Bundles,
    /// `/proc`.
    pub proc_root: PathBuf,
    /// What minds the pods that start after this agent, if it can outlive it.
    pub sentry: Option<Sentry>,
    /// The BPF file system in which a sentry may stand, even if it cannot be opened.
    pub bpffs: Option<PathBuf>,
    /// What becomes of the replays.
    pub replays: ReplayCounts,
    /// Told what belongs to which cgroup, for the lines that the programs write.
    pub names: Names,
    /// The log's level; told which pods have gone.
    pub levels: Levels,
}

/// The task's state, besides the machine's.
struct Reconciler {
    machine: Machine,
    journal: Journal,
    readiness: Readiness,
    gates: Gates,
    prober: Prober,
    replayer: Replayer,
    bundles: Bundles,
    proc_root: PathBuf,
    names: Names,
    levels: Levels,
    sentry: Option<SentryBooks>,
    bpffs: Option<PathBuf>,
    /// When it is tried again to tell everybody that this agent works; `None`: all know it.
    tell_again_at: Option<Monotonic>,
    paths: HashMap<PodUid, PathBuf>,
    netns: HashMap<PodUid, Arc<Netns>>,
    armed_told: bool,
    /// The pod whose cgroup is being told of, and since when that is known; until its gate closes.
    found: Option<(PodUid, Monotonic)>,
}

/// Runs until cancelled or until a source is gone for good; hands back the gates, as they stand
/// then, and what went wrong.
pub async fn run(
    parts: Parts,
    mut inputs: mpsc::Receiver<Input>,
    mut reports: mpsc::Receiver<Vec<KernelEvent>>,
    stop: CancellationToken,
) -> (Gates, anyhow::Result<()>) {
    let Parts {
        machine,
        journal,
        readiness,
        gates,
        sockets,
        prober,
        mut probed,
        entrance,
        reader,
        bundles,
        proc_root,
        sentry,
        bpffs,
        replays,
        names,
        levels,
    } = parts;
    let sentry = sentry.map(SentryBooks::open).transpose().unwrap_or_else(|error| {
        tracing::warn!(%error, "pods that start while no agent lives are not held");
        None
    });
    let mut reconciler = Reconciler {
        machine,
        journal,
        readiness,
        gates,
        prober,
        replayer: Replayer::new(entrance, reader, sockets, proc_root.clone(), replays),
        bundles,
        proc_root,
        names,
        levels,
        sentry,
        bpffs,
        tell_again_at: Some(clock::now()),
        paths: HashMap::new(),
        netns: HashMap::new(),
        armed_told: false,
        found: None,
    };
    // Dropped before what is above.
    let _abort = AbortOnPanic;
    let result = loop {
        reconciler.keep_sentry();
        let wakeup = reconciler.next_wakeup();
        tokio::select! {
            // Readiness first: whoever waits, waits for this.
            biased;
            () = stop.cancelled() => break Ok(()),
            Some(event) = probed.recv() => reconciler.probed(event),
            input = inputs.recv() => match input {
                Some(input) => reconciler.input(input),
                None => break Err(anyhow::anyhow!("all sources of facts have ended")),
            },
            () = sleep_to(wakeup) => reconciler.apply(Event::Tick),
            // The kernel's reports last: a pod that makes many must not delay the others' gates.
            Some(events) = reports.recv() => {
                for event in events {
                    reconciler.kernel(event);
                }
            }
        }
    };
    stop.cancel();
    (reconciler.gates, result)
}

/// Sleeps to an instant of the kernel's clock.
async fn sleep_to(at: Option<Monotonic>) {
    /// tokio's timer rounds to milliseconds; one more makes sure that the instant has passed.
    const ROUNDING: Duration = Duration::from_millis(1);
    match at {
        Some(at) => sleep_until(Instant::now() + at.since(clock::now()) + ROUNDING).await,
        None => pending().await,
    }
}

// === impl Reconciler ===

impl Reconciler {
    fn input(&mut self, input: Input) {
        match input {
            Input::Cluster(event) => {
                let listed = match &event {
                    Event::PodsListed(_) => Some(Reason::PodsListed),
                    Event::NamespacesListed(_) => Some(Reason::NamespacesListed),
                    _ => None,
                };
                self.forget_namespaces(&event);
                self.apply(event);
                if let Some(reason) = listed {
                    self.listed(reason);
                }
            }
            Input::Cgroup { event, at } => {
                // Only of a pod that is new can be said how long it took.
                if let CgroupEvent::Pod { uid, at_start: false, .. } = &event {
                    self.found = Some((uid.clone(), at));
                }
                self.cgroup(event);
                self.found = None;
            }
            Input::CgroupsComplete(up_to) => {
                if let Some(sentry) = &mut self.sentry {
                    sentry.complete(up_to);
                }
            }
            Input::Ping(ping) => ping.answer(),
            Input::Ask(ask) => self.ask(ask),
        }
    }

    /// Before the agent is armed it does not know all of what it would speak for.
    fn keep_sentry(&mut self) {
        self.tell_presence();
        let Some(sentry) = &mut self.sentry else { return };
        let relieved = if self.armed_told { sentry.keep(self.machine.undecided()) } else { None };
        if let Some(held) = relieved.or_else(|| sentry.relieve_in_time()) {
            self.journal.counts().relieved(held);
        }
        sentry.settle();
    }

    /// When something is to be done although nothing has happened.
    fn next_wakeup(&self) -> Option<Monotonic> {
        let sentry = self.sentry.as_ref().and_then(SentryBooks::due);
        [self.machine.next_wakeup(), sentry, self.tell_again_at].into_iter().flatten().min()
    }

    /// Who posts sentries had the lock, and was stopped with it, when this agent began.
    fn tell_presence(&mut self) {
        let now = clock::now();
        if self.tell_again_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        match self.gates.begin_work_late() {
            None => {}
            Some(Ok(true)) => {
                tracing::info!("it is known now that an agent works");
                if let Some(sentry) = &mut self.sentry {
                    sentry.look_again();
                }
                if self.readiness.has_met(Reason::CgroupsListed) {
                    self.attend();
                }
            }
            Some(Ok(false) | Err(_)) => self.tell_again_at = Some(now + TELL_EVERY),
        }
    }

    /// Those that are gone have no series in the metrics.
    fn forget_namespaces(&self, event: &Event) {
        let counts = self.journal.counts();
        match event {
            Event::NamespaceDeleted(name) => counts.forget_namespace(name),
            Event::NamespacesListed(all) => {
                let names: HashSet<&str> = all.iter().map(|one| one.name.as_str()).collect();
                counts.keep_namespaces(|name| names.contains(name));
            }
            _ => {}
        }
    }

    fn cgroup(&mut self, event: CgroupEvent) {
        match event {
            CgroupEvent::Pod { uid, cgroup, path, at_start } => {
                self.paths.insert(uid.clone(), path);
                let inherited = self.gates.inherit(cgroup);
                self.apply(Event::PodCgroupFound { uid, cgroup, at_start, inherited });
            }
            CgroupEvent::PodGone(uid) => {
                if let Some(cgroup) = self.names.cgroup_of(&uid) {
                    self.hush(&uid, cgroup);
                }
                self.apply(Event::PodCgroupGone(uid.clone()));
                self.journal.forget(&uid);
                self.paths.remove(&uid);
                self.netns.remove(&uid);
            }
            CgroupEvent::Container { uid, id, cgroup } => {
                let bundle = self.bundles.find(&id).unwrap_or_else(|error| {
                    tracing::warn!(
                        pod_uid = %uid, container_id = %id, %error,
                        "OCI bundle cannot be read; waiting for the API to name the container"
                    );
                    None
                });
                // A bundle of another pod says nothing about this one's container.
                let ours = |bundle: &Bundle| bundle.pod_uid.as_ref().is_none_or(|of| *of == uid);
                let (identity, pod) = bundle
                    .filter(ours)
                    .map_or((None, None), |bundle| (Some(bundle.identity), bundle.pod));
                self.apply(Event::ContainerFound { uid, cgroup, id, identity, pod });
            }
            CgroupEvent::ContainerGone { uid, id } => {
                self.apply(Event::ContainerGone { uid, id });
            }
            CgroupEvent::Populated { uid, id, populated } => {
                self.apply(Event::ContainerPopulated { uid, id, populated });
            }
            CgroupEvent::Listed => {
                let containers: HashSet<CgroupId> = self.machine.containers().collect();
                self.gates.forget_left(|container| containers.contains(&container));
                if let Some(sentry) = &mut self.sentry {
                    sentry.listed();
                }
                self.attend();
                self.listed(Reason::CgroupsListed);
            }
        }
    }

    fn kernel(&mut self, event: KernelEvent) {
        if let Some((uid, cgroup)) = self.machine.unreported_container(&event)
            && let Some(id) = self.paths.get(&uid).and_then(|pod| container_of(pod, cgroup))
        {
            self.cgroup(CgroupEvent::Container { uid, id, cgroup });
        }
        self.apply(Event::Kernel(event));
    }

    fn probed(&mut self, event: ProbeEvent) {
        if !self.prober.is_current(&event) {
            return;
        }
        match event {
            ProbeEvent::Netns(run, netns) => {
                self.netns.insert(run.uid, netns);
            }
            ProbeEvent::HostNetwork(run) => self.apply(Event::HostNetworkSeen(run.uid)),
            ProbeEvent::Finding(run, finding) => {
                tracing::debug!(pod_uid = %run.uid, %finding, "probe found");
                self.apply(Event::ProbeFound { uid: run.uid, finding });
            }
            ProbeEvent::NotReady(run) => self.apply(Event::ProxyNotReady(run.uid)),
            ProbeEvent::Ready(run, check) => {
                let uid = run.uid;
                tracing::debug!(pod_uid = %uid, %check, "proxy is ready");
                self.apply(Event::ProbeFound {
                    uid: uid.clone(),
                    finding: Finding::Ready { check },
                });
                self.apply(Event::ProxyReady(uid));
            }
        }
    }

    fn apply(&mut self, event: Event) {
        if self.names.learn(&event) {
            self.levels.retain(|pod| self.names.knows(pod));
        }
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.machine.apply(event, clock::now()) {
                // What follows from a failure waits until the other actions are done: it undoes
                // them, too.
                events.extend(self.perform(action));
            }
        }
    }

    /// Has one action done; returns what the machine must know of it.
    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::SetGate(set) => {
                // The machine sets gates of pods with a cgroup only.
                let path = self.paths.get(&set.uid)?;
                // What an earlier opening has still to send must not pass the closed gate.
                if !set.renews {
                    self.replayer.stop(set.cgroup);
                }
                let result = self.gates.set(&set, path);
                if let Some((_, at)) = self.found.take_if(|(uid, _)| *uid == set.uid)
                    && result.is_ok()
                {
                    self.journal.counts().attached_after(clock::now().since(at));
                }
                let error = result.err()?;
                if self.gates.has(set.cgroup) {
                    tracing::warn!(
                        pod_uid = %set.uid, %error,
                        "gate cannot be renewed; it stands until its deadline, and is tried again"
                    );
                    let (error, deadline) = (error.to_string(), self.gates.deadline(set.cgroup));
                    return Some(Event::GateNotRenewed { uid: set.uid, error, deadline });
                }
                return Some(failed(set.uid, path, &error));
            }
            Action::ProveGate { uid, cgroup } => {
                let path = self.paths.get(&uid)?;
                return Some(match self.gates.prove(cgroup, path) {
                    Ok(()) => Event::GateProven(uid),
                    Err(error) => failed(uid, path, &error),
                });
            }
            Action::OpenGate { uid, cgroup, replay } => match self.gates.open(cgroup) {
                Ok(()) => {
                    if let Some(held) = replay {
                        let uid = uid.clone();
                        self.replay(ReplayOf {
                            uid,
                            cgroup,
                            container: None,
                            held,
                            proxy_is_new: true,
                        });
                    }
                    return self.count(uid, cgroup);
                }
                // The machine answers with the detaching, which opens as well.
                Err(error) => {
                    let path = self.paths.get(&uid)?;
                    return Some(failed(uid, path, &error));
                }
            },
            Action::CountGate { uid, cgroup } => return self.count(uid, cgroup),
            Action::DetachGate { uid, cgroup, containers } => {
                if let Some(counts) = self.gates.counts(cgroup) {
                    let GateCounts { held, held_queries, dropped, refused, around, .. } = counts;
                    tracing::debug!(
                        pod_uid = %uid, held, held_queries, dropped, refused, around, "gate detaches"
                    );
                }
                self.replayer.forget(cgroup);
                self.gates.detach(cgroup, &containers);
                self.netns.remove(&uid);
            }
            Action::SetVerdict { container, verdict } => {
                let uid = self.names.pod_of(container);
                let pod_uid = uid.as_ref().map(tracing::field::display);
                match self.gates.set_verdict(container, verdict) {
                    Ok(()) => tracing::debug!(
                        pod_uid,
                        container_cgroup = container.0,
                        ?verdict,
                        "container's verdict set"
                    ),
                    Err(error) => {
                        tracing::warn!(
                            pod_uid, container_cgroup = container.0, %error,
                            "container's verdict cannot be set; it is held until it can, or until the \
                             deadline"
                        );
                        return Some(Event::VerdictFailed { uid: uid?, container });
                    }
                }
            }
            Action::ForgetVerdict { container } => self.gates.forget_verdict(container),
            Action::Replay { uid, cgroup, container, held } => {
                self.replay(ReplayOf { uid, cgroup, container, held, proxy_is_new: false });
            }
            Action::StartProbe { uid, checks, ports, any_port, pace } => {
                let path = self.paths.get(&uid)?.clone();
                let proc_root = self.proc_root.clone();
                let find_process = Arc::new(move || oldest_process(&path, &proc_root));
                self.prober.start(ProbeTarget { uid, checks, ports, any_port, pace, find_process });
            }
            Action::SetPace { uid, pace } => self.prober.set_pace(&uid, pace),
            Action::StopProbe(uid) => {
                self.prober.stop(&uid);
                self.netns.remove(&uid);
            }
            Action::Log(pod, line) => self.journal.record(pod, line),
            Action::LogNamespace(namespace, problem) => log::namespace(&namespace, problem),
        }
        None
    }

    /// A pod is gone: the number of its cgroup may become another one's.
    fn hush(&mut self, uid: &PodUid, cgroup: CgroupId) {
        if let Err(error) = self.gates.reset_kernel_log(cgroup) {
            tracing::debug!(pod_uid = %uid, %error, "kernel debug lines cannot be switched off");
        }
    }

    /// What the kernel has counted; nothing if it cannot be read: the deadline stays then.
    fn count(&self, uid: PodUid, cgroup: CgroupId) -> Option<Event> {
        let counts = self.gates.counts(cgroup)?;
        Some(Event::Counted { uid, reached: counts.reached(), around: counts.around })
    }

    fn replay(&mut self, of: ReplayOf) {
        let netns = self.netns.get(&of.uid).cloned().or_else(|| self.find_netns(&of.uid));
        match netns {
            Some(netns) => self.replayer.start(of, netns),
            // Without a process there is no socket that could wait.
            None => {
                tracing::debug!(pod_uid = %of.uid, "no process to find the network namespace by");
            }
        }
    }

    fn find_netns(&self, uid: &PodUid) -> Option<Arc<Netns>> {
        let pid = oldest_process(self.paths.get(uid)?, &self.proc_root).ok()??;
        let path = self.proc_root.join(pid.to_string()).join("ns/net");
        Netns::open(&path).ok().map(Arc::new)
    }

    /// Until an agent has listed the cgroups the gates go by what they were told of its absence: one that
    /// dies before that has not worked.
    fn attend(&mut self) {
        if let Err(error) = self.gates.attend() {
            tracing::warn!(%error, "closed gates cannot be told that this agent works");
        }
    }

    /// A source has given its snapshot; the agent is armed when all have.
    fn listed(&mut self, reason: Reason) {
        self.readiness.met(reason);
        if self.readiness.is_armed() && !std::mem::replace(&mut self.armed_told, true) {
            tracing::info!(mono_ns = clock::now().0, "agent armed");
            // One that cannot be opened has no books, by which it would be relieved later.
            if self.sentry.is_none()
                && let Some(bpffs) = &self.bpffs
            {
                take_down_sentries(bpffs);
            }
        }
    }
}

/// What the machine is told of a gate that could not be worked on the cgroup at `path`.
fn failed(uid: PodUid, path: &Path, error: &BpfError) -> Event {
    // Short-lived pods go before their gate is attached.
    // Whoever cannot be asked for want of memory is not gone.
    if matches!(path.try_exists(), Ok(false)) {
        return Event::PodCgroupGone(uid);
    }
    tracing::debug!(pod_uid = %uid, %error, "gate cannot be worked");
    Event::GateFailed { uid, error: error.to_string(), may_pass: error.may_pass() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_gone_only_if_the_kernel_says_so() {
        let error = || BpfError::Cgroup {
            path: PathBuf::new(),
            source: std::io::Error::from_raw_os_error(libc::ENOMEM),
        };
        let told = |path: &str| failed(PodUid::new("a"), Path::new(path), &error());
        assert!(matches!(told("/proc/self/no-such"), Event::PodCgroupGone(_)));
        // It cannot even be looked for, as when memory is short.
        let too_long = "x".repeat(300);
        assert!(matches!(told(&too_long), Event::GateFailed { may_pass: true, .. }));
    }
}
