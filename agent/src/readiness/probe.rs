//! One task for each proxy that is being waited for.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{http, listener};
use crate::{
    clock,
    core::{Pace, PodUid, ReadyEndpoint},
    netns::{Entrance, Netns},
};

/// Between probes while nobody waits.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);

/// Between probes while a connect waits: at first this, a third of a millisecond of work each...
const HELD_INTERVAL_MIN: Duration = Duration::from_millis(5);

/// ... and never less often than this.
const HELD_INTERVAL_MAX: Duration = Duration::from_millis(50);

/// The interval grows with the wait, to this fraction of it: 5 ms up to 2 s, 50 ms from 20 s on.
const HELD_FRACTION: u32 = 400;

/// How long a pod's process must have been seen in the node's own network namespace before the pod
/// counts as one of the host network. A runtime puts a sandbox's process into its cgroup first and
/// into its namespaces after that (runc: `initProcess.start`), which takes milliseconds.
const HOST_NETWORK_AFTER: Duration = Duration::from_secs(1);

/// What to probe.
pub struct ProbeTarget {
    /// The pod.
    pub uid: PodUid,
    /// Its readiness endpoint.
    pub endpoint: ReadyEndpoint,
    /// Ports that must have a listener before a 200 counts.
    pub ports: Vec<u16>,
    /// How often.
    pub pace: Pace,
    /// Finds the process that stands for the pod, or none yet.
    pub find_process: Arc<dyn Fn() -> Option<u32> + Send + Sync>,
}

/// What a probe found out.
#[derive(Clone, Debug)]
pub enum ProbeEvent {
    /// The pod's network namespace; once, and again if the pod's sandbox is replaced.
    Netns(PodUid, Arc<Netns>),
    /// The pod lives in the node's own network namespace.
    HostNetwork(PodUid),
    /// The proxy is not ready, and nobody listens on its ports; once.
    NotReady(PodUid),
    /// The proxy is ready; the last event of a probe.
    Ready(PodUid),
}

/// Runs the probes.
#[derive(Debug)]
pub struct Prober {
    entrance: Entrance,
    proc_root: PathBuf,
    host_netns: u64,
    events: mpsc::Sender<ProbeEvent>,
    running: HashMap<PodUid, Running>,
}

#[derive(Debug)]
struct Running {
    pace: watch::Sender<Pace>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ProbeEvent {
    /// The pod it is about.
    #[must_use]
    pub const fn pod(&self) -> &PodUid {
        match self {
            Self::Netns(uid, _)
            | Self::HostNetwork(uid)
            | Self::NotReady(uid)
            | Self::Ready(uid) => uid,
        }
    }
}

// === impl Prober ===

impl Prober {
    /// `host_netns` is the inode number of the node's own network namespace.
    #[must_use]
    pub fn new(
        entrance: Entrance,
        proc_root: PathBuf,
        host_netns: u64,
        events: mpsc::Sender<ProbeEvent>,
    ) -> Self {
        Self { entrance, proc_root, host_netns, events, running: HashMap::new() }
    }

    /// Starts to probe, in place of an earlier probe of the same pod.
    pub fn start(&mut self, target: ProbeTarget) {
        let (pace, paced) = watch::channel(target.pace);
        let uid = target.uid.clone();
        let probe = Probe {
            entrance: self.entrance.clone(),
            proc_root: self.proc_root.clone(),
            host_netns: self.host_netns,
            events: self.events.clone(),
            target,
            pace: paced,
            sandbox: None,
            on_host_since: None,
            told_not_ready: false,
        };
        let task = tokio::spawn(probe.run());
        self.running.insert(uid, Running { pace, task });
    }

    /// Changes how often a pod is probed.
    pub fn set_pace(&mut self, uid: &PodUid, pace: Pace) {
        if let Some(running) = self.running.get(uid) {
            running.pace.send_replace(pace);
        }
    }

    /// Whether a pod is being probed, or has been until its probe's last event.
    #[must_use]
    pub fn is_running(&self, uid: &PodUid) -> bool {
        self.running.contains_key(uid)
    }

    /// Stops probing a pod.
    pub fn stop(&mut self, uid: &PodUid) {
        self.running.remove(uid);
    }
}

struct Probe {
    entrance: Entrance,
    proc_root: PathBuf,
    host_netns: u64,
    events: mpsc::Sender<ProbeEvent>,
    target: ProbeTarget,
    pace: watch::Receiver<Pace>,
    sandbox: Option<(u32, Arc<Netns>)>,
    on_host_since: Option<Instant>,
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
                let due = started + interval(*self.pace.borrow_and_update());
                tokio::select! {
                    () = sleep_until(due) => break,
                    // Someone has begun to wait, or nobody does any more: the interval is another.
                    news = self.pace.changed(), if !changed => changed = news.is_err(),
                }
            }
        }
    }

    /// One round; `true` if it was the last.
    async fn once(&mut self) -> Result<bool, Ended> {
        let uid = self.target.uid.clone();
        let Some((pid, netns)) = self.sandbox().await? else {
            // Without a process there is no proxy, and nobody to hold either.
            self.not_ready().await?;
            return Ok(false);
        };
        if netns.inode() == self.host_netns {
            let since = *self.on_host_since.get_or_insert_with(Instant::now);
            if since.elapsed() < HOST_NETWORK_AFTER {
                return Ok(false);
            }
            self.events.send(ProbeEvent::HostNetwork(uid)).await?;
            return Ok(true);
        }
        self.on_host_since = None;
        let answers = self.answers(&netns).await;
        // Asked also to tell "not ready yet" from "busy": a proxy that takes connections but does
        // not say it is ready must not be cut off from a pod that works.
        let listens = (answers || !self.told_not_ready) && self.listens(&netns).await;
        tracing::trace!(pod_uid = %uid, pid, answers, listens, "probed");
        if answers && listens {
            self.events.send(ProbeEvent::Ready(uid)).await?;
            return Ok(true);
        }
        if !listens {
            self.not_ready().await?;
        }
        Ok(false)
    }

    async fn not_ready(&mut self) -> Result<(), Ended> {
        if !self.told_not_ready {
            self.told_not_ready = true;
            self.events.send(ProbeEvent::NotReady(self.target.uid.clone())).await?;
        }
        Ok(())
    }

    /// The pod's process and network namespace, looked up anew if the process has gone.
    async fn sandbox(&mut self) -> Result<Option<(u32, Arc<Netns>)>, Ended> {
        let path = |pid: u32| self.proc_root.join(pid.to_string()).join("ns/net");
        if let Some((pid, netns)) = &self.sandbox
            && Netns::open(&path(*pid)).is_ok_and(|now| now.inode() == netns.inode())
        {
            return Ok(self.sandbox.clone());
        }
        self.sandbox = None;
        let Some(pid) = (self.target.find_process)() else {
            return Ok(None);
        };
        match Netns::open(&path(pid)) {
            Ok(netns) => {
                let netns = Arc::new(netns);
                self.sandbox = Some((pid, Arc::clone(&netns)));
                if netns.inode() != self.host_netns {
                    let uid = self.target.uid.clone();
                    self.events.send(ProbeEvent::Netns(uid, netns)).await?;
                }
            }
            Err(error) => {
                tracing::debug!(pod_uid = %self.target.uid, pid, %error, "no network namespace");
            }
        }
        Ok(self.sandbox.clone())
    }

    async fn answers(&self, netns: &Arc<Netns>) -> bool {
        let endpoint = self.target.endpoint;
        for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let address = SocketAddr::new(ip, endpoint.port);
            match http::is_ready(&self.entrance, netns, address, endpoint).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(pod_uid = %self.target.uid, %error, "probe failed");
                }
            }
        }
        false
    }

    /// Sockets that cannot be listed are no reason to hold any longer.
    async fn listens(&self, netns: &Arc<Netns>) -> bool {
        let ports = &self.target.ports;
        listener::all_listen(&self.entrance, netns, ports).await.unwrap_or_else(|error| {
            tracing::debug!(pod_uid = %self.target.uid, %error, "listeners cannot be listed");
            true
        })
    }
}

fn interval(pace: Pace) -> Duration {
    match pace {
        Pace::Idle => IDLE_INTERVAL,
        Pace::Held(since) => {
            (clock::now().since(since) / HELD_FRACTION).clamp(HELD_INTERVAL_MIN, HELD_INTERVAL_MAX)
        }
    }
}
