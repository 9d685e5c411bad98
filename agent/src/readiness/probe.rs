//! One task for each proxy that is being waited for.

use std::{
    collections::{BTreeSet, HashMap},
    future::pending,
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    counts::ProbeCounts,
    interval::{Interval, Situation},
    listener,
    round::{Round, Seen},
};
use crate::{
    awaited::{Awaited, AwaitedPorts},
    clock,
    core::{Finding, Pace, PodUid, ReadyCheck},
    netns::{self, Entrance, Netns},
};

/// How long a pod's process must have been seen in the node's own network namespace before the pod
/// counts as one of the host network. A runtime puts a sandbox's process into its cgroup first and
/// into its namespaces after that (runc: `initProcess.start`), which takes milliseconds.
const HOST_NETWORK_AFTER: Duration = Duration::from_secs(1);

/// The process that stands for a pod; none: there is none yet; an error: that cannot be told.
pub type FindProcess = dyn Fn() -> io::Result<Option<u32>> + Send + Sync;

/// What to probe.
pub struct ProbeTarget {
    /// The pod.
    pub uid: PodUid,
    /// How to ask; the first that says ready counts. With kubelet's word alone there is nothing to
    /// ask, and the probe reports only where the pod lives and that nobody listens.
    pub checks: Vec<ReadyCheck>,
    /// Ports that must have a listener before it counts.
    pub ports: Vec<u16>,
    /// One of them is enough.
    pub any_port: bool,
    /// How often.
    pub pace: Pace,
    /// Finds the process that stands for the pod.
    pub find_process: Arc<FindProcess>,
}

/// One start of a pod's probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRun {
    /// The pod.
    pub uid: PodUid,
    /// Tells it from an earlier one, of which answers may still be queued.
    generation: u64,
}

/// What a probe found out.
#[derive(Clone, Debug)]
pub enum ProbeEvent {
    /// The pod's network namespace; once, and again if the pod's sandbox is replaced.
    Netns(ProbeRun, Arc<Netns>),
    /// The pod lives in the node's own network namespace; once. Nobody is asked there, but the probe
    /// goes on: the API may know better, and the pod's process may still move.
    HostNetwork(ProbeRun),
    /// What the last round came to, if that is not what the one before did; never that the proxy is
    /// ready.
    Finding(ProbeRun, Finding),
    /// The proxy is not ready, and does not listen on its ports; once.
    NotReady(ProbeRun),
    /// The proxy is ready by this check; the last event of a probe.
    Ready(ProbeRun, ReadyCheck),
}

/// Runs the probes.
#[derive(Debug)]
pub struct Prober {
    entrance: Entrance,
    proc_root: PathBuf,
    host_netns: u64,
    /// Whether the kernel tells who listens.
    listeners: bool,
    awaited_ports: Option<AwaitedPorts>,
    events: mpsc::Sender<ProbeEvent>,
    counts: ProbeCounts,
    running: HashMap<PodUid, Running>,
    /// Of the last start.
    generation: u64,
}

#[derive(Debug)]
struct Running {
    generation: u64,
    pace: watch::Sender<Pace>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ProbeEvent {
    /// The probe that found it out.
    #[must_use]
    pub const fn run(&self) -> &ProbeRun {
        match self {
            Self::Netns(run, _)
            | Self::HostNetwork(run)
            | Self::Finding(run, _)
            | Self::NotReady(run)
            | Self::Ready(run, _) => run,
        }
    }
}

// === impl Prober ===

impl Prober {
    /// `host_netns` is the inode number of the node's own network namespace; without `awaited_ports`
    /// listeners are only looked for.
    #[must_use]
    pub fn new(
        entrance: Entrance,
        proc_root: PathBuf,
        host_netns: u64,
        awaited_ports: Option<AwaitedPorts>,
        events: mpsc::Sender<ProbeEvent>,
    ) -> Self {
        let listeners = listener::is_supported();
        if !listeners {
            tracing::warn!(
                "the kernel does not tell who listens on a TCP port (CONFIG_INET_TCP_DIAG); a \
                 proxy's readiness endpoint alone counts"
            );
        }
        Self {
            entrance,
            proc_root,
            host_netns,
            listeners,
            awaited_ports,
            events,
            counts: ProbeCounts::default(),
            running: HashMap::new(),
            generation: 0,
        }
    }

    /// How the probes' rounds have ended.
    #[must_use]
    pub fn counts(&self) -> ProbeCounts {
        self.counts.clone()
    }

    /// Starts to probe, in place of an earlier probe of the same pod.
    pub fn start(&mut self, target: ProbeTarget) {
        let ProbeTarget { uid, checks, ports, any_port, pace, find_process } = target;
        self.stop(&uid);
        let (pace, paced) = watch::channel(pace);
        let round = Round { uid: uid.clone(), checks, ports, any_port, listeners: self.listeners };
        self.generation += 1;
        let generation = self.generation;
        let probe = Probe {
            run: ProbeRun { uid: uid.clone(), generation },
            round: Arc::new(round),
            find_process,
            entrance: self.entrance.clone(),
            proc_root: self.proc_root.clone(),
            host_netns: self.host_netns,
            events: self.events.clone(),
            pace: paced,
            interval: Interval::default(),
            awaited_ports: self.awaited_ports.clone(),
            counts: self.counts.clone(),
            found: None,
            sandbox: None,
            awaited: None,
            arrived: BTreeSet::new(),
            is_told: false,
            on_host_since: None,
            told_host_network: false,
            told_not_ready: false,
        };
        let task = tokio::spawn(probe.run());
        self.running.insert(uid, Running { generation, pace, task });
    }

    /// One round, now, apart from whatever probe the pod has.
    pub fn look(
        &self,
        uid: PodUid,
        checks: Vec<ReadyCheck>,
        ports: Vec<u16>,
        any_port: bool,
        pid: Option<u32>,
    ) -> impl Future<Output = Finding> + Send + use<> {
        let round = Arc::new(Round { uid, checks, ports, any_port, listeners: self.listeners });
        let (entrance, host_netns) = (self.entrance.clone(), self.host_netns);
        let path = pid.map(|pid| self.proc_root.join(pid.to_string()).join("ns/net"));
        async move {
            let Some(path) = path else { return Finding::NoProcess };
            let unreachable = |error: io::Error| Finding::Unreachable { error: error.to_string() };
            match Netns::open(&path) {
                Ok(netns) if netns.inode() == host_netns => Finding::HostNetwork,
                Ok(netns) => match round.run(&entrance, &Arc::new(netns)).await {
                    Ok(seen) => seen.finding,
                    Err(error) => unreachable(error),
                },
                Err(error) => unreachable(error),
            }
        }
    }

    /// Changes how often a pod is probed.
    pub fn set_pace(&mut self, uid: &PodUid, pace: Pace) {
        if let Some(running) = self.running.get(uid) {
            running.pace.send_replace(pace);
        }
    }

    /// Whether an event comes from its pod's present probe. What one that was stopped or replaced
    /// had still to say is about a state that has passed.
    #[must_use]
    pub fn is_current(&self, event: &ProbeEvent) -> bool {
        let ProbeRun { uid, generation } = event.run();
        self.running.get(uid).is_some_and(|running| running.generation == *generation)
    }

    /// Stops probing a pod.
    pub fn stop(&mut self, uid: &PodUid) {
        self.running.remove(uid);
    }
}

struct Probe {
    run: ProbeRun,
    round: Arc<Round>,
    find_process: Arc<FindProcess>,
    entrance: Entrance,
    proc_root: PathBuf,
    host_netns: u64,
    events: mpsc::Sender<ProbeEvent>,
    pace: watch::Receiver<Pace>,
    interval: Interval,
    awaited_ports: Option<AwaitedPorts>,
    counts: ProbeCounts,
    found: Option<Finding>,
    sandbox: Option<(u32, Arc<Netns>)>,
    /// The sandbox's ports at which somebody is to listen.
    awaited: Option<Awaited>,
    /// Those of them at which somebody has.
    arrived: BTreeSet<u16>,
    /// The kernel will tell who does.
    is_told: bool,
    on_host_since: Option<Instant>,
    told_host_network: bool,
    told_not_ready: bool,
}

/// The receiver of probe events is gone: the agent ends.
struct Ended;

impl From<mpsc::error::SendError<ProbeEvent>> for Ended {
    fn from(_: mpsc::error::SendError<ProbeEvent>) -> Self {
        Self
    }
}

// === impl Probe ===

impl Probe {
    async fn run(mut self) {
        loop {
            let started = Instant::now();
            match self.once().await {
                Ok(false) => {}
                Ok(true) | Err(Ended) => return,
            }
            let mut changed = false;
            loop {
                let due = started + self.interval();
                tokio::select! {
                    () = sleep_until(due) => {
                        self.ask();
                        break;
                    }
                    ports = arrival(self.awaited.as_ref()) => {
                        // They are asked for anew with the next round that is due.
                        self.is_told = false;
                        let known = self.arrived.len();
                        self.arrived.extend(ports);
                        if self.interval.arrived(self.arrived.len() > known, clock::now()) {
                            break;
                        }
                    }
                    // Someone has begun to wait, or nobody does any more: the interval is another.
                    news = self.pace.changed(), if !changed => changed = news.is_err(),
                }
            }
        }
    }

    /// One round; `true` if it was the last.
    async fn once(&mut self) -> Result<bool, Ended> {
        let (pid, netns) = match self.sandbox().await? {
            Ok(sandbox) => sandbox,
            Err(finding) => {
                self.on_host_since = None;
                // Without a process there is no proxy, and nobody to hold either. Who could not look
                // knows nothing: the pod may well work.
                let is_not_ready = finding == Finding::NoProcess;
                self.found(finding).await?;
                if is_not_ready {
                    self.not_ready().await?;
                }
                return Ok(false);
            }
        };
        if netns.inode() == self.host_netns {
            let since = *self.on_host_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= HOST_NETWORK_AFTER {
                self.found(Finding::HostNetwork).await?;
                if !self.told_host_network {
                    self.told_host_network = true;
                    self.events.send(ProbeEvent::HostNetwork(self.run.clone())).await?;
                }
            }
            return Ok(false);
        }
        self.on_host_since = None;
        let Seen { finding, listens } = match self.round.run(&self.entrance, &netns).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::debug!(pod_uid = %self.run.uid, pid, %error, "probe failed");
                self.found(Finding::Unreachable { error: error.to_string() }).await?;
                return Ok(false);
            }
        };
        tracing::trace!(pod_uid = %self.run.uid, pid, %finding, "probed");
        if let Finding::Ready { check } = &finding {
            self.counts.count(&finding);
            self.events.send(ProbeEvent::Ready(self.run.clone(), check.clone())).await?;
            return Ok(true);
        }
        // A proxy that takes connections but does not say it is ready must not be cut off from a pod
        // that works. Without ports there is nothing to cut off.
        let cuts_off = listens
            && (!self.round.ports.is_empty() || matches!(finding, Finding::KubeletSilent { .. }));
        self.found(finding).await?;
        if !cuts_off {
            self.not_ready().await?;
        }
        Ok(false)
    }

    /// Tells what a round came to, if the one before came to something else: a pod is probed up
    /// to a thousand times a second.
    async fn found(&mut self, finding: Finding) -> Result<(), Ended> {
        self.counts.count(&finding);
        if self.found.as_ref() != Some(&finding) {
            self.found = Some(finding.clone());
            self.events.send(ProbeEvent::Finding(self.run.clone(), finding)).await?;
        }
        Ok(())
    }

    async fn not_ready(&mut self) -> Result<(), Ended> {
        if !self.told_not_ready {
            self.told_not_ready = true;
            self.events.send(ProbeEvent::NotReady(self.run.clone())).await?;
        }
        Ok(())
    }

    /// The pod's process and network namespace, looked up anew if the process has gone.
    async fn sandbox(&mut self) -> Result<Result<(u32, Arc<Netns>), Finding>, Ended> {
        let path = |pid: u32| self.proc_root.join(pid.to_string()).join("ns/net");
        if let Some((pid, netns)) = &self.sandbox
            && Netns::open(&path(*pid)).is_ok_and(|now| now.inode() == netns.inode())
        {
            return Ok(Ok((*pid, Arc::clone(netns))));
        }
        self.sandbox = None;
        self.awaited = None;
        self.arrived.clear();
        self.is_told = false;
        let pid = match (self.find_process)() {
            Ok(Some(pid)) => pid,
            Ok(None) => return Ok(Err(Finding::NoProcess)),
            Err(error) => return Ok(Err(Finding::Unreachable { error: error.to_string() })),
        };
        let netns = match Netns::open(&path(pid)) {
            Ok(netns) => Arc::new(netns),
            // It has ended in the meantime.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                return Ok(Err(Finding::NoProcess));
            }
            Err(error) => return Ok(Err(Finding::Unreachable { error: error.to_string() })),
        };
        // The process may have ended before its namespace was opened, and another pod's have got its
        // id: nobody is asked there what this pod's annotations say.
        match (self.find_process)() {
            Ok(now) if now == Some(pid) => {}
            Ok(_) => return Ok(Err(Finding::NoProcess)),
            Err(error) => return Ok(Err(Finding::Unreachable { error: error.to_string() })),
        }
        self.sandbox = Some((pid, Arc::clone(&netns)));
        if netns.inode() != self.host_netns {
            self.wait_in(&netns).await;
            self.events.send(ProbeEvent::Netns(self.run.clone(), Arc::clone(&netns))).await?;
        }
        Ok(Ok((pid, netns)))
    }

    /// Waits for listeners there, if the kernel tells of them.
    async fn wait_in(&mut self, netns: &Arc<Netns>) {
        let Some(ports) = &self.awaited_ports else { return };
        match self.entrance.run(netns, netns::own_cookie).await {
            Ok(Some(cookie)) => {
                self.awaited = Some(ports.wait_at(cookie, self.round.awaited_ports()));
                self.ask();
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(pod_uid = %self.run.uid, %error, "listeners cannot be waited for");
            }
        }
    }

    /// Asks to be told who begins to listen. Without that it is looked for more often.
    fn ask(&mut self) {
        let asked = self.awaited.as_ref().map(Awaited::ask);
        self.is_told = matches!(asked, Some(Ok(())));
        if let Some(Err(error)) = asked {
            tracing::debug!(pod_uid = %self.run.uid, %error, "listeners are not told of");
        }
    }

    fn interval(&mut self) -> Duration {
        // A pod that stays in the host's network has nobody who could be asked.
        let can_ask = self.round.can_ask()
            && self.on_host_since.is_none_or(|since| since.elapsed() < HOST_NETWORK_AFTER);
        let nobody_listens = matches!(self.found, Some(Finding::NobodyListens { .. }));
        let situation = Situation {
            pace: *self.pace.borrow_and_update(),
            can_ask,
            is_told: self.is_told && nobody_listens,
        };
        self.interval.after(situation, clock::now())
    }
}

/// Somebody begins to listen; never where the kernel does not tell.
async fn arrival(awaited: Option<&Awaited>) -> BTreeSet<u16> {
    match awaited {
        Some(awaited) => awaited.arrived().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
