//! A node with an agent, a pod that means harm, and its neighbours, which do not.

use std::{collections::BTreeSet, net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use procfs::process::Process as Statistics;

use super::super::{Due, NAMESPACE, Run, SOON, Tally, node, start::Start};
use crate::{Agent, Capture, Node, PROXY_PORT, Pod, PodSpec};

/// Neighbours that start at the same time.
const AT_ONCE: u32 = 4;

/// The pods' timeout: the default.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How long a neighbour waits at least before its proxy starts: it has long been held by then.
const HELD: Duration = Duration::from_millis(300);

/// By how much an attack may make the agent grow, in KiB: what it knows of one pod's connects is
/// bounded, and its log's queue.
const GROWTH_KIB: u64 = 24 * 1024;

/// Descriptors and threads that may come and go by themselves: connections to the API, of commands
/// and of probes; threads that wait for the disk.
const SLACK: usize = 64;

/// Of one CPU, on average over the attack and its end. An agent that is not optimised needs more.
const CPU_SHARE: f64 = 1.0;

/// The longest line of a log that anybody would want to read, in bytes. The longest there is has a
/// namespace, names of a pod and of a container (63, 253 and 63 characters), and a shortened value.
const MAX_LINE: usize = 4096;

/// `note` of an Event (pkg/apis/core/validation/events.go in kubernetes/kubernetes), in bytes.
const MAX_NOTE: usize = 1024;

/// Where an attack takes place.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) node: Node,
    pub(super) agent: Agent,
    before: Usage,
}

/// What a process takes.
#[derive(Clone, Copy, Debug)]
struct Usage {
    memory_kib: u64,
    descriptors: usize,
    threads: usize,
    cpu: Duration,
    at_ns: u64,
}

/// A pod that behaves.
struct Neighbour {
    start: Start,
    sniffer: Sniffer,
    ready_ns: u64,
}

/// Looks at all SYNs that reach a pod's proxy port: what is sent again in a socket's name has to be
/// that socket's own SYN, and what no socket has sent is never sent again.
#[derive(Debug)]
pub(super) struct Sniffer {
    capture: Capture,
    /// Below this a sequence number is that of a forged SYN, each of which has another one.
    forged: u32,
    seen_forged: BTreeSet<u32>,
    /// Sender, target and sequence number.
    sockets: BTreeSet<(SocketAddr, SocketAddr, u32)>,
}

// === impl Scene ===

impl Scene {
    pub(super) fn new(run: &Run) -> Result<Self> {
        let node = node()?;
        let agent = node.start_agent(&run.agent())?;
        agent.wait_message(SOON, "agent armed")?;
        let before = Usage::of(agent.pid())?;
        Ok(Self { node, agent, before })
    }

    /// The pod that means harm, with containers by these names.
    pub(super) fn tenant(&self, containers: &[&str]) -> Result<Pod> {
        self.node.create_pod(spec().containers(containers.iter().copied()))
    }

    /// While the attack goes on: neighbours start, wait, and go on with their proxies. Each is a
    /// trial. Their loopback sees the SYNs of their own socket, and no others.
    pub(super) fn neighbours(&self, run: &Run, tally: &mut Tally) -> Result<()> {
        let mut left = run.trials();
        while left > 0 {
            let now = left.min(AT_ONCE);
            let started: Vec<Result<Neighbour>> = thread::scope(|scope| {
                let all: Vec<_> = (0..now)
                    .map(|n| scope.spawn(move || self.neighbour(&format!("neighbour-{n}"))))
                    .collect();
                all.into_iter()
                    .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                    .collect()
            });
            for neighbour in started {
                let Neighbour { start, mut sniffer, ready_ns } = neighbour?;
                start.judge(tally, Due { ready_ns: Some(ready_ns), timeout: TIMEOUT });
                let sockets = sniffer.sockets()?;
                ensure!(sockets == 1, "SYNs of {sockets} sockets on a neighbour's loopback");
            }
            left -= now;
        }
        Ok(())
    }

    fn neighbour(&self, name: &str) -> Result<Neighbour> {
        let pod = self.node.create_pod(PodSpec::new(NAMESPACE, name))?;
        let sniffer = Sniffer::start(&pod, 0)?;
        let mut start = Start::of(pod)?;
        start.app.wait_connecting(SOON)?;
        thread::sleep(HELD);
        start.start_proxy()?;
        let ready_ns = start.wait_ready()?;
        Ok(Neighbour { start, sniffer, ready_ns })
    }

    /// What the agent has written about a pod.
    pub(super) fn lines_of(&self, pod: &Pod) -> usize {
        self.agent.logs().iter().filter(|line| line["pod_uid"] == pod.uid()).count()
    }

    /// What was published about a pod.
    pub(super) fn events_of(&self, pod: &Pod) -> Vec<String> {
        let events = self.node.api().events();
        let of_pod = events.iter().filter(|event| event["regarding"]["name"] == pod.name());
        of_pod.filter_map(|event| Some(event["reason"].as_str()?.to_owned())).collect()
    }

    /// Nothing that the agent has said acts on whoever reads it, and it takes as much as before:
    /// the attack is over, `pod` is gone with this.
    pub(super) fn end(self, pod: Pod) -> Result<()> {
        self.is_readable()?;
        let during = Usage::of(self.agent.pid())?;
        during.is_bounded(&self.before)?;
        drop(pod);
        let given_back = || -> Result<bool> {
            let now = Usage::of(self.agent.pid())?;
            let most = (self.before.descriptors + SLACK, self.before.threads + SLACK);
            Ok(now.descriptors <= most.0 && now.threads <= most.1)
        };
        for _ in 0..SOON.as_millis() / HELD.as_millis() {
            if given_back()? {
                return Ok(());
            }
            thread::sleep(HELD);
        }
        anyhow::bail!("{:?} before, then {:?}", self.before, Usage::of(self.agent.pid())?)
    }

    fn is_readable(&self) -> Result<()> {
        for line in self.agent.stderr() {
            ensure!(line.len() <= MAX_LINE, "a line of {} bytes: {:.200}", line.len(), line);
            ensure!(!acts(&line), "a line acts on a terminal: {line:?}");
            let is_object = serde_json::from_str(&line).is_ok_and(|line: serde_json::Value| {
                // Whoever forges a line would have it end an earlier one.
                line["level"].is_string() && line["message"].is_string()
            });
            ensure!(is_object, "not a line of the log: {line:?}");
        }
        for event in self.node.api().events() {
            let note = event["note"].as_str().context("an Event without a note")?;
            ensure!(note.len() <= MAX_NOTE && !acts(note), "an Event's note: {note:?}");
        }
        for command in [&["status"][..], &["pods"], &["events"], &["explain", "shop/tenant"]] {
            let printed = self.agent.command(command)?;
            let text = String::from_utf8(printed.stdout).context("what a command prints")?;
            let line = text.lines().find(|line| acts(line));
            ensure!(line.is_none(), "holdfast {command:?} prints {line:?}");
        }
        Ok(())
    }
}

/// The pod that means harm.
pub(super) fn spec() -> PodSpec {
    PodSpec::new(NAMESPACE, "tenant")
}

/// Whether a text does more to a terminal than fill it.
fn acts(text: &str) -> bool {
    text.chars().any(char::is_control)
}

// === impl Sniffer ===

impl Sniffer {
    pub(super) fn start(pod: &Pod, forged: u32) -> Result<Self> {
        let capture = Capture::start(&pod.netns()?)?;
        Ok(Self { capture, forged, seen_forged: BTreeSet::new(), sockets: BTreeSet::new() })
    }

    /// How many sockets' SYNs have come so far. A socket has one sequence number: that of its own
    /// SYN, or its connection would not have come about.
    pub(super) fn sockets(&mut self) -> Result<usize> {
        for syn in self.capture.syns_to(PROXY_PORT)? {
            if syn.sequence < self.forged {
                let is_new = self.seen_forged.insert(syn.sequence);
                ensure!(is_new, "a forged SYN was sent again: {syn:?}");
            } else {
                self.sockets.insert((syn.source, syn.destination, syn.sequence));
            }
        }
        let lost = self.capture.lost()?;
        ensure!(lost == 0, "{lost} SYNs were not seen");
        let senders: BTreeSet<_> = self.sockets.iter().map(|(from, to, _)| (from, to)).collect();
        let all = &self.sockets;
        ensure!(senders.len() == all.len(), "SYNs that their sockets have not sent: {all:?}");
        Ok(senders.len())
    }

    /// How many forged SYNs have come so far.
    pub(super) fn forged(&self) -> usize {
        self.seen_forged.len()
    }
}

// === impl Usage ===

impl Usage {
    fn of(pid: u32) -> Result<Self> {
        let process = Statistics::new(pid.cast_signed()).context("look at the agent")?;
        let (status, stat) = (process.status()?, process.stat()?);
        let ticks = (stat.utime + stat.stime) as f64;
        Ok(Self {
            memory_kib: status.rssanon.context("no RssAnon")?,
            descriptors: process.fd_count()?,
            threads: usize::try_from(status.threads)?,
            cpu: Duration::from_secs_f64(ticks / procfs::ticks_per_second() as f64),
            at_ns: crate::clock::monotonic_ns(),
        })
    }

    fn is_bounded(&self, before: &Self) -> Result<()> {
        let grown = self.memory_kib.saturating_sub(before.memory_kib);
        ensure!(grown <= GROWTH_KIB, "the agent has grown by {grown} KiB");
        let time = Duration::from_nanos(self.at_ns - before.at_ns);
        let share = (self.cpu - before.cpu).div_duration_f64(time);
        ensure!(
            cfg!(debug_assertions) || share <= CPU_SHARE,
            "the agent has taken {share:.2} CPUs for {time:?}"
        );
        Ok(())
    }
}
