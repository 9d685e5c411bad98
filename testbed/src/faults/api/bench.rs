//! A node whose API is in trouble, and what is measured of its agent meanwhile.

use std::{
    cell::Cell,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use procfs::process::Process as Proc;
use serde_json::Value;

use super::super::{Due, ENABLED, NAMESPACE, Run, SOON, Tally, node, start::Start};
use crate::{Agent, AgentOptions, Node, Pod, PodSpec, api::Api};

/// How long a pod's connects wait at most, unless it is another fault's matter: for longer than
/// [`HEARD_AGAIN`] and a proxy's start together, or a gate would open by itself before it is known
/// whose it is.
pub(super) const TIMEOUT: Duration = Duration::from_secs(180);

/// Until the agent has heard an API that is well again: it asks every 15 s at worst, and several lines
/// that make no sense cost a pause each.
const HEARD_AGAIN: Duration = Duration::from_secs(120);

/// What the agent may ask of the API at most, whatever the trouble: its lists, watches and Events, and
/// so many more each second. An agent without any pause makes dozens to hundreds a second.
const REQUESTS: u64 = 30;
const REQUESTS_PER_SECOND: u64 = 3;

/// Lines at level WARN or above of one trouble: one of each watch, of the Events and of the start, each
/// once a minute.
const WARNINGS: usize = 5;

/// The processor's time that the agent may take for some pods' starts, in seconds; beyond that half of one
/// processor, which no agent that waits takes and every busy loop does.
const CPU_SECONDS: f64 = 4.0;

/// What it may grow by at any time, of the 128 MiB that the chart gives it: a page of the largest objects,
/// an event of a watch, and what the allocator keeps of them.
const GROWTH_KIB: u64 = 48 * 1024;

/// The node, its agent, and what was measured of it.
pub(super) struct Bench<'a> {
    pub(super) run: &'a Run,
    pub(super) node: Node,
    serial: Cell<u32>,
}

/// What an agent has used up at an instant.
pub(super) struct Used {
    at: Instant,
    asked: u64,
    cpu: f64,
    rss_kib: u64,
    /// The most that it has had until then.
    peak_kib: u64,
    warnings: usize,
}

/// Done to a pod that the API knows, before anything of it is on the node.
pub(super) type Customise = fn(&Node, &Pod) -> Result<()>;

/// Nothing special.
pub(super) fn plain(_: &Node, _: &Pod) -> Result<()> {
    Ok(())
}

/// An agent that holds for [`TIMEOUT`].
pub(super) fn patient(options: AgentOptions) -> AgentOptions {
    options.arg(format!("--timeout={}s", TIMEOUT.as_secs()))
}

// === impl Bench ===

impl<'a> Bench<'a> {
    pub(super) fn new(run: &'a Run) -> Result<Self> {
        Ok(Self { run, node: node()?, serial: Cell::new(0) })
    }

    pub(super) fn api(&self) -> &Api {
        self.node.api()
    }

    /// Pods that start in each round.
    fn pods(&self) -> u32 {
        if self.run.full { 4 } else { 2 }
    }

    /// Rounds with these pods and the one of [`Self::in_order`].
    pub(super) fn rounds(&self) -> u32 {
        self.run.trials().div_ceil(self.pods() + 1)
    }

    /// Starts an agent, and waits until it has all lists.
    pub(super) fn armed(&self, options: &AgentOptions) -> Result<Agent> {
        let agent = self.node.start_agent(options)?;
        agent.wait_message(SOON, "agent armed")?;
        Ok(agent)
    }

    /// Pods of the enabled namespace whose applications dial at once, and wait.
    pub(super) fn begin(&self, agent: &Agent, customise: Customise) -> Result<Vec<Start>> {
        let names: Vec<String> = (0..self.pods()).map(|_| self.name()).collect();
        let node = &self.node;
        let starts = thread::scope(|scope| {
            let begin = |name| scope.spawn(move || begin(node, NAMESPACE, name, customise));
            let threads: Vec<_> = names.into_iter().map(begin).collect();
            threads.into_iter().map(joined).collect::<Result<Vec<Start>>>()
        })?;
        starts.iter().try_for_each(|start| wait_held(agent, start))?;
        Ok(starts)
    }

    /// One such pod, with this name.
    pub(super) fn begin_named(&self, agent: &Agent, name: String) -> Result<Start> {
        let start = begin(&self.node, NAMESPACE, name, plain)?;
        wait_held(agent, &start)?;
        Ok(start)
    }

    /// Their proxies start; what waits goes on.
    pub(super) fn end(&self, mut starts: Vec<Start>, tally: &mut Tally) -> Result<()> {
        starts.iter_mut().try_for_each(Start::start_proxy)?;
        for start in &starts {
            let ready_ns = Some(start.wait_ready()?);
            start.judge(tally, Due { ready_ns, timeout: TIMEOUT });
        }
        Ok(())
    }

    /// The trouble is over: what is enabled from now on is held by its name, not on suspicion.
    pub(super) fn in_order(&self, agent: &Agent, tally: &mut Tally) -> Result<()> {
        let name = self.name();
        let namespace = format!("later-{name}");
        self.api().put_namespace(&namespace, &ENABLED);
        let mut start = begin(&self.node, &namespace, name, plain)?;
        wait_held(agent, &start)?;
        agent
            .wait_log(HEARD_AGAIN, |line| {
                line["message"] == "gate closed"
                    && line["pod_uid"] == start.pod.uid()
                    && line["namespace"] == *namespace
            })
            .context("the API is well again, and the agent does not hear it")?;
        start.start_proxy()?;
        let ready_ns = Some(start.wait_ready()?);
        start.judge(tally, Due { ready_ns, timeout: TIMEOUT });
        Ok(())
    }

    fn name(&self) -> String {
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        format!("pod-{serial}")
    }

    /// What the agent has used up until now.
    pub(super) fn used(&self, agent: &Agent) -> Result<Used> {
        let process = Proc::new(i32::try_from(agent.pid())?).context("look at the agent")?;
        let stat = process.stat()?;
        let ticks = stat.utime + stat.stime;
        #[expect(clippy::cast_precision_loss, reason = "ticks of 10 ms")]
        let cpu = ticks as f64 / procfs::ticks_per_second() as f64;
        let status = process.status()?;
        Ok(Used {
            at: Instant::now(),
            asked: self.api().asked(),
            cpu,
            rss_kib: status.vmrss.context("the agent has no memory")?,
            peak_kib: status.vmhwm.context("the agent has had no memory")?,
            warnings: warnings(agent).len(),
        })
    }

    /// Whether it was little since then, and the agent lives.
    pub(super) fn check(&self, agent: &Agent, before: &Used) -> Result<()> {
        ensure!(agent.exit_status().is_none(), "the agent has ended: {:?}", agent.stderr().last());
        let now = self.used(agent)?;
        let time = now.at.duration_since(before.at).as_secs_f64();
        let (asked, cpu) = (now.asked - before.asked, now.cpu - before.cpu);
        let seconds = now.at.duration_since(before.at).as_secs();
        ensure!(
            asked <= REQUESTS + REQUESTS_PER_SECOND * seconds,
            "{asked} requests in {time:.1} s"
        );
        ensure!(cpu <= CPU_SECONDS + time / 2.0, "{cpu:.1} s of a processor in {time:.1} s");
        let grown = now.peak_kib.saturating_sub(before.rss_kib);
        ensure!(grown <= GROWTH_KIB, "the agent has grown by {grown} KiB to {} KiB", now.peak_kib);
        let told = now.warnings - before.warnings;
        let minutes = usize::try_from(seconds / 60)?;
        ensure!(
            told <= WARNINGS * (1 + minutes),
            "{told} warnings in {time:.1} s: {:#?}",
            warnings(agent)
        );
        Ok(())
    }
}

fn begin(node: &Node, namespace: &str, name: String, customise: Customise) -> Result<Start> {
    let pod = node.pod(PodSpec::new(namespace, name))?;
    pod.publish()?;
    customise(node, &pod)?;
    pod.set_up()?;
    Start::of(pod)
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| bail!("the thread that makes a pod has panicked"))
}

/// The connect is held: otherwise the trial tries nothing.
pub(super) fn wait_held(agent: &Agent, start: &Start) -> Result<()> {
    let uid = start.pod.uid();
    agent
        .wait_log(SOON, |line| line["message"] == "connect held" && line["pod_uid"] == uid)
        .with_context(|| format!("pod {} is held", start.pod.name()))?;
    Ok(())
}

fn warnings(agent: &Agent) -> Vec<Value> {
    let mut lines = agent.logs();
    // A pod whose deadline has come has lines of its own, which are as many as there are pods.
    lines.retain(|line| {
        (line["level"] == "WARN" || line["level"] == "ERROR") && line["pod_uid"].is_null()
    });
    lines
}
